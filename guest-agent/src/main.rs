//! The agent's command line.

#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use nix::sys::mman::{MlockAllFlags, mlockall};
use rxl_agent_protocol::{AgentInfo, PROTOCOL_VERSION, Token};
use rxl_guest_agent::engine::Engine;
use rxl_guest_agent::guest::{Guest, Refusal};
use rxl_guest_agent::linux::Linux;
use rxl_guest_agent::store::{DEVICE, Directory, SOCKET_VARIABLE, Store, Xenstore};
use rxl_guest_agent::{run, status};
use tracing::warn;

/// Holds the ranks of MPI jobs in this domU still around a migration, when rxl in dom0 asks for it.
#[derive(Parser)]
#[command(name = "rxl-guest-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent, as its systemd unit does.
    Run(Run),
    /// Show the agent, its state, the last command and the ranks that are found now.
    Status(StorePlace),
    /// Tell for each process that looks like an MPI rank why it is one or is none: the nearest
    /// launcher above it, the row of the table of launchers, and the variables that decided.
    Explain,
}

#[derive(Args)]
struct StorePlace {
    /// Use this directory in place of xenstore, for trials outside Xen.
    #[arg(long, value_name = "DIRECTORY")]
    store: Option<PathBuf>,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    place: StorePlace,

    /// Where the agent keeps the record that its successor reads.
    #[arg(long, value_name = "DIRECTORY", default_value = "/run/rxl-guest-agent")]
    runtime_directory: PathBuf,

    /// Ignore ranks in other network namespaces than the agent's. By default they are a reason to
    /// refuse, because the agent cannot see their connections.
    #[arg(long)]
    own_namespace_only: bool,
}

/// Why a subcommand failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("this is no Xen guest: there is no {DEVICE} (--store DIRECTORY is for trials)")]
    NoGuest,
    #[error("this is dom0: the agent belongs into the domUs that run MPI ranks")]
    Dom0,
    #[error("cannot use xenstore")]
    Xenstore(#[source] io::Error),
    #[error("cannot use {} as a store", .0.display())]
    Directory(PathBuf, #[source] io::Error),
    #[error("cannot read the store")]
    Read(#[source] io::Error),
    #[error("cannot make {}", .0.display())]
    RuntimeDirectory(PathBuf, #[source] io::Error),
    #[error("cannot look at this Linux")]
    Linux(#[from] Refusal),
    #[error("cannot read the kernel's boot id")]
    BootId(#[source] io::Error),
    #[error("cannot advertise itself in the store")]
    Advertise(#[source] io::Error),
    #[error("cannot go on")]
    Run(#[source] io::Error),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(run) => run_agent(&run),
        Command::Status(place) => show_status(&place),
        Command::Explain => explain(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("rxl-guest-agent: {}", with_sources(&failure));
            ExitCode::FAILURE
        }
    }
}

/// One line: the failure, and what caused it.
fn with_sources(failure: &dyn Error) -> String {
    let causes = std::iter::successors(Some(failure), |error| (*error).source());
    causes.map(|error| error.to_string()).collect::<Vec<_>>().join(": ")
}

fn show_status(place: &StorePlace) -> Result<(), Failure> {
    let mut store = open(place)?;
    let lines = status::describe(&mut store).map_err(Failure::Read)?;
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn explain() -> Result<(), Failure> {
    status::explain()?.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn run_agent(options: &Run) -> Result<(), Failure> {
    log_to_stderr();
    let signals = run::hold_termination().map_err(Failure::Run)?;
    let store = open(&options.place)?;
    let directory = &options.runtime_directory;
    fs::create_dir_all(directory)
        .map_err(|error| Failure::RuntimeDirectory(directory.clone(), error))?;
    let linux = Linux::new(options.own_namespace_only)?;
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        warn!("cannot lock its memory, so it may be swapped out while ranks are frozen: {error}");
    }
    let info = introduce(&linux)?;
    let engine = Engine::start(store, linux, info, directory.join("epoch.json"));
    run::run(engine.map_err(Failure::Advertise)?, &signals).map_err(Failure::Run)
}

/// The journal keeps the time itself.
fn log_to_stderr() {
    let to_terminal = io::stderr().is_terminal();
    let log =
        tracing_subscriber::fmt().with_writer(io::stderr).with_target(false).with_ansi(to_terminal);
    if to_terminal { log.init() } else { log.without_time().init() }
}

fn introduce(linux: &Linux) -> Result<AgentInfo, Failure> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(Failure::BootId)?;
    Ok(AgentInfo {
        version: Token::from_text(env!("CARGO_PKG_VERSION")),
        protocol: PROTOCOL_VERSION,
        pid: std::process::id(),
        boot: Token::from_text(boot.trim()),
        freezer: linux.freezer(),
    })
}

fn open(place: &StorePlace) -> Result<Box<dyn Store>, Failure> {
    match &place.store {
        Some(directory) => match Directory::open(directory) {
            Ok(store) => Ok(Box::new(store)),
            Err(error) => Err(Failure::Directory(directory.clone(), error)),
        },
        None => open_xenstore(),
    }
}

/// Opens the guest's xenstore, or the one whose socket the environment names.
fn open_xenstore() -> Result<Box<dyn Store>, Failure> {
    if env::var_os(SOCKET_VARIABLE).is_none() {
        check_guest()?;
    }
    match Xenstore::open() {
        Ok(store) => Ok(Box::new(store)),
        Err(error) => Err(Failure::Xenstore(error)),
    }
}

fn check_guest() -> Result<(), Failure> {
    if !Path::new(DEVICE).exists() {
        return Err(Failure::NoGuest);
    }
    match fs::read_to_string("/proc/xen/capabilities") {
        Ok(text) if text.contains("control_d") => Err(Failure::Dom0),
        _ => Ok(()),
    }
}
