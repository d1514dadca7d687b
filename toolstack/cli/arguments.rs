//! The command line. Options that xl has keep xl's names; the others take virsh's or QEMU's.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use rxl_core::level::Level;
use rxl_core::peer::{Peer, Transport};
use rxl_core::steering::{Restorer, Walker};
use rxl_precopy::policy::{DEFAULT_DOWNTIME, DEFAULT_MAX_ROUNDS, Limits, Otherwise};
use rxl_report::progress::ProgressMode;

/// Live migration of Xen domains, compressed, checksummed and measured.
#[derive(Debug, Parser)]
#[command(name = "rxl", version = env!("RXL_VERSION"), arg_required_else_help = true, after_help = exit_codes())]
pub struct Cli {
    /// Log more on standard error: -v rxl's steps, -vv libxl's messages too, -vvv everything.
    /// RXL_LOG sets a tracing filter instead
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Accepted and ignored: xl passes it to its receiver to have progress lines overwritten
    #[arg(short = 't', global = true, hide = true)]
    pub carriage_return: bool,
    /// Accepted and ignored: xl passes it to its receiver to get times in its messages
    #[arg(short = 'T', global = true, hide = true)]
    pub timestamps: bool,
    /// Index, from 0, of the domain that this process moves when several move together. Its
    /// standard input is then the socket to the leading process
    #[arg(long, hide = true, value_name = "N")]
    pub gang_member: Option<usize>,
    /// Selects the operation; rxl has no default one.
    #[command(subcommand)]
    pub command: Command,
}

/// The operations of rxl, each with its arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Move one running domain, or several, to another host
    #[command(after_help = exit_codes(), override_usage = "rxl migrate [OPTIONS] <DOMAIN>... \
        <HOST>\n       rxl migrate [OPTIONS] <DOMAIN:HOST>...")]
    Migrate(Box<Migrate>),
    /// Show the migrations that run from this host
    #[command(after_help = exit_codes())]
    Status(Status),
    /// Cancel a running migration; the domain keeps running on this host
    #[command(after_help = exit_codes())]
    Cancel(CancelMigration),
    /// Show the MPI jobs that run in the domains of all hosts of the cluster
    #[command(after_help = exit_codes())]
    Jobs(Jobs),
    /// Relay requests to the guest agents on this host; `rxl migrate --mpi-quiesce` starts it over
    /// ssh
    #[command(after_help = exit_codes())]
    Agent(Agent),
    /// Receive a domain; `rxl migrate` starts it on the target
    #[command(after_help = exit_codes())]
    Receive(Receive),
    /// Receive a domain from stock xl: `xl migrate -s '' DOMAIN 'ssh HOST rxl migrate-receive'`
    #[command(after_help = exit_codes())]
    MigrateReceive(MigrateReceive),
    /// Save a domain to a file
    #[command(after_help = exit_codes())]
    Save(Save),
    /// Restore a domain from a file
    #[command(after_help = exit_codes())]
    Restore(Restore),
    /// Inspect or verify a saved domain or a migration stream; needs no Xen
    #[command(subcommand, after_help = exit_codes())]
    Stream(StreamCommand),
    /// Put a domain right when rxl is killed; the other commands start it
    #[command(after_help = exit_codes())]
    Guard,
}

/// Arguments of `rxl save`.
#[derive(Debug, Args)]
pub struct Save {
    /// The domain, by name or domid; digits alone are a domid, as in xl
    pub domain: String,
    /// The file to write. An existing file is replaced once the domain is saved
    pub file: PathBuf,
    /// Let the domain run on after the save, instead of destroying it
    #[arg(short = 'c', conflicts_with = "paused")]
    pub checkpoint: bool,
    /// Leave the domain paused after the save, instead of destroying it
    #[arg(short = 'p', long)]
    pub paused: bool,
    /// Write the format of `xl save`, which `xl restore` reads: uncompressed and without checksums
    #[arg(long)]
    pub plain: bool,
    /// Compression level of zstd: higher is smaller and slower
    #[arg(long, value_name = "LEVEL", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-7..=19), conflicts_with = "plain")]
    pub zstd_level: i32,
    /// Freeze the domain's MPI job from before the suspend until the domain runs again (-c) or the
    /// file is written. job (the value when none is given) freezes all ranks of the job, domain
    /// only those in this domain; require fails the save if the job cannot be frozen. Needs
    /// rxl-guest-agent in the job's domains, and /etc/rxl/cluster.toml where they are on other
    /// hosts
    #[arg(long, value_enum, value_name = "LEVEL", num_args = 0..=1, require_equals = true, default_value = "off", default_missing_value = "job")]
    pub mpi_quiesce: Level,
}

/// Arguments of `rxl restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// A file that `rxl save` or `xl save` wrote
    pub file: PathBuf,
    /// Leave the restored domain paused
    #[arg(short = 'p', long)]
    pub paused: bool,
    /// Accepted for compatibility with xl: leave no process that waits for the domain's end. rxl
    /// never leaves one
    #[arg(short = 'e')]
    pub no_monitor: bool,
}

/// The operations of `rxl stream`.
#[derive(Debug, Subcommand)]
pub enum StreamCommand {
    /// Show what a stream holds: headers, records, pages, iterations over memory
    #[command(after_help = exit_codes())]
    Inspect(StreamInspect),
    /// Check a stream against every rule of its formats and locate each violation
    #[command(after_help = exit_codes())]
    Verify(StreamVerify),
}

/// Arguments of `rxl stream inspect`.
#[derive(Debug, Args)]
pub struct StreamInspect {
    /// A file that `rxl save` or `xl save` wrote, or a bare libxl or libxc stream; - is standard
    /// input
    pub file: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Add a map of guest memory in characters
    #[arg(long)]
    pub map: bool,
    /// Write that map to this file as a PPM image
    #[arg(long, value_name = "IMAGE")]
    pub map_image: Option<PathBuf>,
}

/// Arguments of `rxl stream verify`.
#[derive(Debug, Args)]
pub struct StreamVerify {
    /// A file that `rxl save` or `xl save` wrote, or a bare libxl or libxc stream; - is standard
    /// input
    pub file: PathBuf,
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// Compression of pages on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compress {
    /// zstd on each batch by itself; a batch that would grow is sent raw.
    Zstd,
    /// No compression. Zero pages are still left out.
    None,
}

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
    /// Leave no process on the target that waits for the domain's end. Matters with --peer xl only:
    /// rxl never leaves one
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
    #[arg(long, value_enum, default_value = "auto")]
    pub peer: Peer,
    /// Run every check on both sides, say whether the domain would be migrated, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// What carries the data. tcp is unencrypted, and authenticated by a token only: use it on an
    /// isolated network
    #[arg(long, value_enum, default_value = "ssh")]
    pub transport: Transport,
    /// Number of data connections
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub parallel_connections: u16,
    /// With --transport tcp: the target's address, if it differs from the one that ssh uses
    #[arg(long, value_name = "ADDRESS")]
    pub data_address: Option<String>,
    /// Compression of pages; zero pages are left out with either
    #[arg(long, value_enum, default_value = "zstd")]
    pub compress: Compress,
    /// Compression level of zstd: higher is smaller and slower
    #[arg(long, value_name = "LEVEL", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-7..=19))]
    pub zstd_level: i32,
    /// Number of compression threads [default: one for each processor, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4))]
    pub compress_threads: Option<u16>,
    /// Take the target for lost after this many seconds of silence
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..=3600))]
    pub peer_timeout: u64,
    /// Suspend the domain when moving its dirty pages is expected to take no longer than this
    #[arg(long, value_name = "MS", default_value_t = DEFAULT_DOWNTIME.as_millis() as u64)]
    pub downtime_limit: u64,
    /// Most iterations over memory while the domain runs
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_ROUNDS, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_rounds: u32,
    /// Longest time from the start until the commit, or with --on-timeout force until the suspend
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// At the timeout: cancel the migration, or force the suspend, however long the rest then takes
    #[arg(long, value_enum, default_value = "cancel", requires = "timeout")]
    pub on_timeout: Otherwise,
    /// Cancel when the domain dirties memory too fast for the downtime limit, instead of suspending
    /// it anyway
    #[arg(long)]
    pub abort_if_busy: bool,
    /// Freeze the domain's MPI job around the suspend. job (the value when none is given) freezes
    /// all ranks of the job, domain only those in the domains that move; require cancels the
    /// migration if the job cannot be frozen. Needs rxl-guest-agent in the job's domains, and
    /// /etc/rxl/cluster.toml where they are on more hosts than these two
    #[arg(long, value_enum, value_name = "LEVEL", num_args = 0..=1, require_equals = true, default_value = "off", default_missing_value = "job")]
    pub mpi_quiesce: Level,
    /// What reads the domain's memory: rxl itself (PVH and HVM guests), libxc with rxl's stop
    /// policy, or libxl's stock helper with its own policy
    #[arg(long, value_enum, default_value = "rxl")]
    pub walker: Walker,
    /// What writes the new domain's memory: rxl itself, while libxl attaches the devices (PVH
    /// guests whose disks and networks allow it), or libxl's stock helper with libxc, before libxl
    /// attaches them
    #[arg(long, value_enum, default_value = "rxl")]
    pub restorer: Restorer,

    /// Print the report as JSON on standard output, also when the migration failed after it began.
    /// Several domains give one object with a list, `migrations`, here and in the file of --report
    #[arg(long)]
    pub json: bool,
    /// Write the report as JSON to this file, also when the migration failed after it began
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// How progress is shown on standard error
    #[arg(long, value_enum, default_value = "auto")]
    pub progress: ProgressMode,
}

/// Arguments of `rxl status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Show only the migration of this domain, by name or domid
    pub domain: Option<String>,
    /// Print a JSON list with one element for each migration
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `rxl cancel`.
#[derive(Debug, Args)]
pub struct CancelMigration {
    /// The domain, by name or domid
    pub domain: String,
}

/// Arguments of `rxl jobs`.
#[derive(Debug, Args)]
pub struct Jobs {
    /// Print a JSON list with one element for each domain that has an agent
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `rxl agent`.
#[derive(Debug, Args)]
pub struct Agent {
    /// Selects the operation on this host's guest agents.
    #[command(subcommand)]
    pub command: AgentCommand,
}

/// The operations of `rxl agent`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum AgentCommand {
    /// Answer requests on standard input, one on each line, until it ends
    Serve,
}

/// Arguments of `rxl receive`.
#[derive(Debug, Args)]
pub struct Receive {
    /// Take the source for lost after this many seconds of silence
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..=3600))]
    pub peer_timeout: u64,
}

/// Arguments of `rxl migrate-receive`: those that `xl migrate` gives to its receiver.
#[derive(Debug, Args)]
pub struct MigrateReceive {
    /// Leave the received domain paused
    #[arg(short = 'p')]
    pub paused: bool,
    /// Print the domain's configuration on standard error
    #[arg(short = 'd')]
    pub debug: bool,
    /// Accepted for compatibility with xl: leave no process that waits for the domain's end. rxl
    /// never leaves one
    #[arg(short = 'e')]
    pub no_monitor: bool,
    /// Accepted and ignored: xl's receiver would then stay in the foreground
    #[arg(short = 'F', hide = true)]
    pub foreground: bool,
    /// Remus, which rxl refuses
    #[arg(short = 'r', hide = true)]
    pub remus: bool,
    /// COLO, which rxl refuses
    #[arg(long, hide = true)]
    pub colo: bool,
}

impl Migrate {
    /// The limits by which the policy decides when pre-copy ends.
    pub fn limits(&self) -> Limits {
        Limits {
            downtime: Duration::from_millis(self.downtime_limit),
            max_rounds: self.max_rounds,
            timeout: self.timeout.map(Duration::from_secs),
            on_timeout: self.on_timeout,
            when_busy: if self.abort_if_busy { Otherwise::Cancel } else { Otherwise::Force },
        }
    }

    /// Longest silence of the target before it counts as lost.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.peer_timeout)
    }
}

/// The list of exit codes that `--help` ends with, from [`rxl_core::error::Exit::TABLE`].
pub fn exit_codes() -> String {
    let mut text = String::from("Exit status:\n");
    for (exit, meaning) in rxl_core::error::Exit::TABLE {
        text.push_str(&format!("  {:>2}  {meaning}\n", exit.code()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn xls_own_options_are_taken() {
        let line = [
            "rxl",
            "migrate",
            "-s",
            "",
            "-e",
            "-p",
            "-D",
            "--debug",
            "--live",
            "dom3",
            "ssh nodeB rxl receive",
        ];
        let Command::Migrate(migrate) = Cli::try_parse_from(line).unwrap().command else {
            panic!()
        };
        assert_eq!(migrate.ssh_command.as_deref(), Some(""));
        assert!(migrate.no_monitor && migrate.paused && migrate.preserve_domid && migrate.debug);
    }

    #[test]
    fn several_domains_come_before_their_host() {
        let parsed = |line: &str| match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Migrate(migrate) => (migrate.places.join(" "), migrate.mpi_quiesce),
            other => panic!("{other:?}"),
        };
        let (places, level) = parsed("rxl migrate dom3 dom4 nodeB --mpi-quiesce");
        assert_eq!((places.as_str(), level), ("dom3 dom4 nodeB", Level::Job));
        let (places, _) =
            parsed("rxl --gang-member 1 migrate --mpi-quiesce=require dom3:nodeB dom4:nodeC");
        assert_eq!(places, "dom3:nodeB dom4:nodeC");
    }

    /// Every option that xl 4.17's `migrate` can pass to its receiver, in xl's order.
    #[test]
    fn a_receiver_takes_what_xl_asks_of_it() {
        let line = ["rxl", "-t", "-T", "-vvv", "migrate-receive", "-e", "-d", "-p"];
        let cli = Cli::try_parse_from(line).unwrap();
        let Command::MigrateReceive(receive) = cli.command else { panic!() };
        assert!(cli.carriage_return && cli.timestamps && cli.verbose == 3);
        assert!(receive.no_monitor && receive.debug && receive.paused && !receive.remus);
    }
}
