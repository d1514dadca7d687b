//! Starts a watcher as a process that outlives the rxl that starts it.
//!
//! Where systemd runs the host it is a transient unit, `rxl-watch-NAME.service`; elsewhere, or
//! where that fails, a daemon of its own.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rxl_core::domain::{DomId, Domain};
use rxl_core::error::Failure;
use rxl_core::state_dir::StateDir;
use rxl_core::text::one_line;
use rxl_core::{deadlines, own_program};

mod xl;

pub use xl::watches as xl_watches;

/// The subcommand that a watcher runs.
const SUBCOMMAND: &str = "watch";

/// Is there where systemd runs the host (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// Longest part of a unit's name that a domain gives it; systemd allows 255 bytes for all.
const MAX_UNIT_PART: usize = 200;

/// Most that is read of what a program that failed has said.
const MAX_SAID: u64 = 4096;

const INTERVAL: Duration = Duration::from_millis(10);

/// Properties of the unit. The watcher alone is stopped with it: a device model that it has started
/// belongs to a domain. One that is killed comes back; one that ends by itself does not.
const PROPERTIES: [&str; 5] = [
    "Type=notify",
    "KillMode=process",
    "OOMPolicy=continue",
    "Restart=on-abnormal",
    "RestartSec=1",
];

/// Why a domain has no watcher.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    #[error("{program}: {error}")]
    Run {
        program: String,
        #[source]
        error: io::Error,
    },
    #[error("{program} did not answer in {} s", deadlines::WATCH_START.as_secs())]
    Late { program: String },
    #[error("{program} ended with {status}: {said}")]
    Failed { program: String, status: ExitStatus, said: String },
    #[error("rxl's own file is not known: {0}")]
    NoProgram(#[source] io::Error),
    #[error(transparent)]
    State(#[from] Failure),
    /// The domain cannot be looked at.
    #[error(transparent)]
    Domain(#[from] rxl_core::host_error::HostError),
    #[error("{}: {error}", path.display())]
    Mark {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
}

/// Whether a watcher of rxl's or of xl's watches the domain.
pub fn is_watched(state: &StateDir, domid: DomId) -> Result<bool, NotStarted> {
    Ok(state.watch_lock(domid)?.is_none() || xl_watches(domid))
}

/// Leaves a mark for [`was_watched`] if the domain is watched, and takes an older one away.
pub fn note(state: &StateDir, domid: DomId) -> Result<(), NotStarted> {
    let path = state.watched_mark(domid)?;
    if !is_watched(state, domid)? {
        return forget(state, domid);
    }
    File::create(&path).map(drop).map_err(|error| NotStarted::Mark { path, error })
}

/// Takes the mark away, if there is one: the domain is gone, or nobody watches it.
pub fn forget(state: &StateDir, domid: DomId) -> Result<(), NotStarted> {
    let path = state.watched_mark(domid)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NotStarted::Mark { path, error })
        }
        _ => Ok(()),
    }
}

/// Whether the domain was watched when [`note`] looked.
pub fn was_watched(state: &StateDir, domid: DomId) -> Result<bool, NotStarted> {
    Ok(state.watched_mark(domid)?.exists())
}

/// Starts rxl's watcher of a domain, and returns when it watches. Does nothing where it has one.
pub fn start(state: &StateDir, domain: &Domain) -> Result<(), NotStarted> {
    if state.watch_lock(domain.domid)?.is_none() {
        return Ok(());
    }
    let argument = argument(domain);
    if Path::new(SYSTEMD).is_dir() {
        match run(by_systemd(&domain.name, &argument)?) {
            Ok(()) => return Ok(()),
            Err(error) => tracing::info!("{}: no unit for its watcher: {error}", domain.name),
        }
    }
    run(daemon(&argument))
}

fn by_systemd(name: &str, argument: &str) -> Result<Command, NotStarted> {
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--collect", "--no-ask-password", "--unit", &unit(name)]);
    command.args(["--description", "rxl does what a domain is to do when it reboots or crashes"]);
    for property in PROPERTIES {
        command.args(["--property", property]);
    }
    command.arg("--").arg(program()?).args([SUBCOMMAND, argument]);
    Ok(command)
}

fn daemon(argument: &str) -> Command {
    let mut command = own_program::command();
    command.args([SUBCOMMAND, "--daemon", argument]);
    command
}

/// rxl's file, for a process that is not a child of this one. After a package upgrade it is the new
/// one.
fn program() -> Result<PathBuf, NotStarted> {
    let running = std::env::current_exe().map_err(NotStarted::NoProgram)?;
    let path = running.to_string_lossy();
    Ok(path.strip_suffix(" (deleted)").map_or_else(|| running.clone(), PathBuf::from))
}

/// `rxl-watch-NAME.service`. Other characters than systemd.unit(5) allows are written as
/// systemd-escape(1) writes them.
fn unit(name: &str) -> String {
    let mut part = String::new();
    for byte in name.bytes() {
        let next = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' | b'-' => {
                char::from(byte).to_string()
            }
            byte => format!("\\x{byte:02x}"),
        };
        if part.len() + next.len() > MAX_UNIT_PART {
            break;
        }
        part.push_str(&next);
    }
    format!("rxl-watch-{part}.service")
}

/// The domain's name, for people who look at processes; its number where the name could be taken
/// for something else on the way: a number, an option, a variable of systemd's.
fn argument(domain: &Domain) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:+".contains(&byte);
    let name = &domain.name;
    if name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic())
        && name.bytes().all(plain)
    {
        name.clone()
    } else {
        domain.domid.to_string()
    }
}

/// Runs a program until it ends, which it does when the watcher watches.
fn run(mut command: Command) -> Result<(), NotStarted> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let failed = |error| NotStarted::Run { program: program.clone(), error };
    let mut child = command.spawn().map_err(failed)?;
    let status = match wait(&mut child) {
        Ok(Some(status)) => status,
        Ok(None) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(NotStarted::Late { program });
        }
        Err(error) => return Err(failed(error)),
    };
    if status.success() {
        return Ok(());
    }
    // A program that has failed has left nobody behind who could hold the other end.
    let mut said = Vec::new();
    if let Some(errors) = child.stderr.take() {
        let _ = errors.take(MAX_SAID).read_to_end(&mut said);
    }
    let said = one_line(&String::from_utf8_lossy(&said));
    Err(NotStarted::Failed { program, status, said })
}

fn wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + deadlines::WATCH_START;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rxl_core::domain::{GuestType, RunState};

    fn domain(name: &str) -> Domain {
        Domain {
            domid: DomId(7),
            name: name.into(),
            guest_type: GuestType::Pvh,
            state: RunState::Running,
            max_memory_kib: 0,
            vcpus: 1,
        }
    }

    #[test]
    fn a_unit_is_named_after_its_domain() {
        assert_eq!(unit("dom3"), "rxl-watch-dom3.service");
        assert_eq!(unit("a b/ä"), "rxl-watch-a\\x20b\\x2f\\xc3\\xa4.service");
        assert!(unit(&"/".repeat(300)).len() < 255);
    }

    #[test]
    fn a_name_that_could_be_misread_is_told_by_number() {
        assert_eq!(argument(&domain("dom3-a_b.c")), "dom3-a_b.c");
        for odd in ["", "12", "-x", "a b", "$HOME", "a%n", "ä"] {
            assert_eq!(argument(&domain(odd)), "7", "{odd}");
        }
    }

    #[test]
    fn a_mark_is_left_only_of_who_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path());
        let watcher = state.watch_lock(DomId(7)).unwrap();
        note(&state, DomId(7)).unwrap();
        assert!(was_watched(&state, DomId(7)).unwrap());
        assert!(!was_watched(&state, DomId(8)).unwrap());
        drop(watcher);
        note(&state, DomId(7)).unwrap();
        note(&state, DomId(7)).unwrap();
        assert!(!was_watched(&state, DomId(7)).unwrap());
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no unit >&2; exit 3"]);
        let told = run(command).unwrap_err().to_string();
        assert!(told.contains("no unit") && told.contains('3'), "{told}");
        assert!(run(Command::new("/nonexistent")).is_err());
        run(Command::new("true")).unwrap();
    }
}
