//! The command line. Options that xl has keep xl's names; the others take virsh's or QEMU's.

mod migrate;
mod receive;
mod saved;
mod stream;
mod values;

use clap::{ArgAction, Args, Parser, Subcommand};

use rxl_core::error::Exit;

pub use migrate::Migrate;
pub use receive::{MigrateReceive, Receive};
pub use saved::{Restore, Save};
pub use stream::{StreamCommand, StreamInspect, StreamVerify};
pub use values::Compress;

/// Live migration of Xen domains, compressed, checksummed and measured.
#[derive(Debug, Parser)]
#[command(
    name = "rxl",
    version = env!("RXL_VERSION"),
    arg_required_else_help = true,
    after_help = exit_codes(),
)]
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
    /// Decide what became of migrations that were cut short, on this host and with the other one
    #[command(after_help = exit_codes())]
    Recover(Recover),
    /// Inspect or verify a saved domain or a migration stream; needs no Xen
    #[command(subcommand, after_help = exit_codes())]
    Stream(StreamCommand),
    /// Do what a domain's configuration wants when its guest reboots, ends or crashes (on_reboot
    /// and so on); rxl starts it for each domain that it receives, restores or resumes
    #[command(after_help = exit_codes())]
    Watch(Watch),
    /// Put a domain right when rxl is killed; the other commands start it
    #[command(after_help = exit_codes())]
    Guard,
    /// As the forced command of an ssh key: start what rxl on other hosts starts here, nothing else
    #[command(after_help = exit_codes())]
    SshGate,
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

/// Arguments of `rxl recover`.
#[derive(Debug, Args)]
pub struct Recover {
    /// Only what is recorded of this domain, by name
    pub domain: Option<String>,
    /// Tell what is recorded and what would be done first; ask nobody, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Decide without the other host, which will never come back. If it does, the domain may run
    /// twice: make sure that it is off for good, or fenced
    #[arg(long, requires = "domain", conflicts_with = "dry_run")]
    pub other_host_is_gone: bool,
    /// Say only what is new since the last time, and end with 0 where nothing is: for
    /// rxl-recover.service, which looks every minute
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `rxl jobs`.
#[derive(Debug, Args)]
pub struct Jobs {
    /// Print a JSON list with one element for each domain that has an agent
    #[arg(long)]
    pub json: bool,
    /// Show why the agent of this domain, by name or domid, took processes for ranks or did not
    /// when it last looked
    #[arg(long, value_name = "DOMAIN")]
    pub explain: Option<String>,
}

/// Arguments of `rxl watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// The domain, by name or domid; digits alone are a domid, as in xl
    pub domain: String,
    /// Return once the domain is watched, and watch in the background
    #[arg(long)]
    pub daemon: bool,
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

/// The list of exit codes that `--help` ends with, from [`Exit::TABLE`].
pub fn exit_codes() -> String {
    let mut text = String::from("Exit status:\n");
    for (exit, meaning) in Exit::TABLE {
        text.push_str(&format!("  {:>2}  {meaning}\n", exit.code()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use rxl_core::level::Level;

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
