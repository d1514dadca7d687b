//! What a guard does for each word that it heard last, over a host in memory.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use rxl_core::domain::{DomId, GuestType, RunState};
use rxl_core::names::MIGRATED_AWAY;
use rxl_host::guard::{Settling, put_right};
use rxl_host::guard_line::Word;
use rxl_host::host::Host;
use rxl_testkit::memory::{Faults, Guest, MemoryHost};

const SOON: Settling = Settling {
    suspended: Duration::from_millis(20),
    settled: Duration::from_millis(40),
    limit: Duration::from_millis(500),
    interval: Duration::from_millis(2),
};

fn host(state: RunState) -> (MemoryHost, DomId) {
    let host = MemoryHost::new(1 << 20);
    let guest = Guest { pages: 16, zero_per_256: 0, dirty: vec![], endless: false, seed: 1 };
    let domid = host.start("dom3", GuestType::Pvh, guest);
    host.set_state(domid, state);
    (host, domid)
}

fn leaving(domid: DomId) -> Word {
    Word::Leaving { domid: domid.0, name: "dom3".into() }
}

fn state(host: &MemoryHost) -> Vec<(String, RunState)> {
    host.domains().into_iter().map(|kept| (kept.domain.name, kept.domain.state)).collect()
}

#[test]
fn a_suspended_domain_is_run_on_under_its_own_name() {
    let (host, domid) = host(RunState::Suspended);
    host.rename(domid, "dom3", &format!("dom3{MIGRATED_AWAY}")).unwrap();
    let said = put_right(&host, &leaving(domid), SOON).unwrap();
    assert!(said.contains("was suspended and runs on"), "{said}");
    assert_eq!(state(&host), [("dom3".into(), RunState::Running)]);
}

#[test]
fn a_domain_that_is_suspended_late_is_run_on_too() {
    let (host, domid) = host(RunState::Running);
    std::thread::scope(|scope| {
        let late = host.clone();
        scope.spawn(move || {
            std::thread::sleep(SOON.settled / 2);
            late.set_state(domid, RunState::Suspended);
        });
        put_right(&host, &leaving(domid), SOON)
    });
    assert_eq!(state(&host), [("dom3".into(), RunState::Running)]);
}

#[test]
fn a_domain_that_runs_is_left_alone() {
    let (host, domid) = host(RunState::Running);
    let said = put_right(&host, &leaving(domid), SOON).unwrap();
    assert!(!said.contains("suspended"), "{said}");
    assert_eq!(state(&host), [("dom3".into(), RunState::Running)]);
}

#[test]
fn a_domain_that_is_gone_is_said_to_be() {
    let (host, domid) = host(RunState::Running);
    host.destroy(domid).unwrap();
    let said = put_right(&host, &leaving(domid), SOON).unwrap();
    assert!(said.contains("could not be run on here: no domain"), "{said}");
}

#[test]
fn a_half_built_copy_is_destroyed_and_nothing_else() {
    let (host, _) = host(RunState::Paused);
    let copy = Word::Coming { name: "dom3".into() };
    assert!(put_right(&host, &Word::Coming { name: "dom4--incoming".into() }, SOON).is_none());
    assert_eq!(host.domains().len(), 1);
    host.set_faults(Faults { destroy: true, ..Faults::default() });
    let said = put_right(&host, &copy, SOON).unwrap();
    assert!(said.contains("`xl destroy dom3`"), "{said}");
    host.set_faults(Faults::default());
    assert!(put_right(&host, &copy, SOON).unwrap().contains("was destroyed"));
    assert!(host.domains().is_empty());
}

#[test]
fn a_copy_is_run_only_after_go_and_only_if_it_is_to_run() {
    for (paused, after) in [(false, RunState::Running), (true, RunState::Paused)] {
        let (host, domid) = host(RunState::Paused);
        host.rename(domid, "dom3", "dom3--incoming").unwrap();
        put_right(&host, &Word::Held, SOON).unwrap();
        assert_eq!(state(&host), [("dom3--incoming".into(), RunState::Paused)]);
        let taken = Word::Taken {
            domid: domid.0,
            incoming: "dom3--incoming".into(),
            name: "dom3".into(),
            paused,
        };
        put_right(&host, &taken, SOON).unwrap();
        assert_eq!(state(&host), [("dom3".into(), after)]);
    }
}
