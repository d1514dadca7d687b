//! The agent's program against a xenstored on a socket, and behind the kernel's device: what it
//! makes of the crate xenstore-rs.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod daemon;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use daemon::Daemon;
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{Shutdown, shutdown};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Pid, geteuid, ttyname};
use rxl_agent_protocol::{Stamp, State, path};

/// Less than the agent's pace while nothing happens: only an event makes it answer so soon.
const SOON: Duration = Duration::from_secs(3);

/// Enough for the agent to find out by its deadline that it is not answered.
const RECOVERY: Duration = Duration::from_secs(20);

const AGENT: &str = env!("CARGO_BIN_EXE_rxl-guest-agent");

struct Bench {
    daemon: Daemon,
    agent: Child,
    _scratch: tempfile::TempDir,
    /// Held open, because a pty without a slave reads as an error.
    _device: Option<OwnedFd>,
}

/// Runs a program with a /dev of its own, in which /dev/xen/xenbus is another device. Arguments: an
/// empty directory, that device, the program and its arguments.
const WITH_DEVICE: &str = r#"set -e
mount -t tmpfs none "$1"
mkdir "$1/pts" "$1/xen"
for node in null zero random urandom; do cp -a "/dev/$node" "$1/"; done
mount --bind /dev/pts "$1/pts"
ln -s "$2" "$1/xen/xenbus"
mount --move "$1" /dev
shift 2
exec "$@""#;

impl Bench {
    /// On a socket.
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("directory");
        let socket = scratch.path().join("socket");
        let daemon = Daemon::listen(&socket);
        let mut command = Command::new(AGENT);
        command.env("XENSTORED_PATH", socket);
        Self::start(daemon, command, scratch, None)
    }

    /// Behind the kernel's device, in whose place stands a pseudoterminal: like the device, one
    /// that epoll(7) takes, and no socket. None without root's rights.
    fn behind_device() -> Option<Self> {
        if !geteuid().is_root() {
            eprintln!("SKIPPED: a /dev of its own needs root");
            return None;
        }
        let scratch = tempfile::tempdir().expect("directory");
        let pty = openpty(None, None).expect("pty");
        let mut mode = tcgetattr(&pty.slave).expect("mode");
        cfmakeraw(&mut mode);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &mode).expect("raw");
        let daemon = Daemon::default();
        daemon.attach(pty.master);
        let dev = scratch.path().join("dev");
        std::fs::create_dir(&dev).expect("directory");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", WITH_DEVICE, "sh"]).arg(dev);
        command.arg(ttyname(&pty.slave).expect("name")).arg(AGENT).env_remove("XENSTORED_PATH");
        Some(Self::start(daemon, command, scratch, Some(pty.slave)))
    }

    fn start(
        daemon: Daemon,
        mut command: Command,
        scratch: tempfile::TempDir,
        device: Option<OwnedFd>,
    ) -> Self {
        command.args(["run", "--own-namespace-only", "--runtime-directory"]);
        command.arg(scratch.path().join("run"));
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let agent = command.spawn().expect("the agent starts");
        let bench = Self { daemon, agent, _scratch: scratch, _device: device };
        bench.wait("first state", SOON, |daemon| daemon.get(path::STATE).is_some());
        bench
    }

    fn threads(&self) -> usize {
        let tasks = Path::new("/proc").join(self.agent.id().to_string()).join("task");
        std::fs::read_dir(tasks).expect("proc").count()
    }

    fn wait(&self, what: &str, longest: Duration, holds: impl Fn(&Daemon) -> bool) {
        let start = Instant::now();
        while !holds(&self.daemon) {
            assert!(start.elapsed() < longest, "no {what} after {longest:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn survey(&self, sequence: u32, longest: Duration) {
        self.daemon.put(path::COMMAND, format!("7 {sequence} survey"));
        self.wait_for_answer(sequence, longest);
    }

    /// Ends the agent by a signal while it waits.
    fn terminate(&mut self) {
        kill(Pid::from_raw(self.agent.id() as i32), Signal::SIGTERM).expect("it runs");
        self.wait("retired agent", SOON, |daemon| daemon.get(path::AGENT).is_none());
        assert!(self.agent.wait().expect("reaped").success());
    }

    fn wait_for_answer(&self, sequence: u32, longest: Duration) {
        let stamp = Stamp { epoch: 7, sequence };
        self.wait("answer", longest, |daemon| {
            let state = daemon.get(path::STATE).and_then(|text| text.parse::<State>().ok());
            state.is_some_and(|state| state.stamp == stamp)
        });
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

#[test]
fn an_event_wakes_it_and_it_has_one_thread() {
    let bench = Bench::new();
    (1..=5).for_each(|sequence| bench.survey(sequence, SOON));
    assert_eq!(bench.threads(), 1);
}

#[test]
fn behind_the_device_an_event_wakes_it_and_the_thread_that_opened_it_has_ended() {
    let Some(mut bench) = Bench::behind_device() else { return };
    (1..=5).for_each(|sequence| bench.survey(sequence, SOON));
    assert_eq!(bench.threads(), 1);
    bench.terminate();
}

/// The client holds 8 events and then takes no answer, unless somebody takes the events.
#[test]
fn more_events_than_the_client_holds_do_not_keep_answers_from_it() {
    let bench = Bench::new();
    bench.daemon.inner().flood = 20;
    bench.survey(1, SOON);
}

#[test]
fn after_a_request_without_answer_it_connects_anew_and_leaves_nothing_open() {
    let bench = Bench::new();
    bench.daemon.inner().mute_below = 1;
    bench.survey(1, RECOVERY);
    bench.wait("closed connection", SOON, |daemon| !daemon.inner().open.contains_key(&0));
    assert_eq!(bench.daemon.inner().accepted, 2);
    bench.survey(2, SOON);
}

#[test]
fn after_a_lost_connection_it_connects_anew() {
    let bench = Bench::new();
    for stream in bench.daemon.inner().open.values() {
        shutdown(stream.as_raw_fd(), Shutdown::Both).expect("shut");
    }
    bench.survey(1, RECOVERY);
    bench.survey(2, SOON);
}

#[test]
fn a_value_that_is_not_utf8_is_ignored_and_the_next_is_obeyed() {
    let bench = Bench::new();
    bench.daemon.put(path::COMMAND, b"7 1 survey \xff");
    bench.survey(2, SOON);
    assert_eq!(bench.daemon.inner().accepted, 1);
}

#[test]
fn a_signal_ends_it_while_it_waits() {
    Bench::new().terminate();
}
