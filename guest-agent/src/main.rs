//! The agent's command line.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use nix::sys::mman::{MlockAllFlags, mlockall};
use rxl_agent_protocol::{AgentInfo, PROTOCOL_VERSION, Token};
use rxl_guest_agent::engine::Engine;
use rxl_guest_agent::guest::Guest;
use rxl_guest_agent::linux::Linux;
use rxl_guest_agent::store::{Directory, Store, Xenbus, xenbus};
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
    /// Show how things stand: the agent, the last command, the ranks found.
    Status(Place),
}

#[derive(Args)]
struct Place {
    /// Use this directory in place of xenstore: for trials outside Xen.
    #[arg(long, value_name = "DIRECTORY")]
    store: Option<PathBuf>,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    place: Place,

    /// Where the agent leaves word for its successor.
    #[arg(long, value_name = "DIRECTORY", default_value = "/run/rxl-guest-agent")]
    runtime_directory: PathBuf,

    /// Ignore ranks in other network namespaces than the agent's. By default they are a reason to
    /// refuse, because the agent cannot see their connections.
    #[arg(long)]
    own_namespace_only: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(run) => run_agent(&run),
        Command::Status(place) => show_status(&place),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("rxl-guest-agent: {what}");
            ExitCode::FAILURE
        }
    }
}

fn show_status(place: &Place) -> Result<(), String> {
    let mut store = open(place)?;
    let lines =
        status::describe(&mut store).map_err(|error| format!("cannot read the store: {error}"))?;
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn run_agent(options: &Run) -> Result<(), String> {
    log_to_stderr();
    let store = open(&options.place)?;
    let directory = &options.runtime_directory;
    fs::create_dir_all(directory)
        .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    let linux = Linux::new(options.own_namespace_only).map_err(|refusal| refusal.to_string())?;
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        warn!("cannot lock its memory, so it may be swapped out while ranks are frozen: {error}");
    }
    let info = introduce(&linux)?;
    let engine = Engine::start(store, linux, info, directory.join("epoch.json"));
    let engine =
        engine.map_err(|error| format!("cannot advertise itself in the store: {error}"))?;
    run::run(engine).map_err(|error| error.to_string())
}

/// The journal keeps the time itself.
fn log_to_stderr() {
    let to_terminal = io::stderr().is_terminal();
    let log =
        tracing_subscriber::fmt().with_writer(io::stderr).with_target(false).with_ansi(to_terminal);
    if to_terminal { log.init() } else { log.without_time().init() }
}

fn introduce(linux: &Linux) -> Result<AgentInfo, String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let boot = boot.map_err(|error| format!("cannot read the kernel's boot id: {error}"))?;
    Ok(AgentInfo {
        version: Token::from_text(env!("CARGO_PKG_VERSION")),
        protocol: PROTOCOL_VERSION,
        pid: std::process::id(),
        boot: Token::from_text(boot.trim()),
        freezer: linux.freezer(),
    })
}

fn open(place: &Place) -> Result<Box<dyn Store>, String> {
    match &place.store {
        Some(directory) => match Directory::open(directory) {
            Ok(store) => Ok(Box::new(store)),
            Err(error) => Err(format!("cannot use {} as a store: {error}", directory.display())),
        },
        None => open_xenbus(),
    }
}

fn open_xenbus() -> Result<Box<dyn Store>, String> {
    let device = Path::new(xenbus::DEVICE);
    if !device.exists() {
        return Err(format!(
            "this is no Xen guest: there is no {} (--store DIRECTORY is for trials)",
            xenbus::DEVICE
        ));
    }
    if fs::read_to_string("/proc/xen/capabilities").is_ok_and(|text| text.contains("control_d")) {
        return Err("this is dom0: the agent belongs into the domUs that run MPI ranks".into());
    }
    match Xenbus::open(device) {
        Ok(store) => Ok(Box::new(store)),
        Err(error) => Err(format!("cannot use {}: {error}", xenbus::DEVICE)),
    }
}
