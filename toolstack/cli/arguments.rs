//! The command line: xl's names where xl has them, virsh's and QEMU's for the rest.

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
    /// Say more: -v what rxl does, -vv libxl's messages, -vvv everything. RXL_LOG takes tracing's
    /// filters
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Accepted for xl's sake, which asks its receiver so to redraw its progress
    #[arg(short = 't', global = true, hide = true)]
    pub carriage_return: bool,
    /// Accepted for xl's sake, which asks its receiver so for times in its messages
    #[arg(short = 'T', global = true, hide = true)]
    pub timestamps: bool,
    /// This process moves one of several domains: which, from 0. Its line to the leader is its
    /// standard input
    #[arg(long, hide = true, value_name = "N")]
    pub gang_member: Option<usize>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Move a running domain to another host, or several
    #[command(after_help = exit_codes(), override_usage = "rxl migrate [OPTIONS] <DOMAIN>... \
        <HOST>\n       rxl migrate [OPTIONS] <DOMAIN:HOST>...")]
    Migrate(Box<Migrate>),
    /// Show the migrations that run from this host
    #[command(after_help = exit_codes())]
    Status(Status),
    /// Cancel a running migration; the domain runs on here
    #[command(after_help = exit_codes())]
    Cancel(CancelMigration),
    /// Show the MPI jobs in the domains of all hosts of the cluster
    #[command(after_help = exit_codes())]
    Jobs(Jobs),
    /// Talk to the agents of this host's domains; started on other hosts by `rxl migrate
    /// --mpi-quiesce`
    #[command(after_help = exit_codes())]
    Agent(Agent),
    /// Receive a domain; started on the target by `rxl migrate`
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
    /// Look at a saved domain or a migration stream; needs no Xen
    #[command(subcommand, after_help = exit_codes())]
    Stream(StreamCommand),
    /// Look after a domain in case rxl is killed; started by the others
    #[command(after_help = exit_codes())]
    Guard,
}

/// `rxl save`.
#[derive(Debug, Args)]
pub struct Save {
    /// The domain, by name or number (digits alone are a number, as for xl)
    pub domain: String,
    /// The file to write; one that is there is replaced when the domain has been saved
    pub file: PathBuf,
    /// Leave the domain running after it has been saved
    #[arg(short = 'c', conflicts_with = "paused")]
    pub checkpoint: bool,
    /// Leave the domain paused after it has been saved
    #[arg(short = 'p', long)]
    pub paused: bool,
    /// Write xl's own format, which `xl restore` takes: not compressed, without checksums
    #[arg(long)]
    pub plain: bool,
    /// zstd's level
    #[arg(long, value_name = "LEVEL", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-7..=19), conflicts_with = "plain")]
    pub zstd_level: i32,
    /// Hold the domain's MPI job still from before the domain is suspended until it runs on (-c) or
    /// its file is written: all ranks of the job (job, the default when given bare), those in this
    /// domain (domain), or all or no save (require). Needs rxl-guest-agent in the job's domains,
    /// and /etc/rxl/cluster.toml where they are on other hosts
    #[arg(long, value_enum, value_name = "LEVEL", num_args = 0..=1, require_equals = true, default_value = "off", default_missing_value = "job")]
    pub mpi_quiesce: Level,
}

/// `rxl restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// What `rxl save` or `xl save` wrote
    pub file: PathBuf,
    /// Leave the domain paused
    #[arg(short = 'p', long)]
    pub paused: bool,
    /// Leave no process that waits for the domain's end. Accepted for xl's sake: rxl never leaves
    /// one
    #[arg(short = 'e')]
    pub no_monitor: bool,
}

/// `rxl stream`.
#[derive(Debug, Subcommand)]
pub enum StreamCommand {
    /// Show what is in a stream: headers, records, pages, passes over memory
    #[command(after_help = exit_codes())]
    Inspect(StreamInspect),
    /// Judge a stream by every rule of its formats, and tell where it breaks one
    #[command(after_help = exit_codes())]
    Verify(StreamVerify),
}

/// `rxl stream inspect`.
#[derive(Debug, Args)]
pub struct StreamInspect {
    /// What `rxl save` or `xl save` wrote, or a bare libxl or libxc stream; - is standard input
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Add a picture of guest memory
    #[arg(long)]
    pub map: bool,
    /// Write that picture to this file, as an image (PPM)
    #[arg(long, value_name = "IMAGE")]
    pub map_image: Option<PathBuf>,
}

/// `rxl stream verify`.
#[derive(Debug, Args)]
pub struct StreamVerify {
    /// What `rxl save` or `xl save` wrote, or a bare libxl or libxc stream; - is standard input
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How pages are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compress {
    /// zstd, each batch for itself, sent raw where that is smaller.
    Zstd,
    /// No compression; pages of zeroes are still left out.
    None,
}

/// `rxl migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// The domain, by name or number (digits alone are a number, as for xl), and the target, as ssh
    /// knows it. Several domains before the target move together; where their targets differ, name
    /// DOMAIN:HOST for each
    // One list: clap takes no HOST for the last of two that begins with a dash, even after `--`.
    #[arg(value_names = ["DOMAIN", "HOST"], required = true, num_args = 2..)]
    pub places: Vec<String>,

    /// Use this command instead of ssh; it gets HOST and `rxl receive` as arguments. If empty, HOST
    /// itself is the command
    #[arg(short = 's', value_name = "SSHCOMMAND")]
    pub ssh_command: Option<String>,
    /// Leave no process on the target that waits for the domain's end: for --peer xl, as rxl never
    /// leaves one
    #[arg(short = 'e')]
    pub no_monitor: bool,
    /// Leave the domain paused after it has moved
    #[arg(short = 'p', long)]
    pub paused: bool,
    /// Keep the domain's number on the target, or fail
    #[arg(short = 'D', long)]
    pub preserve_domid: bool,
    /// Use this xl configuration file instead of the one the domain was made with (one domain only)
    #[arg(short = 'C', value_name = "CONFIG")]
    pub config: Option<PathBuf>,
    /// Send all memory once more while the domain stands still, and let the target's libxl log
    /// every page that differs
    #[arg(long)]
    pub debug: bool,
    /// Accepted for xl's sake: a migration is live unless --non-live is given
    #[arg(long, hide = true)]
    pub live: bool,
    /// Suspend the domain first, then move it: the only way for a PV guest on a Xen without shadow
    /// paging
    #[arg(long, conflicts_with = "live")]
    pub non_live: bool,

    /// What receives the domain: rxl; or stock xl, over xl's own protocol, uncompressed and without
    /// checksums. auto takes rxl, and tells where there is none
    #[arg(long, value_enum, default_value = "auto")]
    pub peer: Peer,
    /// Make every check on both sides, say whether the domain would be migrated, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How the data travels. tcp is neither encrypted nor authenticated beyond a token: for an
    /// isolated network
    #[arg(long, value_enum, default_value = "ssh")]
    pub transport: Transport,
    /// Data connections
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub parallel_connections: u16,
    /// With --transport tcp: the target's address, where it is not the one that ssh uses
    #[arg(long, value_name = "ADDRESS")]
    pub data_address: Option<String>,
    /// How pages are packed
    #[arg(long, value_enum, default_value = "zstd")]
    pub compress: Compress,
    /// zstd's level
    #[arg(long, value_name = "LEVEL", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-7..=19))]
    pub zstd_level: i32,
    /// Compression threads [default: one for each processor, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4))]
    pub compress_threads: Option<u16>,
    /// Give the target up for dead after so many seconds of silence
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..=3600))]
    pub peer_timeout: u64,
    /// Suspend the domain when sending what it has dirtied is expected to take no longer than this
    #[arg(long, value_name = "MS", default_value_t = DEFAULT_DOWNTIME.as_millis() as u64)]
    pub downtime_limit: u64,
    /// Most passes over memory while the domain runs
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_ROUNDS, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_rounds: u32,
    /// Most time for all of them: then --on-timeout says what happens
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// At the timeout: cancel, or force the domain to be suspended and moved, however long the rest
    /// takes
    #[arg(long, value_enum, default_value = "cancel", requires = "timeout")]
    pub on_timeout: Otherwise,
    /// Cancel when the domain dirties its memory too fast for the downtime limit, instead of
    /// suspending it all the same
    #[arg(long)]
    pub abort_if_busy: bool,
    /// Hold the domain's MPI job still around the suspend: all its ranks (job, the default when
    /// given bare), those in what moves (domain), or all or no migration (require). Needs
    /// rxl-guest-agent in the job's domains, and /etc/rxl/cluster.toml where they are on more hosts
    /// than these two
    #[arg(long, value_enum, value_name = "LEVEL", num_args = 0..=1, require_equals = true, default_value = "off", default_missing_value = "job")]
    pub mpi_quiesce: Level,
    /// Who walks over the memory: rxl itself (PVH and HVM guests), libxc with rxl's policy, or
    /// libxl's stock helper with its own
    #[arg(long, value_enum, default_value = "rxl")]
    pub walker: Walker,
    /// Who fills the new domain's memory: rxl itself, while libxl attaches the domain's devices
    /// (PVH guests whose disks and networks allow it), or libxl's stock helper with libxc, before
    /// they are attached
    #[arg(long, value_enum, default_value = "rxl")]
    pub restorer: Restorer,

    /// Print the report as JSON on standard output, also of a migration that began and failed. Of
    /// several domains: one object with a list, `migrations`; so in the file of --report
    #[arg(long)]
    pub json: bool,
    /// Write the report as JSON to this file, also of a migration that began and failed
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// How to show progress (on standard error)
    #[arg(long, value_enum, default_value = "auto")]
    pub progress: ProgressMode,
}

/// `rxl status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Only this domain's, by name or number
    pub domain: Option<String>,
    /// As JSON: a list, one element a migration
    #[arg(long)]
    pub json: bool,
}

/// `rxl cancel`.
#[derive(Debug, Args)]
pub struct CancelMigration {
    /// The domain, by name or number
    pub domain: String,
}

/// `rxl jobs`.
#[derive(Debug, Args)]
pub struct Jobs {
    /// As JSON: a list, one element a domain with an agent
    #[arg(long)]
    pub json: bool,
}

/// `rxl agent`.
#[derive(Debug, Args)]
pub struct Agent {
    /// What to do.
    #[command(subcommand)]
    pub command: AgentCommand,
}

/// `rxl agent ...`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum AgentCommand {
    /// Answer requests on standard input, one a line, until it ends
    Serve,
}

/// `rxl receive`.
#[derive(Debug, Args)]
pub struct Receive {
    /// Give the source up for dead after so many seconds of silence
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..=3600))]
    pub peer_timeout: u64,
}

/// `rxl migrate-receive`: xl's own options.
#[derive(Debug, Args)]
pub struct MigrateReceive {
    /// Leave the domain paused
    #[arg(short = 'p')]
    pub paused: bool,
    /// Show the domain's configuration on standard error
    #[arg(short = 'd')]
    pub debug: bool,
    /// Leave no process that waits for the domain's end. Accepted for xl's sake: rxl never leaves
    /// one
    #[arg(short = 'e')]
    pub no_monitor: bool,
    /// Let that process stay in the foreground. Accepted for xl's sake
    #[arg(short = 'F', hide = true)]
    pub foreground: bool,
    /// Remus: refused
    #[arg(short = 'r', hide = true)]
    pub remus: bool,
    /// COLO: refused
    #[arg(long, hide = true)]
    pub colo: bool,
}

impl Migrate {
    /// When pre-copy ends.
    pub fn limits(&self) -> Limits {
        Limits {
            downtime: Duration::from_millis(self.downtime_limit),
            max_rounds: self.max_rounds,
            timeout: self.timeout.map(Duration::from_secs),
            on_timeout: self.on_timeout,
            when_busy: if self.abort_if_busy { Otherwise::Cancel } else { Otherwise::Force },
        }
    }

    /// The patience with the target.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.peer_timeout)
    }
}

/// The exit codes, for the help and the man page.
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

    /// What xl 4.17's `migrate` can ask of a receiver, in its order.
    #[test]
    fn a_receiver_takes_what_xl_asks_of_it() {
        let line = ["rxl", "-t", "-T", "-vvv", "migrate-receive", "-e", "-d", "-p"];
        let cli = Cli::try_parse_from(line).unwrap();
        let Command::MigrateReceive(receive) = cli.command else { panic!() };
        assert!(cli.carriage_return && cli.timestamps && cli.verbose == 3);
        assert!(receive.no_monitor && receive.debug && receive.paused && !receive.remus);
    }
}
