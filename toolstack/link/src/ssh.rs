//! Starting rxl on the target, over ssh or whatever the user puts in its place (`xl migrate -s`).

use rxl_core::deadlines;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rxl_core::error::{Exit, Failure};
use rxl_core::text::one_line;

/// What is run on the target to receive a domain.
pub const RECEIVER: &str = "rxl receive";

/// What is run on the target to receive a domain where there is no rxl.
pub const XL_RECEIVER: &str = "xl migrate-receive";

/// What is run on a host to talk to the agents of its domains.
pub const AGENT_SERVER: &str = "rxl agent serve";

/// How ssh is told to notice a dead network: after this many seconds without an answer it asks,
/// three times.
const SSH_ALIVE_SECONDS: u32 = 5;

/// Lines of a child's standard error that are kept for the error message.
const KEPT_LINES: usize = 5;

/// How a target is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `ssh HOST rxl receive`.
    Ssh {
        /// ssh's destination.
        host: String,
    },
    /// `-s COMMAND`: `sh -c "exec COMMAND HOST rxl receive"`, as xl does it.
    Command {
        /// What takes ssh's place; a string for sh.
        command: String,
        /// Its first argument.
        host: String,
    },
    /// `-s ''`: the host argument is the whole command, for sh. It must end up in the receiver.
    Verbatim(String),
}

impl Route {
    /// Reads xl's `-s` and the host argument.
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

    /// None where the user's own command line leaves no room for another one.
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

/// A running `rxl receive` at the other end. Dropping it, after its pipes, waits for its end for a
/// moment, then kills and reaps it.
pub struct Remote {
    child: Child,
    host: String,
    program: String,
    last_words: Arc<Mutex<VecDeque<String>>>,
    listener: Option<JoinHandle<()>>,
}

/// The child's ends of its pipes, as the session uses them.
pub struct Pipes {
    /// To the target.
    pub to: OwnedFd,
    /// From the target.
    pub from: OwnedFd,
}

impl Remote {
    /// Starts a program there, with its arguments. Whether it got through shows when it answers.
    pub fn start(route: &Route, program: &str) -> Result<(Self, Pipes), Failure> {
        let host = route.host().to_owned();
        let no_room = || {
            Failure::new(
                Exit::Usage,
                format!("-s '' leaves no way to run `{program}` on the target"),
            )
        };
        let mut child = route
            .command(program)
            .ok_or_else(no_room)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| {
                Failure::new(Exit::Unreachable, format!("cannot start ssh to {host}: {e}"))
            })?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let listener = stderr.map(|stderr| listen(stderr, host.clone(), last_words.clone()));
        let remote = Self { child, host, program: program.into(), last_words, listener };
        match (stdin, stdout) {
            (Some(to), Some(from)) => Ok((remote, Pipes { to: to.into(), from: from.into() })),
            _ => Err(Failure::new(Exit::Internal, "a child without its pipes")),
        }
    }

    /// Why it is gone, in the user's terms. Waits a moment for its exit status; ends it when it has
    /// none to give.
    pub fn post_mortem(&mut self) -> Failure {
        let status = self.end(Duration::from_secs(3));
        if let Some(listener) = self.listener.take() {
            // Its pipe is closed now that the child is gone, unless a grandchild holds it: then
            // what was heard must do.
            if status.is_some() {
                let _ = listener.join();
            }
        }
        explain(&self.host, &self.program, status.and_then(|status| status.code()), &self.heard())
    }

    /// The last lines of its standard error, in brackets after a space; nothing where it was
    /// silent.
    pub fn heard(&self) -> String {
        let lines = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let words = lines.iter().map(String::as_str).collect::<Vec<_>>().join(" / ");
        if words.is_empty() { words } else { format!(" ({words})") }
    }

    /// Waits for its end until the deadline, then kills it. Its status, when it ended by itself.
    pub fn end(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Err(_) => return None,
            }
        }
        // Ours by its handle; an error means that it has ended just now.
        let _ = self.child.kill();
        let _ = self.child.wait();
        None
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.end(deadlines::SSH_EXIT);
    }
}

fn listen(stderr: ChildStderr, host: String, kept: Arc<Mutex<VecDeque<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        // A bound for each line: the other end may send anything.
        let mut lines = BufReader::new(stderr);
        let mut line = Vec::new();
        while matches!(lines.by_ref().take(4096).read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = one_line(&String::from_utf8_lossy(&line));
            line.clear();
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
    })
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
}
