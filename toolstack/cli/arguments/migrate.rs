//! The options of `rxl migrate`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values::{Compress, choice};
use crate::progress::ProgressMode;
use rxl_core::deadlines;
use rxl_core::level::Level;
use rxl_core::peer::{Peer, Transport};
use rxl_core::steering::{Restorer, Walker};
use rxl_precopy::policy::{DEFAULT_DOWNTIME, DEFAULT_MAX_ITERATIONS, Limits, Otherwise};

/// Arguments of `rxl migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// The domain, by name or domid (digits alone are a domid, as in xl), and the target as ssh
    /// knows it. Several domains before the target move together; for different targets give
    /// DOMAIN:HOST for each
    // One list: clap takes no HOST for the last of two that begins with a dash, even after `--`.
    #[arg(value_names = ["DOMAIN", "HOST"], required = true, num_args = 2..)]
    pub places: Vec<String>,

    /// Run this command instead of ssh, with HOST and `rxl receive` as arguments. If empty, HOST
    /// itself is the command
    #[arg(short = 's', value_name = "SSHCOMMAND")]
    pub ssh_command: Option<String>,
    /// Leave no process on the target that waits for the domain's end: nobody boots it again there
    /// when it reboots
    #[arg(short = 'e')]
    pub no_monitor: bool,
    /// Leave the domain paused on the target
    #[arg(short = 'p', long)]
    pub paused: bool,
    /// Keep the domid on the target, or fail
    #[arg(short = 'D', long)]
    pub preserve_domid: bool,
    /// Use this xl configuration file instead of the one that the domain was made with; one domain
    /// only
    #[arg(short = 'C', value_name = "CONFIG")]
    pub config: Option<PathBuf>,
    /// Send all memory again while the domain is suspended; the target's libxl logs every page that
    /// differs
    #[arg(long)]
    pub debug: bool,
    /// Accepted for compatibility with xl: a migration is live unless --non-live is given
    #[arg(long, hide = true)]
    pub live: bool,
    /// Suspend the domain first, then copy it: the only way for a PV guest on a Xen without shadow
    /// paging
    #[arg(long, conflicts_with = "live")]
    pub non_live: bool,

    /// What receives the domain: rxl, or stock xl over its own protocol, uncompressed and without
    /// checksums. auto means rxl, and suggests xl when the target has no rxl
    #[arg(long, value_parser = choice::<Peer>(), default_value = "auto")]
    pub peer: Peer,
    /// Run every check on both sides, say whether the domain would be migrated, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// What carries the data. tcp is unencrypted, and authenticated by a token only: use it on an
    /// isolated network
    #[arg(long, value_parser = choice::<Transport>(), default_value = "ssh")]
    pub transport: Transport,
    /// Number of data connections
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=16),
    )]
    pub parallel_connections: u16,
    /// With --transport tcp: the target's address, if it differs from the one that ssh uses
    #[arg(long, value_name = "ADDRESS")]
    pub data_address: Option<String>,
    /// Compression of pages; zero pages are left out with either
    #[arg(long, value_parser = choice::<Compress>(), default_value = "zstd")]
    pub compress: Compress,
    /// Compression level of zstd: higher is smaller and slower
    #[arg(
        long,
        value_name = "LEVEL",
        default_value_t = 1,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-7..=19),
    )]
    pub zstd_level: i32,
    /// Number of compression threads [default: one for each processor, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4))]
    pub compress_threads: Option<u16>,
    /// Take the other host for lost after this many seconds of silence: the target here, and the
    /// source there
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = deadlines::SILENCE.as_secs(),
        value_parser = clap::value_parser!(u64).range(
            deadlines::SHORTEST_SILENCE.as_secs()..=deadlines::LONGEST_SILENCE.as_secs()
        ),
    )]
    pub peer_timeout: u64,
    /// Suspend the domain when moving its dirty pages is expected to take no longer than this
    #[arg(long, value_name = "MS", default_value_t = DEFAULT_DOWNTIME.as_millis() as u64)]
    pub downtime_limit: u64,
    /// Most iterations over memory while the domain runs
    #[arg(
        long,
        value_name = "N",
        default_value_t = DEFAULT_MAX_ITERATIONS,
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    pub max_rounds: u32,
    /// Longest time from the start until the commit, or with --on-timeout force until the suspend
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// At the timeout: cancel the migration, or force the suspend, however long the rest then takes
    #[arg(
        long,
        value_parser = choice::<Otherwise>(),
        default_value = "cancel",
        requires = "timeout",
    )]
    pub on_timeout: Otherwise,
    /// Cancel when the domain dirties memory too fast for the downtime limit, instead of suspending
    /// it anyway
    #[arg(long)]
    pub abort_if_busy: bool,
    /// Freeze the domain's MPI job around the suspend. job (the value when none is given) freezes
    /// all ranks of the job, domain only those in the domains that move; require cancels the
    /// migration if the job cannot be frozen. Needs rxl-guest-agent in the job's domains, and
    /// /etc/rxl/cluster.toml where they are on more hosts than these two
    #[arg(
        long,
        value_parser = choice::<Level>(),
        value_name = "LEVEL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "off",
        default_missing_value = "job",
    )]
    pub mpi_quiesce: Level,
    /// What reads the domain's memory: rxl itself (PVH and HVM guests), libxc with rxl's stop
    /// policy, or libxl's stock helper with its own policy
    #[arg(long, value_parser = choice::<Walker>(), default_value = "rxl")]
    pub walker: Walker,
    /// What writes the new domain's memory: rxl itself, while libxl attaches the devices (PVH
    /// guests whose disks and networks allow it), or libxl's stock helper with libxc, before libxl
    /// attaches them
    #[arg(long, value_parser = choice::<Restorer>(), default_value = "rxl")]
    pub restorer: Restorer,

    /// Print the report as JSON on standard output, also when the migration failed after it began.
    /// Several domains give one object with a list, `migrations`, here and in the file of --report
    #[arg(long)]
    pub json: bool,
    /// Write the report as JSON to this file, also when the migration failed after it began
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// How progress is shown on standard error
    #[arg(long, value_parser = choice::<ProgressMode>(), default_value = "auto")]
    pub progress: ProgressMode,
}

impl Migrate {
    /// The limits by which the policy decides when pre-copy ends.
    pub fn limits(&self) -> Limits {
        Limits {
            downtime: Duration::from_millis(self.downtime_limit),
            max_iterations: self.max_rounds,
            timeout: self.timeout.map(Duration::from_secs),
            on_timeout: self.on_timeout,
            when_busy: if self.abort_if_busy { Otherwise::Cancel } else { Otherwise::Force },
        }
    }

    /// The longest silence of the target before it counts as lost.
    pub fn longest_silence(&self) -> Duration {
        Duration::from_secs(self.peer_timeout)
    }
}
