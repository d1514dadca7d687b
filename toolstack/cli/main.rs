//! `rxl`: reads the command line, runs the session, reports.

#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use clap::Parser;
use migrate_stream::frame::Purpose;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;

use rxl::arguments::{
    AgentCommand, Cli, Command, Jobs, MigrateReceive, Receive, Restore, Save, Status,
};
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_core::io::{Cancel, Guarded};
use rxl_core::save_format::Format;
use rxl_core::state_dir::StateDir;
use rxl_core::units::bytes;
use rxl_datapath::packing::Packing;
use rxl_host::guard;
use rxl_host::guard_line::{self, Word};
use rxl_host::host::Host;
use rxl_host::libxl::LibxlHost;
use rxl_host::save_helper::session::{Announced, Plugin};
use rxl_link::transport::{Ticket, hand_over, read_preamble};
use rxl_quiesce as quiesce;
use rxl_quiesce::cluster::{CLUSTER_FILE, agent_hosts};
use rxl_quiesce::nodes::LocalNodes;
use rxl_session::events::{Event, Events};
use rxl_session::job::reach_agents;
use rxl_session::savefile;
use rxl_session::savefile::save::After;
use rxl_session::xl;
use rxl_session::{monitor, target};

mod migrate;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.verbose);
    let result = match &cli.command {
        Command::Migrate(options) => migrate::run(options, cli.gang_member),
        Command::Status(options) => status(options),
        Command::Cancel(options) => monitor::cancel(&StateDir::system(), &options.domain),
        Command::Jobs(options) => jobs(options),
        Command::Agent(options) => match options.command {
            AgentCommand::Serve => serve_agents(),
        },
        Command::Receive(options) => receive(options),
        Command::MigrateReceive(options) => migrate_receive(options),
        Command::Save(options) => save(options),
        Command::Restore(options) => restore(options),
        Command::Stream(command) => rxl::commands::stream::run(command),
        Command::Guard => serve_guard(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("rxl: {failure}");
            ExitCode::from(failure.exit.code())
        }
    }
}

/// Standard error; RXL_LOG overrides what -v asks for.
fn start_log(verbose: u8) {
    let default = match verbose {
        // What libxl has to say of a failure is in rxl's one line.
        0 => "warn,libxl=off",
        1 => "info,libxl=warn",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("RXL_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}

/// Looks after a domain until rxl, at the other end of the line, says that it need not, or is gone.
fn serve_guard() -> Result<(), Failure> {
    let failed = |e: nix::Error| Failure::internal("guard", &e.into());
    // What ends rxl must not end its guard, nor be taken for a word to it.
    nix::sys::prctl::set_name(c"rxl-guard").map_err(failed)?;
    let mut held = SigSet::empty();
    [Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM]
        .into_iter()
        .for_each(|signal| held.add(signal));
    held.thread_block().map_err(failed)?;
    nix::unistd::setsid().map_err(failed)?;
    let rxl = nix::unistd::getppid();
    let Some(word) =
        guard_line::last_word(std::io::stdin().as_fd()).filter(|word| *word != Word::Done)
    else {
        return Ok(());
    };
    let host = LibxlHost::new().map_err(Failure::from);
    let said = host.map(|host| guard::put_right(&host, &word, guard::Settling::HOST));
    match said {
        Ok(said) => said.iter().for_each(|line| guard_line::log(line)),
        Err(failure) => {
            guard_line::log(&format!("rxl was killed, and nothing could be put right: {failure}"))
        }
    }
    // Last, and not before a killed rxl has closed its sockets too: the line to its guard may be
    // the first that is closed.
    guard::wait_for_end_of(rxl);
    if let Err(failure) = StateDir::system().sweep() {
        guard_line::log(&failure.to_string());
    }
    Ok(())
}

/// Turns signals into events.
///
/// SIGINT and SIGHUP stay blocked in every other thread and, because that is inherited, in ssh and
/// libxl's save helper: a Ctrl-C on the terminal goes to all of them, and would kill the connection
/// and the helper before rxl could clean up.
fn watch_signals<D: Send + 'static>(events: Sender<Event<D>>) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::internal("signals", &e);
    let mut held = SigSet::empty();
    held.add(Signal::SIGINT);
    held.add(Signal::SIGHUP);
    held.thread_block().map_err(|e| failed(e.into()))?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
    let watch = move || {
        if let Err(error) = held.thread_unblock() {
            tracing::warn!("signals: {error}");
        }
        for signal in signals.forever() {
            tracing::info!("signal {signal}");
            let _ = events.send(Event::Interrupt);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map_err(failed)?;
    Ok(())
}

/// This host, whose saves go through our own helper. The helper is announced to libxl before there
/// is a second thread.
fn steered_host() -> Result<LibxlHost, Failure> {
    let host = LibxlHost::new().map_err(Failure::from)?;
    let state = StateDir::system();
    state.sweep()?;
    match Plugin::install(&state) {
        Ok(plugin) => Ok(host.with_plugin(plugin)),
        Err(reason) => {
            tracing::warn!("libxl's stock save helper is used, with its own policy: {reason}");
            Ok(host)
        }
    }
}

/// This host, which can fill a domain's memory by itself. As [`steered_host`], while this thread is
/// the only one.
fn receiving_host(state: &StateDir) -> Result<LibxlHost, HostError> {
    let host = LibxlHost::new()?;
    Ok(match Announced::announce(state) {
        Ok(announced) => host.with_announced(announced),
        Err(reason) => {
            tracing::warn!("domains are restored by libxl's stock save helper: {reason}");
            host
        }
    })
}

fn jobs(options: &Jobs) -> Result<(), Failure> {
    let found = quiesce::jobs::list(&mut agent_hosts(&[], Path::new(CLUSTER_FILE))?);
    let text = if options.json {
        serde_json::to_string_pretty(&found).map_err(|e| Failure::internal("jobs", &e.into()))?
            + "\n"
    } else {
        quiesce::jobs::table(&found)
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn serve_agents() -> Result<(), Failure> {
    let mut nodes = LocalNodes::connect().map_err(|line| Failure::new(Exit::NoXen, line))?;
    let failed = |error| Failure::internal("agent requests", &error);
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let input =
        Guarded::new(input, Cancel::new().map_err(failed)?, Some(deadlines::AGENT_SERVER_IDLE))
            .map_err(failed)?;
    quiesce::remote::serve(&mut nodes, input, std::io::stdout().lock()).map_err(failed)
}

fn status(options: &Status) -> Result<(), Failure> {
    let state = StateDir::system();
    state.sweep()?;
    let found = match &options.domain {
        Some(domain) => vec![monitor::find(&state, domain)?],
        None => monitor::running(&state)?,
    };
    let text = if options.json {
        serde_json::to_string_pretty(&found).map_err(|e| Failure::internal("status", &e.into()))?
            + "\n"
    } else if found.is_empty() {
        "no migration runs from this host\n".into()
    } else {
        found.iter().map(|status| status.describe() + "\n").collect()
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn save(options: &Save) -> Result<(), Failure> {
    let events = Events::default();
    watch_signals(events.sender())?;
    let host = LibxlHost::new().map_err(Failure::from)?;
    let agents = reach_agents(options.mpi_quiesce, &[])?;
    let after = match (options.checkpoint, options.paused) {
        (true, _) => After::Run,
        (_, true) => After::Pause,
        _ => After::Destroy,
    };
    let request = savefile::save::Request {
        domain: options.domain.clone(),
        path: options.file.clone(),
        format: if options.plain { Format::Plain } else { Format::Rxl },
        after,
        packing: Packing {
            compress: true,
            level: options.zstd_level,
            threads: Packing::default_threads(),
        },
        quiesce: options.mpi_quiesce,
    };
    let saved = savefile::save::save(&host, &StateDir::system(), &request, agents, &events)?;
    let (name, written, file) = (&saved.domain.name, &saved.written, options.file.display());
    let digest =
        written.digest.as_ref().map_or_else(String::new, |digest| format!(", digest {digest}"));
    say(&format!(
        "{name} saved in {file}: {} of {}{digest}",
        bytes(written.file_bytes),
        bytes(written.stream_bytes)
    ));
    saved.mpi.iter().for_each(|mpi| say(&format!("  {}", mpi.describe())));
    Ok(())
}

fn restore(options: &Restore) -> Result<(), Failure> {
    let events = Events::default();
    watch_signals(events.sender())?;
    let host = LibxlHost::new().map_err(Failure::from)?;
    let request =
        savefile::restore::Request { path: options.file.clone(), leave_paused: options.paused };
    let restored = savefile::restore::restore(&host, &StateDir::system(), &request, &events)?;
    let (name, size) = (&restored.name, bytes(restored.stream_bytes));
    let paused = if options.paused { ", paused" } else { "" };
    say(&format!(
        "{name} restored from {} as domain {}{paused}: {size}",
        options.file.display(),
        restored.domid
    ));
    Ok(())
}

/// A line on standard output. Nobody may be left to read it.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Standard output belongs to the protocol.
fn migrate_receive(options: &MigrateReceive) -> Result<(), Failure> {
    let usage = |what: &str, next: &str| Err(Failure::new(Exit::Usage, what).next(next));
    if options.remus || options.colo {
        return usage("Remus and COLO are not supported", "xl's own receiver has them");
    }
    if std::io::stdin().is_terminal() {
        let next = "`rxl migrate-receive` is started by `xl migrate` on the source";
        return usage("standard input is a terminal: no migration comes in there", next);
    }
    let broken = |e| Failure::internal("standard input and output", &e);
    let wire = (
        std::io::stdin().as_fd().try_clone_to_owned().map_err(broken)?,
        std::io::stdout().as_fd().try_clone_to_owned().map_err(broken)?,
    );
    let events = Events::default();
    watch_signals(events.sender())?;
    let host: Arc<dyn Host> = Arc::new(LibxlHost::new().map_err(Failure::from)?);
    let asked = xl::receive::Options { leave_paused: options.paused, show_config: options.debug };
    xl::receive::receive(&host, &StateDir::system(), wire, asked, &events)
}

/// The control connection's process runs the session; a data connection's hands its standard input
/// to that one.
fn receive(options: &Receive) -> Result<(), Failure> {
    let broken = |e| Failure::internal("standard input", &e);
    let patience = std::time::Duration::from_secs(options.peer_timeout);
    let next = "`rxl receive` is started by `rxl migrate` on the source";
    if std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "standard input is a terminal: no migration comes in there",
        )
        .next(next));
    }
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(broken)?;
    let mut greeting = Guarded::new(
        input.try_clone().map_err(broken)?,
        Cancel::new().map_err(broken)?,
        Some(patience),
    )
    .map_err(broken)?;
    let preamble = read_preamble(&mut greeting).map_err(|e| {
        Failure::new(Exit::Usage, format!("no migration comes in on standard input: {e}"))
            .next(next)
    })?;
    let state = StateDir::system();
    match preamble.purpose {
        Purpose::Data => {
            let socket = state.receive_socket(&preamble.migration.to_string())?;
            hand_over(&socket, &preamble, &input)
                .map_err(|e| Failure::internal("data connection", &e))
        }
        Purpose::Control => {
            let host = receiving_host(&state).map(|host| Arc::new(host) as Arc<dyn Host>);
            let events = Events::default();
            watch_signals(events.sender())?;
            let output = std::io::stdout().as_fd().try_clone_to_owned().map_err(broken)?;
            let ticket = Ticket { id: preamble.migration, token: preamble.token };
            target::receive(
                host,
                &state,
                target::Endpoint { input, output, ticket, patience },
                events,
            )
        }
    }
}
