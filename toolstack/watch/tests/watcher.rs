//! A watched domain over a host in memory: each end of a guest, and what becomes of it.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rxl_core::domain::{DomId, RunState};
use rxl_core::domain_config::DomainConfig;
use rxl_core::error::Failure;
use rxl_core::shutdown::ShutdownReason;
use rxl_core::state_dir::StateDir;
use rxl_host::host::Host;
use rxl_testkit::memory::{Faults, MemoryHost};
use rxl_watch::{Means, Watcher};

const PATIENCE: Duration = Duration::from_secs(10);

/// A running domain named dom3, with what its configuration says beside its name.
fn domain(actions: &str) -> (MemoryHost, DomId) {
    let host = MemoryHost::new(1 << 20);
    let json = format!(r#"{{"c_info":{{"name":"dom3","domid":1}},"b_info":{{}},{actions}}}"#);
    let domid = host.boot(&DomainConfig::parse(&json).unwrap()).unwrap();
    host.unpause(domid).unwrap();
    (host, domid)
}

fn names(host: &MemoryHost) -> Vec<(String, RunState)> {
    host.domains().into_iter().map(|kept| (kept.domain.name, kept.domain.state)).collect()
}

fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// xl's syntax for a configuration is in these tests just its name.
fn parse_xl(text: &[u8]) -> Result<String, Failure> {
    let name = String::from_utf8_lossy(text);
    Ok(format!(r#"{{"c_info":{{"name":"{name}"}},"on_reboot":"destroy"}}"#))
}

/// Watches dom3 while `events` happen, to the watcher's end. What the watcher said.
fn watched(host: &MemoryHost, events: impl FnOnce() + Send) -> (Result<(), Failure>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let (state, said) = (StateDir::at(dir.path()), Mutex::new(Vec::new()));
    let log = |line: &str| said.lock().unwrap().push(line.to_owned());
    let pause = Duration::from_millis(5);
    let means =
        Means { host, state: &state, xl_config: &parse_xl, log: &log, xl_end: pause, pause };
    let watcher = Watcher::begin(means, "dom3").unwrap().expect("nobody else watches it");
    let ended = std::thread::scope(|scope| {
        let events = scope.spawn(events);
        let ended = watcher.run();
        events.join().unwrap();
        ended
    });
    (ended, said.into_inner().unwrap())
}

/// The next domain of this name, running.
fn next_of(host: &MemoryHost, old: DomId) -> DomId {
    let mut found = None;
    wait_until("it is booted again", || {
        found = host
            .find("dom3")
            .ok()
            .filter(|domain| domain.domid != old && domain.state == RunState::Running);
        found.is_some()
    });
    found.unwrap().domid
}

#[test]
fn a_domain_reboots_as_often_as_it_likes_and_then_powers_off() {
    let (host, mut domid) = domain(r#""on_reboot":"restart""#);
    let (ended, said) = watched(&host, || {
        for _ in 0..3 {
            host.end_guest(domid, ShutdownReason::Reboot);
            domid = next_of(&host, domid);
        }
        host.end_guest(domid, ShutdownReason::Poweroff);
    });
    ended.unwrap();
    assert!(host.domains().is_empty());
    assert_eq!(said.iter().filter(|line| line.contains("is booted again")).count(), 3, "{said:?}");
    assert!(said.last().unwrap().contains("dom3 (domain 4)"), "{said:?}");
}

#[test]
fn a_crashed_domain_is_kept_as_it_is() {
    let (host, domid) = domain(r#""on_crash":"preserve""#);
    watched(&host, || host.end_guest(domid, ShutdownReason::Crash)).0.unwrap();
    assert_eq!(names(&host), [("dom3".into(), RunState::Shutdown)]);
}

#[test]
fn a_crashed_domain_is_set_aside_and_another_runs() {
    let (host, domid) = domain(r#""on_crash":"restart_rename""#);
    let (ended, _) = watched(&host, || {
        host.end_guest(domid, ShutdownReason::Crash);
        let next = next_of(&host, domid);
        host.destroy(next).unwrap();
    });
    ended.unwrap();
    let left = names(&host);
    assert!(left.len() == 1 && left[0].0.starts_with("dom3-20") && left[0].0.ends_with('Z'));
}

#[test]
fn a_crashed_domain_leaves_its_memory() {
    let (host, domid) = domain(r#""on_crash":"coredump_destroy","on_watchdog":"coredump_restart""#);
    let (ended, _) = watched(&host, || {
        host.end_guest(domid, ShutdownReason::Watchdog);
        let next = next_of(&host, domid);
        host.end_guest(next, ShutdownReason::Crash);
    });
    ended.unwrap();
    assert_eq!(host.acts(), ["dump dom3 /var/lib/xen/dump/dom3"; 2]);
    assert!(host.domains().is_empty());
}

#[test]
fn a_reset_keeps_the_domain() {
    let (host, domid) = domain(r#""on_soft_reset":"soft_reset""#);
    let (ended, _) = watched(&host, || {
        host.end_guest(domid, ShutdownReason::SoftReset);
        wait_until("it runs", || host.domain(domid).unwrap().state == RunState::Running);
        host.destroy(domid).unwrap();
    });
    ended.unwrap();
    assert_eq!(host.acts(), ["reset 1"]);
    // One that fails leaves nothing, as in xl.
    let (host, domid) = domain(r#""on_soft_reset":"soft_reset""#);
    host.set_faults(Faults { boot: true, ..Faults::default() });
    let (ended, _) = watched(&host, || host.end_guest(domid, ShutdownReason::SoftReset));
    assert!(ended.unwrap_err().what.contains("could not be reset, and is destroyed"));
    assert!(host.domains().is_empty());
}

/// As in a migration that fails: it stands still, and runs on. One that succeeds destroys it.
#[test]
fn a_suspended_domain_is_watched_on() {
    let (host, domid) = domain(r#""on_reboot":"restart""#);
    let (ended, said) = watched(&host, || {
        host.end_guest(domid, ShutdownReason::Suspend);
        std::thread::sleep(Duration::from_millis(20));
        host.resume(domid).unwrap();
        host.unpause(domid).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        host.end_guest(domid, ShutdownReason::Reboot);
        let next = next_of(&host, domid);
        host.end_guest(next, ShutdownReason::Suspend);
        host.rename(next, "dom3", "dom3--migratedaway").unwrap();
        host.destroy(next).unwrap();
    });
    ended.unwrap();
    assert!(!said.iter().any(|line| line.contains("Suspend")), "{said:?}");
    assert!(said.last().unwrap().contains("is gone"), "{said:?}");
}

#[test]
fn an_updated_configuration_counts_from_the_next_boot() {
    let (host, domid) = domain(r#""on_reboot":"restart""#);
    host.set_xl_config("dom3");
    let (ended, _) = watched(&host, || {
        host.end_guest(domid, ShutdownReason::Reboot);
        let next = next_of(&host, domid);
        host.end_guest(next, ShutdownReason::Reboot);
    });
    ended.unwrap();
    assert!(host.domains().is_empty(), "it says destroy");
}

#[test]
fn a_domain_that_cannot_be_booted_is_told() {
    let (host, domid) = domain(r#""on_reboot":"restart""#);
    host.set_faults(Faults { boot: true, ..Faults::default() });
    let (ended, _) = watched(&host, || host.end_guest(domid, ShutdownReason::Reboot));
    let told = ended.unwrap_err().to_string();
    assert!(told.contains("dom3 could not be booted again"), "{told}");
    assert!(host.domains().is_empty());
}

#[test]
fn a_domain_has_one_watcher() {
    let (host, domid) = domain(r#""on_reboot":"restart""#);
    let dir = tempfile::tempdir().unwrap();
    let (state, log) = (StateDir::at(dir.path()), |_: &str| {});
    let means = || {
        let (host, xl_end) = (&host, Duration::from_millis(300));
        Means { host, state: &state, xl_config: &parse_xl, log: &log, xl_end, pause: xl_end }
    };
    let first = Watcher::begin(means(), "dom3").unwrap().unwrap();
    assert!(Watcher::begin(means(), "1").unwrap().is_none());
    drop(first);
    host.set_xl_watches(Some(domid));
    let second = Watcher::begin(means(), "dom3").unwrap().unwrap();
    second.run().unwrap();
    let third = Watcher::begin(means(), "dom3").unwrap().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            host.end_guest(domid, ShutdownReason::Poweroff);
            std::thread::sleep(Duration::from_millis(20));
            assert!(!host.domains().is_empty(), "xl's process may be about to end");
            host.set_xl_watches(None);
        });
        third.run().unwrap();
    });
    assert!(host.domains().is_empty(), "the third has watched it");
    assert!(Watcher::begin(means(), "dom4").is_err());
}
