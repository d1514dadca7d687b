//! `rxl migrate --peer xl` against receivers that end in every way: nothing lost, nothing doubled,
//! nothing left.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Pair, example, small_guest};
use rxl_core::domain::RunState;
use rxl_core::error::{Exit, Failure};
use rxl_core::level::Level;
use rxl_core::peer::Peer;
use rxl_core::peer::Transport;
use rxl_link::ssh::Route;
use rxl_report::schema::Report;
use rxl_session::events::{Event, Events};
use rxl_session::xl;
use rxl_session::xl::line::Said;
use rxl_testkit::memory::{Faults, Guest};
use rxl_testkit::silent::Silent;

/// A source with dom3, and a receiver that takes these steps.
fn pair(guest: Guest, steps: &str) -> Pair {
    let mut pair = Pair::new(guest);
    let peer = example("memory-xl-peer");
    pair.request.route =
        Route::Verbatim(format!("{} {} {steps}", peer.display(), pair.dir.path().display()));
    pair.request.peer = Peer::Xl;
    pair
}

fn migrate_with(pair: &Pair, events: &Events<Said>) -> (Result<(), Failure>, Option<Report>) {
    xl::source::migrate(
        std::sync::Arc::new(pair.host.clone()),
        &pair.state,
        &pair.request,
        events,
        &mut Silent,
    )
}

fn migrate(pair: &Pair) -> (Result<(), Failure>, Option<Report>) {
    migrate_with(pair, &Events::default())
}

fn assert_runs_here(pair: &Pair, why: &Failure) {
    let domains = pair.host.domains();
    assert_eq!(domains.len(), 1, "{why}");
    assert_eq!(
        (domains[0].domain.name.as_str(), domains[0].domain.state),
        ("dom3", RunState::Running),
        "{why}"
    );
    assert!(!domains[0].log_dirty, "{why}");
}

fn assert_kept_away(pair: &Pair, why: &Failure) {
    let domains = pair.host.domains();
    assert_eq!(domains.len(), 1, "{why}");
    let domain = &domains[0].domain;
    assert_eq!(
        (domain.name.as_str(), domain.state),
        ("dom3--migratedaway", RunState::Suspended),
        "{why}"
    );
}

fn go_was_said(pair: &Pair) -> bool {
    pair.dir.path().join("go").exists()
}

#[test]
fn it_moves_and_is_counted() {
    let pair = pair(small_guest(), "rxl");
    let (result, report) = migrate(&pair);
    result.unwrap();
    let report = report.unwrap();
    let outcome = pair.outcome();
    assert_eq!(
        (&outcome["domains"][0]["name"], &outcome["domains"][0]["state"]),
        (&"dom3".into(), &"Running".into())
    );
    assert_eq!(outcome["domains"][0]["stream"][0].as_u64(), Some(report.ram.stream_bytes));
    assert!(pair.host.domains().is_empty(), "the source's copy is gone");
    assert_eq!(
        report.iterations.iter().map(|iteration| iteration.pages).collect::<Vec<_>>(),
        [20_000, 2_000, 100, 100]
    );
    assert_eq!(
        report.iterations.iter().map(|iteration| iteration.suspended).collect::<Vec<_>>(),
        [false, false, false, true]
    );
    assert_eq!(report.ram.transferred, report.ram.stream_bytes, "as libxl wrote it");
    assert!(report.ram.duplicate > report.ram.normal, "three quarters are zero");
    assert!(report.downtime.unwrap() > 0.0 && report.downtime_split.is_some());
    assert_eq!((report.transport.kind.as_str(), report.compression.codec.as_str()), ("xl", "none"));
    assert!(report.checksum.digest.is_none() && report.target.is_none());
    println!("{}", report.to_table());
}

#[test]
fn it_can_be_left_paused_by_the_receivers_own_option() {
    let pair = pair(small_guest(), "rxl paused");
    migrate(&pair).0.unwrap();
    assert_eq!(pair.outcome()["domains"][0]["state"], "Paused");
}

#[test]
fn xens_own_checker_accepts_what_a_receiver_gets() {
    let pair = pair(small_guest(), "banner stream ready go report=0");
    migrate(&pair).0.unwrap();
    assert!(go_was_said(&pair));
    let oracle = concat!(env!("CARGO_MANIFEST_DIR"), "/migrate-stream/tests/oracle.sh");
    let judged =
        Command::new(oracle).arg("xl").arg(pair.dir.path().join("captured")).output().unwrap();
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
}

/// The number is sent when it is to be kept, as xl does; libxl's own configuration has it in any
/// case.
#[test]
fn the_number_is_sent_when_it_is_to_be_kept() {
    for preserve in [false, true] {
        let mut pair = pair(small_guest(), "banner stream ready go report=0");
        pair.request.preserve_domid = preserve;
        let domid = pair.host.domains()[0].domain.domid;
        migrate(&pair).0.unwrap();
        let captured = std::fs::read(pair.dir.path().join("captured")).unwrap();
        let length = u32::from_le_bytes(*captured[48..].first_chunk().unwrap()) as usize;
        let (nul, json) = captured[52..52 + length].split_last().unwrap();
        let config: serde_json::Value = serde_json::from_slice(json).unwrap();
        assert_eq!((*nul, &config["c_info"]["name"]), (0, &"dom3".into()));
        assert_eq!(
            config["c_info"].get("domid").and_then(|id| id.as_u64()),
            preserve.then_some(domid.0.into())
        );
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut pair = pair(small_guest(), "rxl");
    pair.request.dry_run = true;
    migrate(&pair).0.unwrap();
    assert_eq!(pair.host.domains()[0].domain.state, RunState::Running);
    assert_eq!(pair.outcome()["domains"].as_array().map(Vec::len), Some(0));
}

#[test]
fn before_anything_has_begun_each_end_has_its_own_code() {
    for (steps, exit, words) in [
        ("exit=127", Exit::NoPeer, "no xl on"),
        ("exit=255", Exit::Unreachable, "cannot reach"),
        ("say=Welcome", Exit::NoPeer, "'Welcome' came in place of its banner"),
        ("ready linger", Exit::NoPeer, "in place of its banner"),
    ] {
        let pair = pair(small_guest(), steps);
        let (result, report) = migrate(&pair);
        let failure = result.unwrap_err();
        assert!(report.is_none());
        assert_eq!(failure.exit, exit, "{failure}");
        assert!(failure.to_string().contains(words) && failure.next.is_some(), "{failure}");
        assert_runs_here(&pair, &failure);
    }
}

#[test]
fn whatever_fails_before_go_the_source_runs_on() {
    for (steps, faults) in [
        ("banner exit=1", Faults::default()),
        ("banner some=300 exit=1", Faults::default()),
        ("banner some=30000000 exit=1", Faults::default()),
        ("banner stream exit=1", Faults::default()),
        ("banner stream say=domain linger", Faults::default()),
        ("banner stream say=xyz linger", Faults::default()),
        ("banner stream report=0 linger", Faults::default()),
        ("banner some=30000000 say=nonsense linger", Faults::default()),
        ("banner stream ready go", Faults { rename: true, ..Faults::default() }),
        ("banner linger", Faults { save_after_iterations: Some(1), ..Faults::default() }),
        ("banner linger", Faults { save_after_suspend: true, ..Faults::default() }),
    ] {
        let mut pair = pair(small_guest(), steps);
        // For the one that says no more than a part of READY.
        pair.request.limits.timeout = Some(Duration::from_secs(5));
        pair.host.set_faults(faults);
        let failure = migrate(&pair).0.unwrap_err();
        println!("{steps}: {failure}");
        assert!(
            [Exit::FailedSourceRuns, Exit::Cancelled, Exit::Unreachable].contains(&failure.exit),
            "{failure}"
        );
        assert_runs_here(&pair, &failure);
        assert!(!go_was_said(&pair), "{steps}");
    }
}

/// Not one byte of GO can be written: it was not said.
#[test]
fn a_go_that_cannot_be_written_was_not_said() {
    let pair = pair(small_guest(), "banner stream deaf ready exit=0");
    let failure = migrate(&pair).0.unwrap_err();
    println!("{failure}");
    assert_eq!(failure.exit, Exit::FailedSourceRuns, "{failure}");
    assert_runs_here(&pair, &failure);
}

#[test]
fn after_go_only_a_domain_that_was_given_back_runs_again() {
    let steps = "banner stream ready go report=3 give-back";
    let given_back = pair(small_guest(), steps);
    let failure = migrate(&given_back).0.unwrap_err();
    println!("{steps}: {failure}");
    assert_eq!(failure.exit, Exit::FailedSourceRuns, "{failure}");
    assert_runs_here(&given_back, &failure);
    for steps in [
        "banner stream ready go exit=0",
        "banner stream ready exit=0",
        "banner stream ready go say=my exit=0",
        "banner stream ready go say=nonsense linger",
        "banner stream ready go give-back linger",
        "banner stream ready go report=3 exit=0",
        "banner stream ready go report=255 say=domain exit=0",
        "banner stream ready go report=255 report=0 linger",
    ] {
        let pair = pair(small_guest(), steps);
        let (result, report) = migrate(&pair);
        let failure = result.unwrap_err();
        println!("{steps}: {failure}");
        // A receiver that ends at READY may be gone before GO is written, or after.
        if steps == "banner stream ready exit=0" && failure.exit == Exit::FailedSourceRuns {
            assert_runs_here(&pair, &failure);
            continue;
        }
        assert_eq!(failure.exit, Exit::Undecided, "{failure}");
        assert!(failure.next.is_some());
        assert!(report.unwrap().to_json().unwrap().contains("\"status\": \"undecided\""));
        assert_kept_away(&pair, &failure);
    }
}

#[test]
fn what_follows_a_good_report_changes_nothing() {
    let pair = pair(small_guest(), "banner stream ready go report=0 say=more");
    migrate(&pair).0.unwrap();
    assert!(pair.host.domains().is_empty());
}

#[test]
fn a_target_that_cannot_start_it_gives_it_back_or_keeps_it() {
    for fault in ["restore", "rename", "unpause"] {
        let pair = pair(small_guest(), &format!("rxl fault={fault}"));
        let failure = migrate(&pair).0.unwrap_err();
        println!("{fault}: {failure}");
        assert_eq!(failure.exit, Exit::FailedSourceRuns, "{failure}");
        assert_runs_here(&pair, &failure);
        assert_eq!(pair.outcome()["domains"].as_array().map(Vec::len), Some(0));
    }
    let pair = pair(small_guest(), "rxl fault=destroy");
    let failure = migrate(&pair).0.unwrap_err();
    assert_eq!(failure.exit, Exit::Undecided, "{failure}");
    assert_kept_away(&pair, &failure);
    assert_eq!(pair.outcome()["domains"][0]["state"], "Paused");
}

#[test]
fn a_name_that_is_taken_there_is_told() {
    let pair = pair(small_guest(), "rxl taken=dom3");
    let failure = migrate(&pair).0.unwrap_err();
    assert!(failure.to_string().contains("a domain named dom3 is there already"), "{failure}");
    assert_runs_here(&pair, &failure);
}

#[test]
fn a_cancel_in_precopy_is_clean_on_both_sides() {
    let pair = pair(Guest { endless: true, ..small_guest() }, "rxl");
    let events = Events::default();
    let cancel = events.sender();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        cancel.send(Event::Interrupt).unwrap();
    });
    let begun = Instant::now();
    let failure = migrate_with(&pair, &events).0.unwrap_err();
    canceller.join().unwrap();
    assert_eq!(failure.exit, Exit::Cancelled, "{failure}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_runs_here(&pair, &failure);
    assert_eq!(pair.outcome()["domains"].as_array().map(Vec::len), Some(0));
    assert_eq!(pair.left_files(), Vec::<String>::new());
}

#[test]
fn what_xls_protocol_has_no_place_for_is_refused() {
    let refused = |change: fn(&mut rxl_session::request::MigrationRequest)| {
        let mut pair = pair(small_guest(), "exit=1");
        change(&mut pair.request);
        let failure = migrate(&pair).0.unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{failure}");
        assert!(failure.next.is_some());
        failure.to_string()
    };
    assert!(refused(|request| request.quiesce = Level::Job).contains("MPI"));
    assert!(refused(|request| request.transport = Transport::Tcp).contains("--transport"));
    assert!(refused(|request| request.connections = 2).contains("--parallel-connections"));
    assert!(refused(|request| request.leave_paused = true).contains("-p"));
}

#[test]
fn a_target_without_rxl_tells_of_the_other_way_when_it_may() {
    for (peer, told) in [(Peer::Auto, true), (Peer::Rxl, false)] {
        let mut pair = pair(small_guest(), "exit=127");
        pair.request.peer = peer;
        let failure = pair.migrate_refused();
        assert_eq!(failure.exit, Exit::NoPeer, "{failure}");
        assert_eq!(failure.to_string().contains("--peer xl"), told, "{failure}");
        assert_runs_here(&pair, &failure);
    }
}
