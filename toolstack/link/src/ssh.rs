//! Starting rxl on the target, over ssh or whatever the user puts in its place (`xl migrate -s`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
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

use crate::descriptor::{Descriptor, LineReader, watched};
use crate::runtime::runtime;
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_core::text::one_line;

/// What is run on the target to receive a domain.
pub const RECEIVER: &str = "rxl receive";

/// What is run on the target to receive a domain where there is no rxl.
pub const XL_RECEIVER: &str = "xl migrate-receive";

/// What is run on a host to talk to the agents of its domains.
pub const AGENT_SERVER: &str = "rxl agent serve";

/// ssh asks a silent host for an answer after so many seconds, and gives it up after three
/// questions.
const SSH_ALIVE_SECONDS: u32 = 5;

/// Lines of a child's standard error that are kept for the error message.
const KEPT_LINES: usize = 5;

/// Longest line of a child's standard error that is taken for one, in bytes.
const LONGEST_LINE: usize = 4096;

/// Pause between two looks whether a child has ended, where the kernel has no pidfd.
const EXIT_PAUSE: Duration = Duration::from_millis(10);

/// How a target is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `ssh HOST rxl receive`.
    Ssh {
        /// The destination as ssh knows it: a host, `USER@HOST` or `ssh://...`.
        host: String,
    },
    /// `-s COMMAND`: `sh -c "exec COMMAND HOST rxl receive"`, as xl does it.
    Command {
        /// What takes ssh's place; a string for sh.
        command: String,
        /// The first argument of the command.
        host: String,
    },
    /// `-s ''`: the host argument is the whole command, for sh. It must end up in the receiver.
    Verbatim(String),
}

impl Route {
    /// The route that xl's option `-s` and the host argument name.
    pub fn new(ssh_command: Option<&str>, host: &str) -> Result<Self, Failure> {
        if host.is_empty() || host.starts_with('-') {
            let what = format!("'{}' is not a host", one_line(host));
            return Err(Failure::new(Exit::Usage, what).next("name the target as ssh knows it"));
        }
        Ok(match ssh_command {
            None => Self::Ssh { host: host.into() },
            Some("") => Self::Verbatim(host.into()),
            Some(command) => Self::Command { command: command.into(), host: host.into() },
        })
    }

    /// The target as the user named it.
    pub fn host(&self) -> &str {
        match self {
            Self::Ssh { host } | Self::Command { host, .. } => host,
            Self::Verbatim(command) => command,
        }
    }

    /// The target's name as ssh would connect to it, without the user; none where the whole command
    /// was given.
    pub fn address(&self) -> Option<&str> {
        match self {
            Self::Ssh { host } | Self::Command { host, .. } => {
                Some(host.rsplit_once('@').map_or(host, |(_, h)| h))
            }
            Self::Verbatim(_) => None,
        }
    }

    /// The command that runs a program there. None where the user's own command line leaves no
    /// room for another one.
    fn command(&self, program: &str) -> Option<Command> {
        Some(match self {
            Self::Ssh { host } => {
                let mut ssh = Command::new("ssh");
                ssh.arg("-T").arg("-o").arg(format!("ServerAliveInterval={SSH_ALIVE_SECONDS}"));
                ssh.args([
                    "-o",
                    "ServerAliveCountMax=3",
                    "-o",
                    "ConnectTimeout=30",
                    "--",
                    host,
                    program,
                ]);
                ssh
            }
            Self::Command { command, host } => shell(&format!("exec {command} {host} {program}")),
            Self::Verbatim(command) if [RECEIVER, XL_RECEIVER].contains(&program) => {
                shell(&format!("exec {command}"))
            }
            Self::Verbatim(_) => return None,
        })
    }
}

fn shell(script: &str) -> Command {
    let mut sh = Command::new("sh");
    sh.args(["-c", script]);
    sh
}

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
        let host = route.host().to_owned();
        let runtime = runtime().map_err(|e| Failure::internal("runtime", &e))?;
        let mut command = route.command(program).ok_or_else(|| no_room(program))?;
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
            runtime,
        };
        remote.watch().map_err(|e| unreachable("cannot watch", e))?;
        match (remote.child.stdin.take(), remote.child.stdout.take()) {
            (Some(to), Some(from)) => Ok((remote, Pipes { to: to.into(), from: from.into() })),
            _ => Err(Failure::new(Exit::Internal, "a child without its pipes")),
        }
    }

    /// Has the runtime watch the child's exit and its standard error.
    fn watch(&mut self) -> io::Result<()> {
        let pid = Pid::from_child(&self.child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(exit) => self.exit = Some(watched(&self.runtime, exit, Interest::READABLE)?),
            Err(Errno::NOSYS) => {}
            Err(errno) => return Err(errno.into()),
        }
        if let Some(stderr) = self.child.stderr.take() {
            let lines = LineReader::new(Descriptor::new(&self.runtime, stderr)?);
            let listen = listen(lines, self.host.clone(), self.last_lines.clone());
            self.listener = Some(self.runtime.spawn(listen));
        }
        Ok(())
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
        explain(&self.host, &self.program, status.and_then(|status| status.code()), &self.heard())
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

/// What an exit status of ssh's, or of the shell's, means.
fn explain(host: &str, program: &str, code: Option<i32>, said: &str) -> Failure {
    let tool = program.split(' ').next().unwrap_or(program);
    let install = match tool {
        "rxl" => {
            "install the rxl package there, or put the rxl binary into its PATH as /usr/bin/rxl"
        }
        _ => "install Xen's tools there, or name what takes ssh's place with -s",
    };
    match code {
        Some(127) => Failure::new(Exit::NoPeer, format!("no {tool} on {host}{said}")).next(install),
        Some(255) => Failure::new(Exit::Unreachable, format!("cannot reach {host}{said}"))
            .next(format!("check that `ssh {host} true` works as this user")),
        Some(code) => Failure::new(
            Exit::Unreachable,
            format!("{program} on {host} ended with status {code}{said}"),
        )
        .next(format!("run `ssh {host} {tool} --help` to see what is there")),
        None => Failure::new(Exit::Unreachable, format!("{host} did not answer{said}"))
            .next(format!("check that `ssh {host} {tool} --help` works as this user")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn an_option_is_not_a_host() {
        assert_eq!(Route::new(None, "-oProxyCommand=true").unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn an_address_has_no_user() {
        assert_eq!(Route::new(None, "root@nodeB").unwrap().address(), Some("nodeB"));
        assert_eq!(Route::new(Some(""), "ssh nodeB rxl receive").unwrap().address(), None);
    }

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

    #[test]
    fn a_child_that_hangs_is_ended() {
        let (mut remote, _pipes) =
            Remote::start(&Route::Verbatim("sleep 1000".into()), RECEIVER).unwrap();
        assert!(remote.end(Duration::from_millis(50)).is_none());
        assert!(matches!(remote.child.try_wait(), Ok(Some(_))));
    }

    /// As ssh's ControlPersist leaves one that holds standard error.
    #[test]
    fn a_process_that_is_left_behind_is_not_waited_for() {
        let script = "echo last words >&2; sleep 60 >/dev/null & exit 255";
        let route = Route::Verbatim(format!("sh -c '{script}'"));
        let (mut remote, _pipes) = Remote::start(&route, RECEIVER).unwrap();
        let begun = Instant::now();
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
