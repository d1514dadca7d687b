//! What is left on both hosts when the connection is lost, or a process killed, between READY and
//! Done; and what the source's guard was told last at each of these places.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rxl_core::domain::{GuestType, RunState};
use rxl_core::error::Exit;
use rxl_recover::{Answer, Asking, Peer, Question, Unreachable};
use rxl_testkit::memory::{Faults, Guest};
use support::{Pair, small_guest, told};

const AWAY: &str = "dom3--migratedaway";

fn at_source(pair: &Pair) -> Vec<(String, RunState)> {
    pair.host.domains().into_iter().map(|kept| (kept.domain.name, kept.domain.state)).collect()
}

fn at_target(pair: &Pair) -> Option<(serde_json::Value, serde_json::Value)> {
    let outcome = pair.outcome();
    let domain = outcome["domains"].get(0)?;
    Some((domain["name"].clone(), domain["state"].clone()))
}

/// GO cannot be written: the source runs on, whatever it sees first. The target asks the source,
/// and destroys its copy.
#[test]
fn lost_after_ready_before_go() {
    let pair = Pair::with(small_guest(), "lose=ready");
    let heard = pair.host.hear_guards();
    let failure = pair.migrate().0.unwrap_err();
    assert_eq!(failure.exit, Exit::FailedSourceRuns, "{failure}");
    assert_eq!(at_source(&pair), [("dom3".into(), RunState::Running)]);
    assert_eq!(at_target(&pair), None);
    let said = pair.outcome()["failure"].to_string();
    assert!(said.contains("is not to run here, and is destroyed"), "{said}");
    assert_eq!(told(&heard), ["settle", "settle, asked", "done"]);
}

/// The receiver is gone when the domain has been renamed. The guard guards until then.
#[test]
fn lost_after_the_rename_before_go() {
    let pair = Pair::new(small_guest());
    let heard = pair.host.hear_guards();
    let pid_file = pair.dir.path().join("session.pid");
    let (sent, tell) = std::sync::mpsc::channel();
    let host = pair.host.clone();
    pair.host.when_renamed(move || {
        let names: Vec<_> = host.domains().into_iter().map(|kept| kept.domain.name).collect();
        kill_and_wait(&pid_file);
        sent.send((names, told(&heard), heard)).unwrap();
    });
    let failure = pair.migrate().0.unwrap_err();
    let (names, before, heard) = tell.recv().unwrap();
    // Killed here, the source's guard would ask the target.
    assert_eq!((names, before), (vec![AWAY.to_owned()], vec!["settle", "settle, asked"]));
    assert_eq!(failure.exit, Exit::FailedSourceRuns, "{failure}");
    assert!(failure.to_string().contains("dom3 runs on here"), "{failure}");
    assert_eq!(at_source(&pair), [("dom3".into(), RunState::Running)]);
    assert_eq!(told(&heard).last(), Some(&"done"));
}

fn kill_and_wait(pid_file: &Path) {
    let pid: i32 = std::fs::read_to_string(pid_file).unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let process = PathBuf::from(format!("/proc/{pid}"));
    // Its files are closed when the last of its threads has ended; its leader is a zombie by then.
    let has_ended = || {
        let threads = std::fs::read_dir(process.join("task")).map_or(0, Iterator::count);
        let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        threads == 0 || (threads == 1 && stat.contains(") Z"))
    };
    while !has_ended() {
        assert!(Instant::now() < deadline, "the receiver does not die");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// GO is lost with the connection. Each side asks the other over a fresh connection: whoever is
/// first decides, and exactly one copy is left, running.
#[test]
fn lost_with_go() {
    let pair = Pair::with(small_guest(), "lose=go");
    let heard = pair.host.hear_guards();
    let result = pair.migrate().0;
    match (result, at_source(&pair).as_slice(), at_target(&pair)) {
        (Ok(()), [], Some(target)) => assert_eq!(target, ("dom3".into(), "Running".into())),
        (Err(failure), [source], None) => {
            assert_eq!(failure.exit, Exit::FailedSourceRuns, "{failure}");
            assert_eq!(source, &("dom3".into(), RunState::Running));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(told(&heard), ["settle", "settle, asked", "done"]);
}

/// It runs at the target, which says so when it is asked again.
#[test]
fn lost_after_go_before_done() {
    let pair = Pair::with(small_guest(), "lose=done");
    let heard = pair.host.hear_guards();
    pair.migrate().0.unwrap();
    assert_eq!(at_source(&pair), []);
    assert_eq!(at_target(&pair), Some(("dom3".into(), "Running".into())));
    assert_eq!(told(&heard), ["settle", "settle, asked", "done"]);
}

/// Nobody answers: both copies are kept, standing still, and nothing but the records is left to
/// decide.
#[test]
fn nobody_answers() {
    struct Nobody;
    impl Peer for Nobody {
        fn ask(&self, _id: &str, _question: Question) -> Result<Answer, Unreachable> {
            Err(Unreachable("no route to host".into()))
        }
    }
    let mut pair = Pair::with(small_guest(), "lose=done");
    let try_for = Duration::from_millis(50);
    pair.request.asking = Asking { peer: Some(Arc::new(Nobody)), try_for };
    let heard = pair.host.hear_guards();
    let failure = pair.migrate().0.unwrap_err();
    assert_eq!(failure.exit, Exit::Undecided, "{failure}");
    assert!(failure.to_string().contains("no route to host"), "{failure}");
    assert_eq!(at_source(&pair), [(AWAY.into(), RunState::Suspended)]);
    assert_eq!(told(&heard).last(), Some(&"done"));
}

/// A guard that is slow to exit does not prolong the downtime.
#[test]
fn go_does_not_wait_for_the_guards_exit() {
    let exit = Duration::from_secs(8);
    let pair = Pair::new(small_guest());
    let _heard = pair.host.hear_guards();
    pair.host.delay_guards(exit);
    let (result, report) = pair.migrate();
    result.unwrap();
    let handover = report.downtime_split.unwrap().handover;
    assert!(handover < exit.as_secs_f64() * 1000.0, "{handover} ms");
    assert!(report.total_time > exit.as_secs_f64() * 1000.0, "it is reaped at the end");
}

/// An error of log-dirty mode's must not keep the only copy from being resumed.
#[test]
fn a_domain_that_is_given_back_runs_whatever_log_dirty_mode_says() {
    let pair = Pair::with(small_guest(), "fault=unpause");
    pair.host.set_faults(Faults { logdirty: true, ..Faults::default() });
    let failure = pair.migrate().0.unwrap_err();
    assert_eq!(failure.exit, Exit::FailedSourceRuns, "{failure}");
    assert!(failure.to_string().contains("dom3 runs on here"), "{failure}");
    assert_eq!(at_source(&pair), [("dom3".into(), RunState::Running)]);
}

/// Its guard tries again to give it its name back, and `rxl recover` after it: the record is open.
#[test]
fn a_domain_that_kept_the_wrong_name_is_not_settled() {
    let pair = Pair::with(small_guest(), "fault=unpause");
    let heard = pair.host.hear_guards();
    let host = pair.host.clone();
    pair.host.when_renamed(move || host.set_faults(Faults { rename: true, ..Faults::default() }));
    let failure = pair.migrate().0.unwrap_err();
    assert!(failure.what.contains("could not be renamed"), "{failure}");
    assert_eq!(at_source(&pair), [(AWAY.into(), RunState::Running)]);
    assert_eq!(told(&heard).last(), Some(&"settle, asked"));
}

/// The thread that reads libxl's stream would wait minutes for its end.
#[test]
fn a_journal_that_cannot_be_written_ends_the_migration_at_once() {
    let pair = Pair::new(small_guest());
    std::fs::create_dir_all(pair.state.lasting()).unwrap();
    std::fs::write(pair.state.lasting().join("migrations"), "").unwrap();
    let began = Instant::now();
    let failure = pair.migrate().0.unwrap_err();
    assert!(failure.what.contains("the journal"), "{failure}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(at_source(&pair), [("dom3".into(), RunState::Running)]);
}

#[test]
fn a_domain_that_has_crashed_is_not_said_to_run_on() {
    let pair = Pair::new(small_guest());
    let heard = pair.host.hear_guards();
    pair.host.set_faults(Faults { crash: true, ..Faults::default() });
    let failure = pair.migrate().0.unwrap_err();
    assert!(failure.what.contains("dom3 does not run here: it is shut down"), "{failure}");
    assert!(failure.next.is_some());
    assert_eq!(at_source(&pair), [("dom3".into(), RunState::Shutdown)]);
    assert_eq!(told(&heard).last(), Some(&"done"), "nothing is left to guard");
}

/// At Commit the guest would already stand still.
#[test]
fn a_name_that_an_earlier_migration_left_is_noticed_before_anything() {
    let pair = Pair::new(small_guest());
    let guest = Guest { pages: 1, zero_per_256: 0, dirty: Vec::new(), endless: false, seed: 0 };
    pair.host.start(AWAY, GuestType::Pvh, guest);
    let failure = pair.migrate_refused();
    assert_eq!(failure.exit, Exit::DomainState, "{failure}");
    assert!(failure.to_string().contains("`xl destroy dom3--migratedaway`"), "{failure}");
    assert!(!pair.dir.path().join("session.pid").exists(), "nobody was connected to");
}

/// The source gives up after READY, and the target cannot destroy its copy: it says so.
#[test]
fn a_copy_that_could_not_be_destroyed_is_not_said_to_be() {
    let pair = Pair::with(small_guest(), "fault=destroy");
    pair.host.set_faults(Faults { rename: true, ..Faults::default() });
    let failure = pair.migrate().0.unwrap_err();
    assert_eq!(failure.exit, Exit::FailedSourceRuns, "{failure}");
    assert_eq!(at_source(&pair), [("dom3".into(), RunState::Running)]);
    assert_eq!(at_target(&pair), Some(("dom3--incoming".into(), "Paused".into())));
    let said = pair.outcome()["failure"].to_string();
    assert!(said.contains("could not be destroyed") && said.contains("`xl destroy"), "{said}");
}

/// A save that cannot be started tells its guard: else that would act, and log that rxl was killed.
#[test]
fn a_save_that_cannot_be_started_is_not_guarded() {
    let pair = Pair::new(small_guest());
    let heard = pair.host.hear_guards();
    pair.host.set_faults(Faults { save_start: true, ..Faults::default() });
    pair.migrate().0.unwrap_err();
    assert_eq!(told(&heard), ["settle", "done"]);
    assert_eq!(at_source(&pair), [("dom3".into(), RunState::Running)]);
}
