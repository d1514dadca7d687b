//! The agent's program against a xenstored on a socket: what it makes of the crate xenstore-rs.

mod daemon;

use std::net::Shutdown;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use daemon::Daemon;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rxl_agent_protocol::{Stamp, State, path};

/// Less than the agent's pace while nothing happens: only an event makes it answer so soon.
const SOON: Duration = Duration::from_secs(3);

/// Enough for the agent to find out by its deadline that it is not answered.
const RECOVERY: Duration = Duration::from_secs(20);

struct Bench {
    daemon: Daemon,
    agent: Child,
    _scratch: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("directory");
        let socket = scratch.path().join("socket");
        let daemon = Daemon::listen(&socket);
        let agent = Command::new(env!("CARGO_BIN_EXE_rxl-guest-agent"))
            .args(["run", "--own-namespace-only", "--runtime-directory"])
            .arg(scratch.path().join("run"))
            .env("XENSTORED_PATH", socket)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the agent starts");
        let bench = Self { daemon, agent, _scratch: scratch };
        bench.wait("the first state", SOON, |daemon| daemon.get(path::STATE).is_some());
        bench
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
    let tasks = std::fs::read_dir(format!("/proc/{}/task", bench.agent.id())).expect("proc");
    assert_eq!(tasks.count(), 1);
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
        stream.shutdown(Shutdown::Both).expect("shut");
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
    let mut bench = Bench::new();
    kill(Pid::from_raw(bench.agent.id() as i32), Signal::SIGTERM).expect("it runs");
    bench.wait("retired agent", SOON, |daemon| daemon.get(path::AGENT).is_none());
    assert!(bench.agent.wait().expect("reaped").success());
}
