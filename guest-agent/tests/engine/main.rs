//! The engine over a store and a guest in memory.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod bench;

use std::time::Duration;

use bench::{Bench, SECOND, failed, rows};
use rxl_agent_protocol::*;
use rxl_guest_agent::deadlines::REST_TRIES;
use rxl_guest_agent::guest::Guest;

#[test]
fn a_whole_epoch() {
    let mut bench = Bench::new();
    assert_eq!(bench.state(), State { stamp: Stamp::default(), status: Status::Idle });
    assert_eq!(bench.say("7 1 survey"), Status::Surveyed { ranks: 2 });
    assert_eq!(bench.tree.get(&path::job(0)).expect("a row").parse(), Ok(rows().remove(0)));
    assert!(matches!(bench.say("7 2 prepare lease=1000 deadline=100 pause=100"), Status::Ready(_)));
    assert!(matches!(bench.say("7 3 freeze lease=1000 deadline=100"), Status::Frozen(_)));
    bench.ranks.0.borrow_mut().connections = 40;
    let Status::Flushed(flushed) = bench.say("7 4 flush lease=1000 deadline=100 room=1") else {
        panic!("not flushed")
    };
    assert_eq!((flushed.connections, flushed.unread), (40, 120));
    assert_eq!(bench.tree.count("data/rxl/cut/"), flushed.chunks as usize);
    bench.ranks.advance(300);
    let Status::Thawed(thawed) = bench.say("7 5 thaw lease=1000") else { panic!("not thawed") };
    assert_eq!((thawed.paused, thawed.retransmits), (Duration::from_millis(300), 1));
    assert!(!bench.ranks.frozen() && bench.ranks.gathered());
    assert_eq!(
        bench.say("7 6 finish"),
        Status::Finished(Finished { retransmits: 2, connections: 1 })
    );
    assert!(bench.runs());
}

#[test]
fn what_a_survey_finds_unclaimed_is_told_until_the_next_finds_nothing() {
    let mut bench = Bench::new();
    let unclaimed = Unclaimed {
        count: 2,
        pid: 12,
        comm: Token::from_text("a.out"),
        library: Token::from_text("libmpi.so.40"),
    };
    bench.ranks.0.borrow_mut().unclaimed = Some(unclaimed.clone());
    bench.say("7 1 survey");
    let told = bench.tree.get(path::UNCLAIMED).map(|text| text.parse());
    assert_eq!(told, Some(Ok(unclaimed)));
    let writes = bench.tree.0.borrow().writes.clone();
    let at = |node: &str| writes.iter().rposition(|written| written == node);
    assert!(at(path::UNCLAIMED) < at(path::STATE), "the state is written last");
    bench.ranks.0.borrow_mut().unclaimed = None;
    bench.say("7 2 survey");
    assert_eq!(bench.tree.get(path::UNCLAIMED), None);
}

#[test]
fn an_explanation_stands_from_the_survey_until_the_next_prepare() {
    let mut bench = Bench::new();
    bench.say("7 1 survey");
    assert_eq!(bench.tree.get(&path::explain(0)).as_deref(), Some("10 a.out: rank 0"));
    bench.say("7 2 prepare lease=1000 deadline=100 pause=100");
    assert_eq!(bench.tree.get(&path::explain(0)), None);
}

#[test]
fn a_command_is_obeyed_once_and_only_in_order() {
    let mut bench = Bench::frozen();
    for old in [
        "7 2 freeze lease=1000 deadline=100",
        "7 1 survey",
        "6 9 abort",
        "7 2 thaw lease=1000",
        "garbage",
        "",
    ] {
        bench.say(old);
        assert!(bench.ranks.frozen(), "{old}");
        assert_eq!(bench.state().stamp, Stamp { epoch: 7, sequence: 2 }, "{old}");
    }
}

#[test]
fn what_does_not_fit_thaws() {
    for odd in ["7 3 finish", "7 3 prepare lease=1000 deadline=1 pause=1", "7 3 survey"] {
        let mut bench = Bench::frozen();
        assert!(failed(&bench.say(odd), Reason::WrongState), "{odd}");
        assert!(bench.runs(), "{odd}");
    }
    let mut bench = Bench::frozen();
    assert!(failed(&bench.say("7 3 flush lease=1000"), Reason::Malformed));
    assert!(bench.runs());
    let mut bench = Bench::new();
    assert!(failed(&bench.say("7 1 freeze lease=1000 deadline=100"), Reason::WrongState));
    assert!(bench.runs());
}

#[test]
fn a_newer_epoch_ends_an_older_one() {
    let mut bench = Bench::frozen();
    assert_eq!(bench.say("8 1 survey"), Status::Surveyed { ranks: 2 });
    assert!(bench.runs());
}

#[test]
fn refusals_are_told_and_leave_nothing_behind() {
    let mut bench = Bench::new();
    bench.ranks.0.borrow_mut().refuse = Some(Reason::Connecting);
    let nack = bench.say("7 1 prepare lease=1000 deadline=100 pause=100");
    assert!(matches!(nack, Status::Nack { reason: Reason::Connecting, .. }));
    assert!(bench.runs());
    bench.say("7 2 prepare lease=1000 deadline=100 pause=100");
    bench.ranks.0.borrow_mut().refuse = Some(Reason::FreezeDeadline);
    assert!(failed(&bench.say("7 3 freeze lease=1000 deadline=100"), Reason::FreezeDeadline));
    assert!(bench.runs());
}

#[test]
fn the_lease_ends_unless_it_is_renewed() {
    let mut bench = Bench::frozen();
    bench.ranks.advance(900);
    bench.tree.put(path::LEASE, Lease { epoch: 7, count: 1 });
    bench.step();
    bench.ranks.advance(900);
    bench.step();
    assert!(bench.ranks.frozen(), "renewed");
    bench.ranks.advance(101);
    assert_eq!(bench.step(), Status::Expired { paused: Duration::from_millis(1901) });
    assert!(bench.runs());
    assert_eq!(
        bench.say("7 3 thaw lease=1000"),
        Status::Thawed(Thawed::default()),
        "too late, and harmless"
    );
}

#[test]
fn another_epochs_lease_renews_nothing() {
    let mut bench = Bench::frozen();
    bench.ranks.advance(900);
    bench.tree.put(path::LEASE, Lease { epoch: 8, count: 1 });
    bench.step();
    bench.ranks.advance(101);
    assert!(matches!(bench.step(), Status::Expired { .. }));
}

#[test]
fn prepared_and_thawed_have_a_lease_too() {
    let mut bench = Bench::new();
    bench.say("7 1 prepare lease=1000 deadline=100 pause=100");
    bench.ranks.advance(1000);
    assert_eq!(bench.step(), Status::Expired { paused: Duration::ZERO });
    let mut bench = Bench::frozen();
    bench.say("7 3 thaw lease=1000");
    bench.ranks.advance(1000);
    assert!(matches!(bench.step(), Status::Expired { .. }));
    assert!(bench.runs());
}

#[test]
fn a_store_that_fails_keeps_nothing_frozen() {
    let mut bench = Bench::frozen();
    bench.tree.0.borrow_mut().broken = true;
    bench.ranks.advance(1000);
    bench.engine.step();
    assert!(bench.runs());
    bench.tree.0.borrow_mut().broken = false;
    assert!(matches!(bench.step(), Status::Expired { .. }), "told as soon as it can be");
}

#[test]
fn a_fresh_tree_is_filled_again() {
    let mut bench = Bench::frozen();
    bench.ranks.0.borrow_mut().connections = 40;
    bench.say("7 3 flush lease=1000 deadline=100 room=1");
    let before = bench.tree.0.borrow().nodes.clone();
    bench.tree.0.borrow_mut().nodes.clear();
    // The clock may have gone on while the domain was away.
    bench.ranks.advance(5000);
    bench.tree.0.borrow_mut().writes.clear();
    assert_eq!(bench.say("7 4 hold lease=1000"), Status::Resumed { frozen: true });
    let first = bench.tree.0.borrow().writes.first().cloned();
    assert_eq!(first.as_deref(), Some(path::STATE), "a job waits for this answer");
    assert!(bench.ranks.frozen());
    let after = bench.tree.0.borrow().nodes.clone();
    assert!(before.keys().all(|path| after.contains_key(path)));
    assert!(matches!(bench.say("7 5 thaw lease=1000"), Status::Thawed(_)));
}

#[test]
fn what_stands_there_is_not_written_again() {
    let mut bench = Bench::frozen();
    bench.ranks.0.borrow_mut().connections = 40;
    bench.say("7 3 flush lease=1000 deadline=100");
    bench.tree.0.borrow_mut().writes.clear();
    bench.say("7 4 thaw lease=1000");
    assert_eq!(bench.tree.0.borrow().writes, [path::STATE]);
}

#[test]
fn leftover_rows_are_removed() {
    let mut bench = Bench::frozen();
    bench.ranks.0.borrow_mut().connections = 40;
    bench.say("7 3 flush lease=1000 deadline=100 room=1");
    bench.ranks.0.borrow_mut().connections = 1;
    bench.say("7 4 flush lease=1000 deadline=100 room=1");
    assert_eq!(bench.tree.count("data/rxl/cut/"), 1);
}

#[test]
fn a_successor_goes_on_while_the_lease_runs() {
    let mut bench = Bench::frozen();
    bench.restart();
    assert!(bench.ranks.frozen());
    assert_eq!(bench.state().stamp, Stamp { epoch: 7, sequence: 2 });
    assert!(matches!(bench.state().status, Status::Frozen(_)));
    assert!(matches!(bench.say("7 3 thaw lease=1000"), Status::Thawed(_)));
    assert!(!bench.ranks.frozen());
}

#[test]
fn a_successor_thaws_what_nobody_waits_for() {
    let mut late = Bench::frozen();
    late.ranks.advance(1000);
    late.restart();
    assert!(late.runs() && matches!(late.state().status, Status::Expired { .. }));
    let mut elsewhere = Bench::frozen();
    elsewhere.tree.0.borrow_mut().nodes.remove(path::COMMAND);
    elsewhere.restart();
    assert!(elsewhere.runs());
}

#[test]
fn a_death_in_the_middle_of_a_freeze_leaves_nothing_frozen() {
    let mut bench = Bench::new();
    bench.say("7 1 prepare lease=1000 deadline=100 pause=100");
    // The command was read and obeyed, and the agent died before it could say so.
    bench.tree.put(path::COMMAND, "7 2 freeze lease=1000 deadline=100");
    bench.ranks.0.borrow_mut().frozen = true;
    bench.restart();
    assert!(bench.runs());
}

#[test]
fn buffers_are_recorded_before_they_are_raised() {
    let mut bench = Bench::frozen();
    bench.say("7 3 flush lease=1000 deadline=100 room=0");
    assert!(bench.ranks.held().buffers.is_empty(), "who still sends needs no room");
    bench.ranks.0.borrow_mut().deadly = true;
    bench.tree.put(path::COMMAND, "7 4 flush lease=1000 deadline=100 room=1");
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.step()));
    assert!(killed.is_err() && bench.ranks.held().buffers.len() == 1);
    // Taking over asserts that the record says what is held.
    bench.restart();
    bench.say("7 5 abort");
    assert!(bench.runs() && bench.ranks.held().buffers.is_empty());
}

#[test]
fn without_a_record_the_last_state_keeps_old_commands_old() {
    let mut bench = Bench::new();
    bench.say("7 1 survey");
    std::fs::remove_file(bench.directory.path().join("record")).expect("there is one");
    bench.restart();
    bench.step();
    assert_eq!(
        bench.state(),
        State { stamp: Stamp { epoch: 7, sequence: 1 }, status: Status::Idle }
    );
}

#[test]
fn what_cannot_be_thawed_is_tried_again() {
    let mut bench = Bench::frozen();
    bench.ranks.0.borrow_mut().stuck = 3;
    assert!(failed(&bench.say("7 3 thaw lease=1000"), Reason::System));
    assert!(bench.ranks.frozen());
    for _ in 0..3 {
        bench.ranks.advance(1000);
        bench.step();
    }
    assert!(bench.runs());
}

#[test]
fn a_stopped_agent_leaves_its_stamp_and_nothing_frozen() {
    let bench = Bench::frozen();
    let (tree, ranks) = (bench.tree.clone(), bench.ranks.clone());
    bench.engine.stop().expect("it stops");
    assert!(!ranks.frozen() && !ranks.gathered());
    assert_eq!(tree.get(path::AGENT), None);
    let state: State = tree.get(path::STATE).expect("it stays").parse().expect("well-formed");
    assert!(failed(&state.status, Reason::Stopping) && state.stamp.epoch == 7);
}

#[test]
fn it_looks_each_second_while_an_epoch_is_under_way() {
    let mut bench = Bench::new();
    assert!(bench.engine.step() > SECOND);
    let mut bench = Bench::frozen();
    assert!(bench.engine.step() <= SECOND);
}

/// A freeze fails and so does the thaw after it. The freeze's own lease must not put off the retry.
#[test]
fn a_thaw_that_failed_is_tried_again_though_a_lease_runs() {
    let mut bench = Bench::new();
    bench.say("7 1 prepare lease=30000 deadline=100 pause=100");
    bench.ranks.0.borrow_mut().refuse = Some(Reason::FreezeDeadline);
    bench.ranks.0.borrow_mut().stuck = 1;
    assert!(failed(&bench.say("7 2 freeze lease=30000 deadline=100"), Reason::FreezeDeadline));
    assert!(bench.ranks.frozen());
    assert!(bench.engine.step() <= Duration::from_millis(100));
    bench.tree.put(path::LEASE, Lease { epoch: 7, count: 1 });
    bench.ranks.advance(100);
    bench.step();
    assert!(bench.runs());
}

#[test]
fn a_hold_does_not_put_off_a_thaw_that_failed() {
    let mut bench = Bench::frozen();
    bench.ranks.0.borrow_mut().stuck = 2;
    assert!(failed(&bench.say("7 3 thaw lease=30000"), Reason::System));
    bench.say("7 4 hold lease=30000");
    bench.ranks.advance(100);
    bench.step();
    assert!(bench.runs());
}

#[test]
fn a_successor_thaws_what_could_not_be_thawed() {
    let mut bench = Bench::frozen();
    bench.ranks.0.borrow_mut().stuck = 1;
    assert!(failed(&bench.say("7 3 flush lease=1000"), Reason::Malformed));
    assert!(bench.ranks.frozen());
    bench.restart();
    assert!(bench.runs());
}

#[test]
fn a_stopping_agent_goes_on_trying_to_thaw() {
    let bench = Bench::frozen();
    let ranks = bench.ranks.clone();
    ranks.0.borrow_mut().stuck = 3;
    bench.engine.stop().expect("it stops");
    assert!(!ranks.frozen());
}

#[test]
fn what_cannot_be_put_back_does_not_keep_the_epoch() {
    let mut bench = Bench::frozen();
    bench.ranks.0.borrow_mut().stranded = true;
    let finished = Finished { retransmits: 1, connections: 1 };
    assert_eq!(bench.say("7 3 abort"), Status::Finished(finished), "the thaw's own counts");
    assert!(!bench.ranks.frozen() && bench.ranks.gathered());
    assert!(matches!(bench.say("8 1 prepare lease=1000 deadline=100 pause=100"), Status::Ready(_)));
    bench.say("8 2 abort");

    bench.restart();
    bench.ranks.0.borrow_mut().stranded = false;
    bench.step();
    assert!(bench.runs(), "it is tried again while no epoch is under way");
}

#[test]
fn what_cannot_be_put_back_is_not_tried_for_ever() {
    let mut bench = Bench::frozen();
    bench.ranks.0.borrow_mut().stranded = true;
    bench.say("7 3 abort");
    (0..50).for_each(|_| drop(bench.step()));
    assert_eq!(bench.ranks.0.borrow().finishes, 1 + REST_TRIES);
    bench.ranks.0.borrow_mut().stranded = false;
    bench.say("8 1 prepare lease=1000 deadline=100 pause=100");
    bench.say("8 2 abort");
    assert!(bench.runs(), "the next epoch's end tries again");
}

#[test]
fn a_store_that_takes_no_writes_is_still_listened_to() {
    let mut bench = Bench::frozen();
    bench.tree.0.borrow_mut().full = true;
    bench.tree.put(path::COMMAND, "7 3 flush lease=1000 deadline=100 room=0");
    bench.engine.step();
    bench.tree.put(path::COMMAND, "7 4 thaw lease=1000");
    bench.engine.step();
    assert!(!bench.ranks.frozen());
    bench.tree.0.borrow_mut().full = false;
    assert!(matches!(bench.step(), Status::Thawed(_)));
}
