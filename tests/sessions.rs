//! Whole migrations between two in-memory hosts in two processes: every end a migration can have,
//! and what is left behind.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::{Duration, Instant};

use rxl_core::domain::RunState;
use rxl_core::error::Exit;
use rxl_core::peer::Transport;
use rxl_core::steering::Walker;
use rxl_precopy::policy::{Otherwise, Why};
use rxl_testkit::memory::{Faults, Guest};
use support::{Pair, small_guest};

/// What must hold after every migration that did not happen.
fn assert_source_untouched(pair: &Pair) {
    let domains = pair.host.domains();
    assert_eq!(domains.len(), 1, "{domains:?}");
    assert_eq!(domains[0].domain.name, "dom3");
    assert_eq!(domains[0].domain.state, RunState::Running);
    assert!(!domains[0].log_dirty);
    assert_eq!(pair.left_files(), Vec::<String>::new());
}

#[test]
fn a_migration_moves_every_byte_and_counts_them() {
    let pair = Pair::new(small_guest());
    let (result, report) = pair.migrate();
    result.unwrap();
    let outcome = pair.outcome();
    let moved = &outcome["domains"][0];
    assert_eq!(moved["name"], "dom3");
    assert_eq!(moved["state"], "Running");
    assert!(pair.host.domains().is_empty(), "the source's copy is gone");
    assert_eq!(
        report.ram.stream_bytes,
        moved["stream"][0].as_u64().unwrap(),
        "as many bytes came out as went in"
    );
    let pages: Vec<u64> = report.iterations.iter().map(|iteration| iteration.pages).collect();
    assert_eq!(pages, [20_000, 2_000, 100, 100], "all, two dirty iterations, the last one");
    assert_eq!(
        report.iterations.iter().map(|r| r.dirty_pages).collect::<Vec<_>>(),
        pages.iter().map(|p| Some(*p)).collect::<Vec<_>>()
    );
    assert_eq!(
        report.iterations.iter().map(|r| r.suspended).collect::<Vec<_>>(),
        [false, false, false, true]
    );
    assert!(report.ram.transferred < report.ram.stream_bytes, "zero pages were left out");
    assert_eq!(
        report.ram.precopy_bytes + report.ram.downtime_bytes,
        report.iterations.iter().map(|r| r.wire_bytes).sum::<u64>()
    );
    assert!(report.downtime.unwrap() > 0.0);
    assert_eq!(report.checksum.digest.as_ref().map(String::len), Some(64));
    println!("{}", report.to_table());
}

/// A guard is told which record it guards, that the guest may have been asked to suspend, and when
/// nothing is left to guard.
#[test]
fn the_source_is_guarded_to_its_end() {
    let pair = Pair::new(small_guest());
    let heard = pair.host.hear_guards();
    pair.migrate().0.unwrap();
    assert_eq!(support::told(&heard), ["settle", "settle, asked", "done"]);

    let pair = Pair::with(small_guest(), "fault=restore-end");
    let heard = pair.host.hear_guards();
    pair.migrate().0.unwrap_err();
    assert_eq!(support::told(&heard), ["settle", "settle, asked", "done"]);
    assert_source_untouched(&pair);
}

/// With rxl's own walk: what it decides on goes with the last iteration, holes stay at home, and
/// log-dirty mode ends with the copy.
#[test]
fn a_walk_of_our_own_moves_the_same() {
    let mut pair = Pair::new(small_guest());
    pair.request.walker = Walker::Rxl;
    pair.request.limits.max_iterations = 3;
    let (result, report) = pair.migrate();
    result.unwrap();
    let outcome = pair.outcome();
    assert_eq!(outcome["domains"][0]["stream"][0].as_u64(), Some(report.ram.stream_bytes));
    assert_eq!(report.precopy.walker, Walker::Rxl);
    let iterations: Vec<_> =
        report.iterations.iter().map(|iteration| (iteration.pfns, iteration.suspended)).collect();
    assert_eq!(iterations, [(20_000, false), (2_000, false), (100, false), (100, true)]);
    assert!(
        report.iterations.iter().all(|iteration| iteration.dirty_pages == Some(iteration.pfns)),
        "{:?}",
        report.iterations
    );
    assert!(pair.host.domains().is_empty());
}

#[test]
fn the_policy_ends_precopy() {
    for walker in [Walker::Rxl, Walker::Libxc] {
        let mut pair = Pair::new(Guest { dirty: vec![5_000], endless: true, ..small_guest() });
        pair.request.walker = walker;
        pair.request.limits.downtime = Duration::from_nanos(1);
        let (result, report) = pair.migrate();
        result.unwrap();
        assert_eq!(report.precopy.stopped, Some(Why::DirtyRate), "{walker:?}");

        let mut pair = Pair::new(Guest { dirty: vec![5_000], endless: true, ..small_guest() });
        pair.request.walker = walker;
        pair.request.limits.when_busy = Otherwise::Cancel;
        let (result, report) = pair.migrate();
        let failure = result.unwrap_err();
        assert_eq!(
            (failure.exit, failure.what.contains("dirties its memory")),
            (Exit::Cancelled, true),
            "{failure}"
        );
        assert_eq!(report.precopy.stopped, Some(Why::DirtyRate));
        assert_source_untouched(&pair);
    }
}

/// In the middle of an iteration, where rxl walks.
#[test]
fn a_timeout_can_force_the_suspend() {
    let mut pair =
        Pair::new(Guest { pages: 400_000, dirty: vec![300_000], endless: true, ..small_guest() });
    pair.request.walker = Walker::Rxl;
    pair.request.limits.timeout = Some(Duration::from_millis(300));
    pair.request.limits.on_timeout = Otherwise::Force;
    let (result, report) = pair.migrate();
    result.unwrap();
    let last = report.iterations.last().unwrap();
    assert!(last.suspended && report.iterations.len() >= 2, "{:?}", report.iterations);
    let live: u64 = report
        .iterations
        .iter()
        .filter(|iteration| !iteration.suspended)
        .map(|iteration| iteration.pages)
        .sum();
    assert!(live + last.pages >= 400_000, "every page has been sent: {:?}", report.iterations);
}

#[test]
fn over_several_tcp_connections_too() {
    let mut pair = Pair::new(small_guest());
    pair.request.transport = Transport::Tcp;
    pair.request.connections = 3;
    pair.request.data_address = Some([127, 0, 0, 1].into());
    let (result, report) = pair.migrate();
    result.unwrap();
    assert_eq!(pair.outcome()["domains"][0]["stream"][0].as_u64(), Some(report.ram.stream_bytes));
}

#[test]
fn over_several_handed_connections_too() {
    let mut pair = Pair::new(small_guest());
    pair.request.connections = 4;
    let (result, report) = pair.migrate();
    result.unwrap();
    assert_eq!(pair.outcome()["domains"][0]["stream"][0].as_u64(), Some(report.ram.stream_bytes));
}

#[test]
fn a_domain_can_be_left_paused_and_is_watched_unless_that_is_not_wanted() {
    for no_monitor in [false, true] {
        let mut pair = Pair::new(small_guest());
        pair.request.leave_paused = true;
        pair.request.no_monitor = no_monitor;
        pair.migrate().0.unwrap();
        assert_eq!(pair.outcome()["domains"][0]["state"], "Paused");
        assert_eq!(pair.outcome()["domains"][0]["watched"], !no_monitor);
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut pair = Pair::new(small_guest());
    pair.request.dry_run = true;
    pair.migrate().0.unwrap();
    assert_source_untouched(&pair);
    assert_eq!(pair.outcome()["domains"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_target_without_memory_or_with_the_name_refuses() {
    for (fault, words) in [
        ("free-kib=1000", "MiB are free"),
        ("fault=memory", "refused: another domain was faster"),
        ("taken=dom3", "is there already"),
        ("taken=dom3--incoming", "is there already"),
    ] {
        let pair = Pair::with(small_guest(), fault);
        let failure = pair.migrate_refused();
        assert_eq!(failure.exit, Exit::Refused, "{failure}");
        assert!(failure.to_string().contains(words), "{failure}");
        assert!(failure.next.is_some());
        assert_source_untouched(&pair);
    }
}

/// 80,000 KiB of the 2 GiB that it may have: xl would take it where 100 MiB are free.
#[test]
fn a_ballooned_guest_needs_what_its_balloon_leaves_it() {
    let ballooned = |free_kib: &str| {
        let pair = Pair::with(small_guest(), free_kib);
        pair.host.raise_maximum(pair.host.domains()[0].domain.domid, 2 << 20);
        pair
    };
    let failure = ballooned("free-kib=90000").migrate_refused();
    assert_eq!(failure.exit, Exit::Refused, "{failure}");
    assert!(failure.to_string().contains("needs 98 MiB there, and 87 MiB are free"), "{failure}");
    ballooned("free-kib=110000").migrate().0.unwrap();
}

#[test]
fn an_unknown_a_paused_and_a_busy_domain_are_told_apart() {
    let mut pair = Pair::new(small_guest());
    pair.request.domain = "dom4".into();
    assert_eq!(pair.migrate_refused().exit, Exit::NoSuchDomain);
    pair.request.domain = "dom3".into();
    let domid = pair.host.domains()[0].domain.domid;
    pair.host.set_state(domid, RunState::Paused);
    assert_eq!(pair.migrate_refused().exit, Exit::DomainState);
    pair.host.set_state(domid, RunState::Running);
    let _lock = pair.state.lock(&format!("domain-{domid}"), "dom3").unwrap();
    assert_eq!(pair.migrate_refused().exit, Exit::Busy);
}

#[test]
fn whatever_fails_before_commit_the_source_runs_on() {
    let faults = [
        (Faults { save_after_iterations: Some(1), ..Faults::default() }, "", "save"),
        (Faults { save_after_suspend: true, ..Faults::default() }, "", "save"),
        (Faults { rename: true, ..Faults::default() }, "", "rename"),
        (Faults::default(), "fault=restore", "restore"),
    ];
    for (fault, at_target, words) in faults {
        let pair = Pair::with(small_guest(), at_target);
        pair.host.set_faults(fault);
        let (result, report) = pair.migrate();
        let failure = result.unwrap_err();
        println!("{failure}");
        assert_eq!(failure.exit, Exit::FailedSourceRuns, "{failure}");
        assert!(failure.to_string().contains(words), "{failure}");
        assert!(report.to_json().unwrap().contains("\"status\": \"failed\""));
        assert!(pair.host.watchers().is_empty(), "nobody watched it before");
        assert_source_untouched(&pair);
        assert_eq!(pair.outcome()["domains"].as_array().map(Vec::len), Some(0), "{failure}");
    }
}

#[test]
fn a_target_that_cannot_start_it_gives_it_back() {
    for fault in ["fault=rename", "fault=unpause"] {
        let pair = Pair::with(small_guest(), fault);
        let domid = pair.host.domains()[0].domain.domid;
        pair.host.set_xl_watches(Some(domid));
        let failure = pair.migrate().0.unwrap_err();
        assert_eq!(failure.exit, Exit::FailedSourceRuns, "{failure}");
        assert_source_untouched(&pair);
        assert_eq!(pair.host.watchers(), [domid], "xl's process has ended at the suspend");
        assert_eq!(pair.outcome()["domains"].as_array().map(Vec::len), Some(0));
    }
}

/// It can neither run its copy nor get rid of it: then nobody may run the other one.
#[test]
fn a_target_that_cannot_say_leaves_it_undecided() {
    let pair = Pair::with(small_guest(), "fault=destroy");
    let failure = pair.migrate().0.unwrap_err();
    assert_eq!(failure.exit, Exit::Undecided, "{failure}");
    let domains = pair.host.domains();
    assert_eq!(domains[0].domain.name, "dom3--migratedaway");
    assert_eq!(domains[0].domain.state, RunState::Suspended);
    assert_eq!(pair.outcome()["domains"][0]["state"], "Paused");
}

#[test]
fn a_cancel_in_precopy_is_clean() {
    let pair = Pair::new(Guest { endless: true, ..small_guest() });
    let cancel = pair.events.sender();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        cancel.send(rxl_session::events::Event::Interrupt).unwrap();
    });
    let failure = pair.migrate().0.unwrap_err();
    canceller.join().unwrap();
    assert_eq!(failure.exit, Exit::Cancelled, "{failure}");
    assert_source_untouched(&pair);
    assert_eq!(pair.outcome()["domains"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_timeout_cancels() {
    let mut pair = Pair::new(Guest { endless: true, ..small_guest() });
    pair.request.limits.timeout = Some(Duration::from_secs(1));
    let failure = pair.migrate().0.unwrap_err();
    assert_eq!(failure.exit, Exit::Cancelled, "{failure}");
    assert_source_untouched(&pair);
}

/// The target alone would give the source up: it says something every two seconds.
#[test]
fn the_source_says_how_long_either_may_be_silent() {
    let mut pair = Pair::with(Guest { endless: true, ..small_guest() }, "patience-ms=1000");
    pair.request.limits.timeout = Some(Duration::from_secs(5));
    let (result, _) = pair.migrate();
    assert_eq!(result.unwrap_err().exit, Exit::Cancelled);
    assert_source_untouched(&pair);
}

#[test]
fn a_receiver_killed_in_precopy_is_noticed() {
    let pair = Pair::new(Guest { endless: true, ..small_guest() });
    let pid_file = pair.dir.path().join("session.pid");
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        let pid: i32 = std::fs::read_to_string(pid_file).unwrap().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
    });
    let begun = Instant::now();
    let failure = pair.migrate().0.unwrap_err();
    killer.join().unwrap();
    assert_eq!(failure.exit, Exit::FailedSourceRuns, "{failure}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    // A killed receiver cannot remove its socket; the next one has another name.
    let domains = pair.host.domains();
    assert_eq!(
        (domains.len(), domains[0].domain.state, domains[0].log_dirty),
        (1, RunState::Running, false)
    );
}

/// A data path that stands still while the control channel lives must not hold up a cancel.
#[test]
fn a_hanging_data_connection_can_be_cancelled() {
    let mut pair = Pair::with(Guest { endless: true, ..small_guest() }, "hang=100000");
    pair.request.limits.timeout = Some(Duration::from_secs(2));
    let begun = Instant::now();
    let failure = pair.migrate().0.unwrap_err();
    assert_eq!(failure.exit, Exit::Cancelled, "{failure}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_source_untouched(&pair);
}

#[test]
fn a_flipped_bit_anywhere_in_the_data_is_refused_before_ready() {
    let clean = Pair::new(small_guest());
    let (result, report) = clean.migrate();
    result.unwrap();
    let wire = report.ram.transferred;
    // Frame header, first payloads, the middle, the last data, the end frame.
    let from = 64;
    let mut places: Vec<u64> = (0..36).step_by(7).map(|n| from + n).collect();
    places.extend((1..8).map(|n| from + wire * n / 8));
    places.extend([from + wire - 1, from + wire + 3, from + wire + 40, from + wire + 83]);
    for place in places {
        let pair = Pair::with(small_guest(), &format!("flip={place}"));
        let failure = pair.migrate().0.unwrap_err();
        assert_eq!(failure.exit, Exit::FailedSourceRuns, "byte {place}: {failure}");
        assert_source_untouched(&pair);
        assert_eq!(pair.outcome()["domains"].as_array().map(Vec::len), Some(0), "byte {place}");
        println!("byte {place} of {wire}: {failure}");
    }
}

#[test]
fn no_receiver_is_no_peer() {
    let mut pair = Pair::new(small_guest());
    pair.request.route = rxl_link::ssh::Route::Verbatim("sh -c 'exit 127'".into());
    let failure = pair.migrate_refused();
    assert_eq!(failure.exit, Exit::NoPeer);
    assert!(failure.to_string().contains("install"), "{failure}");
    assert_source_untouched(&pair);
}
