//! A program that runs on another host.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::ended::{explain, turned_away};
use super::greeting::{Answer, Relay};
use super::route::Route;
use crate::descriptor::{Descriptor, LineReader, watched};
use crate::runtime::runtime;
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_core::text::one_line;

/// Lines of a child's standard error that are kept for the error message.
const KEPT_LINES: usize = 5;

/// Longest line of a child's standard error that is taken for one, in bytes.
const LONGEST_LINE: usize = 4096;

/// Pause between two looks whether a child has ended, where the kernel has no pidfd.
const EXIT_PAUSE: Duration = Duration::from_millis(10);

/// A program that runs on another host, behind ssh. Dropping it, after its pipes, waits for its end
/// for a moment, then kills and reaps it.
pub struct Remote {
    child: Child,
    /// Readable once the child has ended. None on kernels before 5.3, which have no pidfd.
    exit: Option<AsyncFd<OwnedFd>>,
    host: String,
    program: String,
    last_lines: LastLines,
    listener: Option<JoinHandle<()>>,
    /// What passes its output on, where what it answers can be told from what others print there.
    relay: Option<Relay>,
    runtime: Handle,
}

/// The last lines of a child's standard error.
type LastLines = Arc<Mutex<VecDeque<String>>>;

/// The child's ends of its pipes, as the session uses them.
pub struct Pipes {
    /// What is written here is the remote program's standard input.
    pub to: OwnedFd,
    /// The remote program's standard output.
    pub from: OwnedFd,
}

impl Remote {
    /// Starts a program there, with its arguments. Whether it got through shows when it answers.
    pub fn start(route: &Route, program: &str) -> Result<(Self, Pipes), Failure> {
        Self::start_for(route, program, deadlines::SILENCE)
    }

    /// The same, on a connection that may be silent for so long.
    pub fn start_for(
        route: &Route,
        program: &str,
        silence: Duration,
    ) -> Result<(Self, Pipes), Failure> {
        let host = route.host().to_owned();
        let runtime = runtime().map_err(|e| Failure::internal("runtime", &e))?;
        let mut command = route.command(program, silence).ok_or_else(|| no_room(program))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let unreachable = |what: &str, e: io::Error| {
            Failure::new(Exit::Unreachable, format!("{what} ssh to {host}: {e}"))
        };
        let child = command.spawn().map_err(|e| unreachable("cannot start", e))?;
        let mut remote = Self {
            child,
            exit: None,
            host: host.clone(),
            program: program.into(),
            last_lines: LastLines::default(),
            listener: None,
            relay: None,
            runtime,
        };
        let pipes = remote.watch().map_err(|e| unreachable("cannot watch", e))?;
        pipes
            .map(|pipes| (remote, pipes))
            .ok_or_else(|| Failure::new(Exit::Internal, "a child without its pipes"))
    }

    /// Has the runtime watch the child's exit, its standard error, and its output until that is
    /// the program's.
    fn watch(&mut self) -> io::Result<Option<Pipes>> {
        self.exit = self.pidfd()?;
        if let Some(stderr) = self.child.stderr.take() {
            let lines = LineReader::new(Descriptor::new(&self.runtime, stderr)?);
            let listen = listen(lines, self.host.clone(), self.last_lines.clone());
            self.listener = Some(self.runtime.spawn(listen));
        }
        let (Some(to), Some(from)) = (self.child.stdin.take(), self.child.stdout.take()) else {
            return Ok(None);
        };
        let from = match Answer::of(&self.program) {
            None => from.into(),
            Some(answer) => {
                let exit = self.pidfd()?;
                let (relay, from) =
                    Relay::start(&self.runtime, answer, &self.host, from.into(), exit)?;
                self.relay = Some(relay);
                from
            }
        };
        Ok(Some(Pipes { to: to.into(), from }))
    }

    /// Readable once the child has ended.
    fn pidfd(&self) -> io::Result<Option<AsyncFd<OwnedFd>>> {
        match pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()) {
            Ok(exit) => Ok(Some(watched(&self.runtime, exit, Interest::READABLE)?)),
            Err(Errno::NOSYS) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until the program answers. False where it will not: its output has ended.
    pub async fn answered(&mut self) -> bool {
        match &mut self.relay {
            Some(relay) => relay.answered().await,
            None => true,
        }
    }

    /// Whether the host turned the connection away before it asked who comes, as sshd does with
    /// those beyond `MaxStartups`. Known once it has ended.
    pub fn was_turned_away(&self) -> bool {
        let lines = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        turned_away(lines.iter().map(String::as_str))
    }

    /// Why it is gone, in the user's terms. Waits a moment for its exit status; ends it when it has
    /// none to give.
    pub fn post_mortem(&mut self) -> Failure {
        let runtime = self.runtime.clone();
        runtime.block_on(self.post_mortem_on_runtime())
    }

    /// The same, for those who wait on the runtime.
    pub async fn post_mortem_on_runtime(&mut self) -> Failure {
        let status = self.ended(deadlines::SSH_STATUS).await;
        let code = status.and_then(|status| status.code());
        let printed = self.relay.as_ref().and_then(Relay::printed);
        explain(&self.host, &self.program, code, &self.heard(), printed.as_deref())
    }

    /// The last lines of its standard error, in brackets after a space; nothing where it was
    /// silent.
    pub fn heard(&self) -> String {
        let lines = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        let words = lines.iter().map(String::as_str).collect::<Vec<_>>().join(" / ");
        if words.is_empty() { words } else { format!(" ({words})") }
    }

    /// Waits for its end until the deadline, then kills it. Its status, when it ended by itself.
    pub fn end(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.ended(deadline))
    }

    async fn ended(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let exited = exited(&mut self.child, self.exit.as_ref());
        let status = timeout(deadline, exited).await.ok().and_then(Result::ok);
        if status.is_none() {
            // Ours by its handle; an error means that it has ended just now.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        self.hear_out().await;
        status
    }

    /// What the child wrote before its end is still read. A process that it left behind may hold
    /// its standard error open for ever (ssh's ControlPersist does): that is not waited for.
    async fn hear_out(&mut self) {
        if let Some(mut listener) = self.listener.take()
            && timeout(deadlines::LAST_WORDS, &mut listener).await.is_err()
        {
            listener.abort();
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if Handle::try_current().is_err() {
            self.end(deadlines::SSH_EXIT);
        } else if matches!(self.child.try_wait(), Ok(None)) {
            // On the runtime nothing can be waited for.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits for the ends of several programs at once, as dropping each of them would one after the
/// other.
pub fn end_all(mut remotes: Vec<Remote>) {
    if let Some(runtime) = remotes.first().map(|remote| remote.runtime.clone()) {
        let ends = remotes.iter_mut().map(|remote| remote.ended(deadlines::SSH_EXIT));
        runtime.block_on(join_all(ends));
    }
}

fn no_room(program: &str) -> Failure {
    let what = format!("-s '' leaves no way to run `{program}` on the target");
    Failure::new(Exit::Usage, what)
}

/// A child's status as soon as it has ended.
async fn exited(child: &mut Child, exit: Option<&AsyncFd<OwnedFd>>) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        match exit {
            Some(exit) => drop(exit.readable().await?),
            None => sleep(EXIT_PAUSE).await,
        }
    }
}

/// Logs a child's standard error, and keeps its last lines. A line is cut at its bound, as the
/// other end may send anything.
async fn listen(mut lines: LineReader, host: String, kept: LastLines) {
    while let Ok(line) = lines.line(LONGEST_LINE).await
        && !line.is_empty()
    {
        let text = one_line(&String::from_utf8_lossy(&line));
        if text.is_empty() {
            continue;
        }
        tracing::info!(target: "remote", "{host}: {text}");
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(text);
        if kept.len() > KEPT_LINES {
            kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::time::Instant;

    use super::*;
    use crate::ssh::RECEIVER;

    #[test]
    fn a_missing_rxl_is_told_apart_from_a_missing_host() {
        let route = Route::new(Some("sh -c 'echo nothing here >&2; exit 127'"), "nowhere").unwrap();
        let (mut remote, _pipes) = Remote::start(&route, RECEIVER).unwrap();
        let failure = remote.post_mortem();
        assert_eq!(failure.exit, Exit::NoPeer);
        assert!(failure.to_string().contains("nothing here"), "{failure}");
        let route = Route::new(Some("sh -c 'exit 255'"), "nowhere").unwrap();
        let (mut remote, _pipes) = Remote::start(&route, RECEIVER).unwrap();
        assert_eq!(remote.post_mortem().exit, Exit::Unreachable);
    }

    /// As a start-up file of the login shell there prints.
    #[test]
    fn what_is_printed_before_the_program_answers_is_left_out() {
        let script = r"echo hello; printf world; printf '\nrxl receive: ready\nanswer'";
        let (mut remote, pipes) =
            Remote::start(&Route::Verbatim(format!("sh -c \"{script}\"")), RECEIVER).unwrap();
        let mut answer = String::new();
        File::from(pipes.from).read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
        assert!(runtime().unwrap().block_on(remote.answered()));
        assert!(!remote.post_mortem().to_string().contains("printed 'hello"));
    }

    #[test]
    fn who_prints_and_does_not_answer_is_told_by_its_first_line() {
        let endless = "echo; echo This account is not available.; yes";
        for script in ["echo This account is not available.; echo; exit 1", endless] {
            let route = Route::Verbatim(format!("sh -c '{script}'"));
            let (mut remote, pipes) = Remote::start(&route, RECEIVER).unwrap();
            assert!(!runtime().unwrap().block_on(remote.answered()));
            assert_eq!(File::from(pipes.from).read(&mut [0; 1]).unwrap(), 0, "no answer");
            let failure = remote.post_mortem();
            assert_eq!(failure.exit, Exit::NoPeer);
            assert!(failure.what.contains("printed 'This account is not available.'"), "{failure}");
        }
    }

    #[test]
    fn a_child_that_hangs_is_ended() {
        let (mut remote, _pipes) =
            Remote::start(&Route::Verbatim("sleep 1000".into()), RECEIVER).unwrap();
        assert!(remote.end(Duration::from_millis(50)).is_none());
        assert!(matches!(remote.child.try_wait(), Ok(Some(_))));
    }

    /// As ssh's ControlPersist leaves one that holds standard error, a wrapper one that holds all.
    #[test]
    fn a_process_that_is_left_behind_is_not_waited_for() {
        let script = "echo last words >&2; sleep 60 & exit 255";
        let route = Route::Verbatim(format!("sh -c '{script}'"));
        let (mut remote, pipes) = Remote::start(&route, RECEIVER).unwrap();
        let begun = Instant::now();
        assert_eq!(File::from(pipes.from).read(&mut [0; 1]).unwrap(), 0, "it has ended");
        let failure = remote.post_mortem();
        drop(remote);
        assert!(begun.elapsed() < Duration::from_secs(10), "it was waited for");
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.to_string().contains("last words"), "{failure}");
    }

    #[test]
    fn without_a_pidfd_the_exit_is_seen_too() {
        let route = Route::Verbatim("sh -c 'sleep 0.1; exit 3'".into());
        let (mut remote, _pipes) = Remote::start(&route, RECEIVER).unwrap();
        remote.exit = None;
        assert_eq!(remote.end(Duration::from_secs(10)).and_then(|status| status.code()), Some(3));
    }

    #[test]
    fn several_are_waited_for_at_once() {
        let start = || Remote::start(&Route::Verbatim("sleep 0.5".into()), RECEIVER).unwrap().0;
        let remotes: Vec<_> = (0..8).map(|_| start()).collect();
        let begun = Instant::now();
        end_all(remotes);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
}
