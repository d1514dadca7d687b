//! Local child processes: a deadline on each, and none left behind.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long output is awaited from pipes whose command has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// What a finished command left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The exit status, or 128 plus the number of the signal that ended the command. ssh's own
    /// failures are 255.
    pub status: i32,
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
}

impl Output {
    /// Whether the exit status is 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

/// The exit status as a shell would give it.
pub(crate) fn status_number(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Bytes that a thread collects from a pipe.
#[derive(Clone, Default)]
pub(crate) struct Collected(Arc<Mutex<Vec<u8>>>);

impl Collected {
    /// Starts a thread that reads until the end of `from`.
    pub(crate) fn start(&self, mut from: impl Read + Send + 'static) -> JoinHandle<()> {
        let sink = self.clone();
        thread::spawn(move || {
            let mut buffer = [0; 16384];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                sink.0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&buffer[..count]);
            }
        })
    }

    /// A copy of what came so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// A child that is killed and reaped when dropped.
pub(crate) struct Reaped {
    child: Child,
}

impl Reaped {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let child =
            command.spawn().with_context(|| format!("cannot start {}", program(command)))?;
        Ok(Self { child })
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for the end; `None` when the deadline came first.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        // A child that has ended already was reaped by try_wait, and then both calls fail
        // harmlessly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// Runs a command to its end, feeding it `stdin`.
///
/// # Errors
/// The command cannot be started, or does not end within `limit` (it is killed then, and what it
/// wrote is in the error).
pub(crate) fn run(command: &mut Command, stdin: Vec<u8>, limit: Duration) -> Result<Output> {
    let deadline = Instant::now() + limit;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Reaped::spawn(command)?;
    let (stdout, stderr) = (Collected::default(), Collected::default());
    let child = process.child();
    let readers = [
        child.stdout.take().map(|pipe| stdout.start(pipe)),
        child.stderr.take().map(|pipe| stderr.start(pipe)),
    ];
    if let Some(mut pipe) = child.stdin.take() {
        // A command that does not read all of its input makes the write fail; its status tells
        // whether that matters.
        thread::spawn(move || pipe.write_all(&stdin).unwrap_or_default());
    }
    let status = process.wait_until(deadline)?;
    drop(process);
    // The pipes end with the command, unless it left a child behind that holds them.
    let rest_deadline = deadline + LAST_OUTPUT;
    while readers.iter().flatten().any(|reader| !reader.is_finished())
        && Instant::now() < rest_deadline
    {
        thread::sleep(POLL_INTERVAL);
    }
    let Some(status) = status else {
        bail!(
            "no end after {limit:?}; stdout: {}; stderr: {}",
            stdout.text().trim_end(),
            stderr.text().trim_end()
        );
    };
    Ok(Output { status: status_number(status), stdout: stdout.text(), stderr: stderr.text() })
}

/// Runs a command to its end with its standard output in a file; returns its status and standard
/// error.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_into(
    command: &mut Command,
    stdout: File,
    limit: Duration,
) -> Result<(i32, String)> {
    let deadline = Instant::now() + limit;
    let mut process =
        Reaped::spawn(command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()))?;
    let stderr = Collected::default();
    if let Some(pipe) = process.child().stderr.take() {
        stderr.start(pipe);
    }
    let status = process
        .wait_until(deadline)?
        .with_context(|| format!("{}: no end after {limit:?}", program(command)))?;
    Ok((status_number(status), stderr.text()))
}

/// Like [`run`] without input, and fails unless the command succeeds.
pub(crate) fn check(command: &mut Command, limit: Duration) -> Result<Output> {
    let output = run(command, Vec::new(), limit).with_context(|| program(command))?;
    if !output.success() {
        bail!("{} ended with {}: {}", program(command), output.status, output.stderr.trim_end());
    }
    Ok(output)
}

/// A job for the spawning thread: the command, and where its child goes.
type SpawnJob = (Command, Sender<std::io::Result<Child>>);

/// Starts a command from a thread that lives as long as the process. PR_SET_PDEATHSIG fires when
/// the *thread* that forked ends, and a test's thread may end before its lab does.
pub(crate) fn spawn_from_lasting_thread(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<SpawnJob>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue): (Sender<SpawnJob>, Receiver<SpawnJob>) = channel();
        thread::spawn(move || {
            for (mut command, reply) in queue {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let name = program(&command);
    let (reply, result) = channel();
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, reply))?;
    result.recv()?.with_context(|| format!("cannot start {name}"))
}

/// A process by its id and start time: an id alone may since belong to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pid: i32,
    /// Clock ticks after boot; field 22 of proc(5)'s stat.
    start: u64,
}

impl ProcessId {
    /// The process that now has this id; `None` when there is none.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name, in parentheses, may hold anything; the fields after it are numbers
        // but for the state.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        let start = fields.nth(18)?.parse().ok()?;
        (state != "Z").then_some(Self { pid: i32::try_from(pid).ok()?, start })
    }

    /// Its number, which another process may have later.
    pub(crate) fn pid(self) -> i32 {
        self.pid
    }

    /// The process that calls.
    pub(crate) fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(self) -> bool {
        u32::try_from(self.pid).is_ok_and(|pid| Self::of(pid) == Some(self))
    }

    /// Kills it, if it still runs, and waits for its end.
    pub(crate) fn kill(self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            if Instant::now() >= deadline {
                bail!("process {} does not end", self.pid);
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

/// Polls until `ready` gives a value.
///
/// # Errors
/// `ready` failed, or `limit` passed; then `what` is named.
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not after {limit:?}");
        }
        thread::sleep(POLL_INTERVAL * 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_are_told_apart() {
        let output =
            run(&mut shell("cat; echo err >&2; exit 3"), b"in".to_vec(), Duration::from_secs(10))
                .unwrap();
        assert_eq!(
            output,
            Output { status: 3, stdout: "in".to_owned(), stderr: "err\n".to_owned() }
        );
        assert!(check(&mut shell("exit 1"), Duration::from_secs(10)).is_err());
    }

    #[test]
    fn a_command_past_its_deadline_is_ended_and_its_output_kept() {
        let start = Instant::now();
        let error =
            run(&mut shell("echo before; exec sleep 60"), Vec::new(), Duration::from_millis(300))
                .unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(30));
        assert!(error.to_string().contains("before"), "{error}");
    }

    #[test]
    fn a_process_is_known_by_more_than_its_id() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive());
        let other = ProcessId { start: own.start + 1, ..own };
        assert!(!other.is_alive());
        other.kill(Duration::from_secs(1)).expect("nothing to kill, least of all this process");
    }

    #[test]
    fn a_killed_process_is_gone() {
        let mut child = spawn_from_lasting_thread({
            let mut command = Command::new("sleep");
            command.arg("60");
            command
        })
        .unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        id.kill(Duration::from_secs(10)).unwrap();
        assert!(!id.is_alive());
        child.wait().unwrap();
    }
}
