//! What is done about a record, by its state, its host's domains and the other host's answers: each
//! over two hosts in memory that can ask each other.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod hosts;

use std::time::Duration;

use hosts::{Hosts, ID, SOON};
use rxl_core::boot::BootId;
use rxl_core::domain::RunState;
use rxl_handover::source::{SourceEvent, SourceState};
use rxl_handover::target::{TargetEvent, TargetState};
use rxl_host::host::Host;
use rxl_host::watch;
use rxl_recover::{End, GoneForGood, Settling};
use rxl_testkit::memory::Faults;

const AWAY: &str = "dom3--migratedaway";
const INCOMING: &str = "dom3--incoming";

fn other_boot() -> BootId {
    BootId::try_from("another boot".to_owned()).unwrap()
}

#[test]
fn a_suspended_domain_is_run_on_under_its_own_name() {
    let hosts = Hosts::leaving();
    hosts.source.suspend();
    let end = hosts.source.settle_source(&hosts.target).unwrap();
    assert!(matches!(&end, End::RunsOn(line) if line.contains("was suspended")), "{end:?}");
    assert_eq!(hosts.source.domains(), [("dom3".into(), RunState::Running)]);
    assert_eq!(hosts.source.source_state(), SourceState::Returned);
}

/// xl's process has ended at the suspend. A domain that nobody watched stays so.
#[test]
fn a_domain_that_was_watched_is_watched_again() {
    for watched in [true, false] {
        let hosts = Hosts::leaving();
        let (host, domid) = (&hosts.source.host, hosts.source.domid());
        host.set_xl_watches(watched.then_some(domid));
        watch::leaving(host, &host.domain(domid).unwrap());
        hosts.source.suspend();
        hosts.source.settle_source(&hosts.target).unwrap();
        assert_eq!(host.watchers().len(), usize::from(watched));
    }
}

#[test]
fn a_domain_that_is_suspended_late_is_run_on_too() {
    // Long beside what a busy machine may keep a thread from running.
    const ASKED: Duration = Duration::from_secs(3);
    let mut hosts = Hosts::leaving();
    hosts.source.settling = Settling { asked: ASKED, limit: ASKED * 10, ..SOON };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SOON.settled);
            hosts.source.suspend();
        });
        hosts.source.settle_source(&hosts.target).unwrap();
    });
    assert_eq!(hosts.source.domains(), [("dom3".into(), RunState::Running)]);
}

/// The guest would stop for good when it sees it.
#[test]
fn a_request_to_suspend_that_the_guest_has_not_seen_is_withdrawn() {
    let hosts = Hosts::leaving();
    hosts.source.host.ask_to_suspend(hosts.source.domid());
    hosts.source.settle_source(&hosts.target).unwrap();
    assert!(!hosts.source.host.domains()[0].suspend_pending);
    assert_eq!(hosts.source.domains(), [("dom3".into(), RunState::Running)]);
}

#[test]
fn a_domain_that_has_ended_is_not_missed() {
    let hosts = Hosts::leaving();
    hosts.source.host.destroy(hosts.source.domid()).unwrap();
    let end = hosts.source.settle_source(&hosts.target).unwrap();
    assert!(matches!(end, End::NothingLeft(_)), "{end:?}");
    assert_eq!(hosts.source.source_state(), SourceState::Returned);
}

/// GO was said, or not: the target, which only holds it, gives it up.
#[test]
fn a_committing_source_fences_a_target_that_holds_it() {
    let hosts = Hosts::committing();
    hosts.target.held();
    let end = hosts.source.settle_source(&hosts.target).unwrap();
    assert!(matches!(end, End::RunsOn(_)), "{end:?}");
    assert_eq!(hosts.source.domains(), [("dom3".into(), RunState::Running)]);
    assert_eq!(hosts.target.domains(), []);
    assert_eq!(hosts.target.target_state(), TargetState::Aborted);
    // A GO that comes late is refused.
    assert!(hosts.target.target_record().advance(TargetEvent::Take).is_err());
}

#[test]
fn a_committing_source_releases_what_the_target_has_taken() {
    let hosts = Hosts::committing();
    hosts.target.held();
    hosts.target.target_record().advance(TargetEvent::Take).unwrap();
    let end = hosts.source.settle_source(&hosts.target).unwrap();
    assert!(matches!(end, End::Released(_)), "{end:?}");
    assert_eq!(hosts.source.domains(), []);
    assert_eq!(hosts.target.domains(), [("dom3".into(), RunState::Running)], "it is run there");
}

#[test]
fn a_held_copy_is_run_where_the_source_has_committed() {
    let hosts = Hosts::committing();
    hosts.target.held();
    let end = hosts.target.settle_target(&hosts.source).unwrap();
    assert!(matches!(end, End::Arrived(_)), "{end:?}");
    assert_eq!(hosts.target.domains(), [("dom3".into(), RunState::Running)]);
    assert_eq!(hosts.target.host.watchers().len(), 1);
    assert_eq!(hosts.source.domains(), [], "the source is told that it runs");
    assert_eq!(hosts.target.target_state(), TargetState::Settled);
    assert_eq!(hosts.source.source_state(), SourceState::Released);
}

#[test]
fn a_held_copy_is_destroyed_where_the_source_has_not_committed() {
    let hosts = Hosts::leaving();
    hosts.source.suspend();
    hosts.target.held();
    let end = hosts.target.settle_target(&hosts.source).unwrap();
    assert!(matches!(end, End::Discarded(_)), "{end:?}");
    assert_eq!(hosts.target.domains(), []);
    assert_eq!(hosts.source.domains(), [("dom3".into(), RunState::Running)]);
}

#[test]
fn nothing_is_done_while_a_session_is_at_work_there() {
    let hosts = Hosts::leaving();
    hosts.source.suspend();
    hosts.target.held();
    let session = hosts.source.lock_source();
    let end = hosts.target.settle_target(&hosts.source).unwrap();
    assert!(matches!(end, End::Waits(_)), "{end:?}");
    drop(session);
    assert!(matches!(hosts.target.settle_target(&hosts.source).unwrap(), End::Discarded(_)));
}

#[test]
fn an_unreachable_host_leaves_all_as_it_is() {
    let hosts = Hosts::committing();
    hosts.target.held();
    hosts.target.cut();
    let end = hosts.source.settle_source(&hosts.target).unwrap();
    assert!(matches!(&end, End::Waits(line) if line.contains("cut")), "{end:?}");
    assert_eq!(hosts.source.domains(), [(AWAY.into(), RunState::Suspended)]);
    hosts.source.cut();
    assert!(matches!(hosts.target.settle_target(&hosts.source).unwrap(), End::Waits(_)));
    assert_eq!(hosts.target.domains(), [(INCOMING.into(), RunState::Paused)]);
}

/// The source's memory is gone: the target has the only copy, whatever the source had said.
/// /var/lib may be mounted later than sshd answers. What the host has taken is not in what it sees.
#[test]
fn a_host_without_its_records_is_waited_for() {
    let hosts = Hosts::committing();
    hosts.target.held();
    hosts.target.target_record().advance(TargetEvent::Take).unwrap();
    let records = hosts.target.state.lasting().join("migrations");
    let away = records.with_extension("away");
    std::fs::rename(&records, &away).unwrap();
    let end = hosts.source.settle_source(&hosts.target).unwrap();
    assert!(matches!(&end, End::Waits(_)) && end.to_string().contains("not mounted"), "{end}");
    assert_eq!(hosts.source.source_state(), SourceState::Committing);
    std::fs::rename(&away, &records).unwrap();
    hosts.source.settle_source(&hosts.target).unwrap();
    assert_eq!(hosts.source.domains(), []);
}

#[test]
fn a_source_without_power_hands_over() {
    for commit in [false, true] {
        let hosts = if commit { Hosts::committing() } else { Hosts::leaving() };
        hosts.target.held();
        let hosts = hosts.source_lost_power(other_boot());
        let end = hosts.source.settle_source(&hosts.target).unwrap();
        assert!(matches!(end, End::Released(_)), "{end:?}");
        assert_eq!(hosts.target.domains(), [("dom3".into(), RunState::Running)]);
        assert_eq!(hosts.source.domains(), []);
    }
}

#[test]
fn a_source_without_power_boots_what_the_target_does_not_hold() {
    let hosts = Hosts::leaving().source_lost_power(other_boot());
    let end = hosts.source.settle_source(&hosts.target).unwrap();
    assert!(matches!(end, End::Booted(_)), "{end:?}");
    assert_eq!(hosts.source.domains(), [("dom3".into(), RunState::Running)]);
    assert_eq!(hosts.source.source_state(), SourceState::Returned);
}

/// What the target had taken may have run, and written to its disk: the old memory never runs.
/// `-p` is about the target.
#[test]
fn a_source_without_power_runs_what_it_boots() {
    let hosts = Hosts::leaving_paused().source_lost_power(other_boot());
    let end = hosts.source.settle_source(&hosts.target).unwrap();
    assert!(matches!(end, End::Booted(_)), "{end:?}");
    assert_eq!(hosts.source.domains(), [("dom3".into(), RunState::Running)]);
}

#[test]
fn a_target_without_power_boots_what_it_has_taken() {
    let hosts = Hosts::committing();
    hosts.target.held();
    hosts.target.target_record().advance(TargetEvent::Take).unwrap();
    let hosts = hosts.target_lost_power(other_boot());
    let end = hosts.source.settle_source(&hosts.target).unwrap();
    assert!(matches!(end, End::Released(_)), "{end:?}");
    assert_eq!(hosts.source.domains(), []);
    assert_eq!(hosts.target.domains(), [("dom3".into(), RunState::Running)]);
    hosts.target.settle_target(&hosts.source).unwrap();
    assert_eq!(hosts.target.domains().len(), 1, "it is booted once");
    assert!(!hosts.target.host.watchers().is_empty());
    assert_eq!(hosts.target.target_state(), TargetState::Settled);
}

/// Whoever booted it was killed before the domain had its name, or before it ran.
#[test]
fn a_boot_that_was_cut_short_is_ended() {
    for faults in [
        Faults { rename: true, ..Faults::default() },
        Faults { unpause: true, ..Faults::default() },
    ] {
        let hosts = Hosts::committing();
        hosts.target.held();
        hosts.target.target_record().advance(TargetEvent::Take).unwrap();
        let hosts = hosts.target_lost_power(other_boot());
        hosts.target.host.set_faults(faults);
        hosts.target.settle_target(&hosts.source).unwrap_err();
        hosts.target.host.set_faults(Faults::default());
        hosts.target.settle_target(&hosts.source).unwrap();
        assert_eq!(hosts.target.domains(), [("dom3".into(), RunState::Running)]);
        assert_eq!(hosts.source.domains(), []);
    }
}

/// A domain that `xl create` is still building is paused, as one that a person has created so.
#[test]
fn what_somebody_else_boots_is_left_as_it_is() {
    let hosts = Hosts::leaving().source_lost_power(other_boot());
    hosts.source.start("dom3");
    hosts.source.settle_source(&hosts.target).unwrap();
    assert_eq!(hosts.source.domains(), [("dom3".into(), RunState::Paused)]);
}

#[test]
fn a_target_without_power_gives_up_what_it_only_held() {
    let hosts = Hosts::committing();
    hosts.target.held();
    let hosts = hosts.target_lost_power(other_boot());
    hosts.target.settle_target(&hosts.source).unwrap();
    assert_eq!(hosts.target.target_state(), TargetState::Aborted);
    let end = hosts.source.settle_source(&hosts.target).unwrap();
    assert!(matches!(end, End::RunsOn(_)), "{end:?}");
    assert_eq!(hosts.source.domains(), [("dom3".into(), RunState::Running)]);
}

#[test]
fn a_half_built_copy_is_destroyed_and_nothing_else() {
    let hosts = Hosts::leaving();
    hosts.target.start("dom4--incoming");
    assert!(matches!(hosts.target.settle_target(&hosts.source).unwrap(), End::NothingLeft(_)));
    assert_eq!(hosts.target.domains().len(), 1);

    let hosts = Hosts::leaving();
    hosts.target.start(INCOMING);
    hosts.target.host.set_faults(Faults { destroy: true, ..Faults::default() });
    hosts.target.settle_target(&hosts.source).unwrap_err();
    assert_eq!(hosts.target.domains().len(), 1);
    hosts.target.host.set_faults(Faults::default());
    // It has no number in the record: once that has ended, nobody would know whose it is.
    assert_eq!(hosts.target.target_state(), TargetState::Receiving);
    assert!(matches!(hosts.target.settle_target(&hosts.source).unwrap(), End::Discarded(_)));
    assert_eq!(hosts.target.domains(), []);

    // The next of that name is xl's, which marks none.
    hosts.target.start(INCOMING);
    assert_eq!(hosts.target.settle_target(&hosts.source).unwrap(), End::Before);
    assert_eq!(hosts.target.domains().len(), 1);
}

/// A source without its copy asks before the target has all of it, or before that is cleaned up.
#[test]
fn a_half_built_copy_is_fenced_by_who_has_its_lock() {
    let hosts = Hosts::leaving().source_lost_power(other_boot());
    hosts.target.start(INCOMING);
    let session = hosts.target.lock_target();
    assert!(matches!(hosts.source.settle_source(&hosts.target).unwrap(), End::Waits(_)));
    assert_eq!(hosts.target.target_state(), TargetState::Receiving);
    drop(session);
    assert!(matches!(hosts.source.settle_source(&hosts.target).unwrap(), End::Booted(_)));
    assert_eq!(hosts.target.target_state(), TargetState::Aborted);
    assert_eq!(hosts.target.domains(), []);
}

/// A half-built copy is known by its name alone, which others may have by now.
#[test]
fn a_domain_that_has_a_half_built_copies_name_is_left_alone() {
    let hosts = Hosts::leaving();
    hosts.target.start(INCOMING);
    hosts.target.host.mark(hosts.target.domid(), "another").unwrap();
    assert!(matches!(hosts.target.settle_target(&hosts.source).unwrap(), End::NothingLeft(_)));
    assert_eq!(hosts.target.domains().len(), 1);

    let hosts = Hosts::leaving();
    hosts.target.start(INCOMING);
    hosts.target.host.unpause(hosts.target.domid()).unwrap();
    assert!(matches!(hosts.target.settle_target(&hosts.source).unwrap(), End::NothingLeft(_)));
    assert_eq!(hosts.target.domains().len(), 1);

    let hosts = Hosts::leaving().target_lost_power(other_boot());
    hosts.target.start(INCOMING);
    assert!(matches!(hosts.target.settle_target(&hosts.source).unwrap(), End::NothingLeft(_)));
    assert_eq!(hosts.target.domains().len(), 1);
}

#[test]
fn a_copy_that_was_fenced_and_left_is_destroyed_later() {
    let hosts = Hosts::committing();
    hosts.target.held();
    hosts.target.host.set_faults(Faults { destroy: true, ..Faults::default() });
    assert!(matches!(hosts.source.settle_source(&hosts.target).unwrap(), End::RunsOn(_)));
    assert_eq!(hosts.target.domains(), [(INCOMING.into(), RunState::Paused)]);
    hosts.target.host.set_faults(Faults::default());
    assert!(matches!(hosts.target.settle_target(&hosts.source).unwrap(), End::Discarded(_)));
    assert_eq!(hosts.target.domains(), []);
}

#[test]
fn a_domain_of_another_migration_is_left_alone() {
    let hosts = Hosts::committing();
    hosts.target.held();
    hosts.target.host.mark(hosts.target.domid(), "another").unwrap();
    assert!(matches!(hosts.source.settle_source(&hosts.target).unwrap(), End::RunsOn(_)));
    assert_eq!(hosts.target.domains(), [(INCOMING.into(), RunState::Paused)]);
}

#[test]
fn a_copy_that_is_to_stay_paused_stays_so() {
    let hosts = Hosts::committing_paused();
    hosts.target.held();
    hosts.target.settle_target(&hosts.source).unwrap();
    assert_eq!(hosts.target.domains(), [("dom3".into(), RunState::Paused)]);
    assert!(hosts.target.host.watchers().is_empty(), "the record says that none is wanted");
}

/// What was taken and cannot be started has not run: the source has it again.
#[test]
fn what_cannot_be_started_is_given_back() {
    let hosts = Hosts::committing();
    hosts.target.held();
    hosts.target.target_record().advance(TargetEvent::Take).unwrap();
    hosts.target.host.set_faults(Faults { unpause: true, ..Faults::default() });
    assert!(matches!(hosts.target.settle_target(&hosts.source).unwrap(), End::Discarded(_)));
    assert_eq!(hosts.target.target_state(), TargetState::GivenBack);
    assert!(matches!(hosts.source.settle_source(&hosts.target).unwrap(), End::RunsOn(_)));
    assert_eq!(hosts.source.domains(), [("dom3".into(), RunState::Running)]);
}

/// A person has said so: each end runs what it has.
#[test]
fn a_host_that_is_gone_for_good_is_not_waited_for() {
    let hosts = Hosts::committing();
    hosts.target.held();
    let end = hosts.source.settle_source_with(&GoneForGood).unwrap();
    assert!(matches!(end, End::RunsOn(_)), "{end:?}");

    let hosts = Hosts::committing();
    hosts.target.held();
    let end = hosts.target.settle_target_with(&GoneForGood).unwrap();
    assert!(matches!(end, End::Arrived(_)), "{end:?}");
    assert_eq!(hosts.target.target_state(), TargetState::Settled);
}

/// Both recover at once, again and again: one copy runs.
#[test]
fn both_sides_at_once() {
    for _ in 0..50 {
        let hosts = Hosts::committing();
        hosts.target.held();
        std::thread::scope(|scope| {
            scope.spawn(|| settle_to_the_end(|| hosts.source.settle_source(&hosts.target)));
            scope.spawn(|| settle_to_the_end(|| hosts.target.settle_target(&hosts.source)));
        });
        let (source, target) = (hosts.source.domains(), hosts.target.domains());
        let running = [source, target].concat();
        assert_eq!(running, [("dom3".into(), RunState::Running)]);
    }
}

fn settle_to_the_end(mut settle: impl FnMut() -> Result<End, rxl_recover::RecoverError>) {
    for _ in 0..1000 {
        match settle().unwrap() {
            End::Waits(_) => std::thread::sleep(Duration::from_millis(1)),
            _ => return,
        }
    }
    panic!("it never ends ({ID})");
}

#[test]
fn what_was_never_given_is_not_released() {
    let hosts = Hosts::leaving();
    assert!(hosts.source.source_record().advance(SourceEvent::Destroyed).is_err());
}
