//! The policy, replayed on dirty traces that were recorded on Xen.
//!
//! `tests/traces/small-RATE[-Nmbit].json`: a guest of 128 MiB whose memory checker rewrites RATE of
//! 6,144 pages a second, migrated, over a link of N Mbit/s or the lab's own, with a downtime limit
//! of 1 ms, so that pre-copy went on for as long as it brought anything; `judged` is what the
//! policy was told after each live iteration. Recorded anew by `RXL_TRACES=$PWD/tests/traces cargo
//! test --release --test nested -- --ignored traces`.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use rxl_precopy::policy::{Limits, Measured, Otherwise, Policy, Verdict, Why, expected_downtime};

/// libxc's own policy (xg_sr_save.c: simple_precopy_policy): five iterations, or fewer than 50
/// dirty pages.
const LIBXC_MAX_ITERATIONS: u32 = 5;
const LIBXC_TARGET_DIRTY: u64 = 50;

struct Trace {
    name: String,
    judged: Vec<Measured>,
}

fn traces() -> Vec<Trace> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let files = std::fs::read_dir(&folder).expect("tests/traces").flatten();
    let mut traces: Vec<Trace> = files.map(|file| read(&file.path())).collect();
    traces.sort_by_key(|trace| trace.name.clone());
    traces
}

fn read(file: &Path) -> Trace {
    let trace: Value =
        serde_json::from_slice(&std::fs::read(file).expect("a trace")).expect("JSON");
    let measured = |iteration: &Value| Measured {
        iterations: iteration["rounds"].as_u64().expect("rounds") as u32,
        dirty: iteration["dirty-pages"].as_u64().expect("dirty-pages"),
        pages_per_second: iteration["pages-per-second"].as_f64(),
        elapsed: Duration::from_secs_f64(iteration["elapsed"].as_f64().expect("elapsed") / 1e3),
    };
    let judged = trace["judged"].as_array().expect("judged").iter().map(measured).collect();
    Trace { name: file.file_stem().expect("a name").to_string_lossy().into_owned(), judged }
}

fn limits(downtime_ms: u64, when_busy: Otherwise) -> Limits {
    Limits {
        downtime: Duration::from_millis(downtime_ms),
        max_iterations: 30,
        timeout: None,
        on_timeout: Otherwise::Cancel,
        when_busy,
    }
}

/// Where it ends: the index into the trace, and how.
fn replay(limits: Limits, trace: &[Measured]) -> (usize, Verdict) {
    let mut policy = Policy::new(limits);
    let ends = |(index, measured)| {
        let verdict = policy.decide(measured);
        (verdict != Verdict::Continue).then_some((index, verdict))
    };
    trace.iter().enumerate().find_map(ends).expect("each trace ends")
}

/// Where libxc would have suspended the guest; none where the trace ends before.
fn libxc(trace: &[Measured]) -> Option<&Measured> {
    trace.iter().find(|measured| {
        measured.iterations >= LIBXC_MAX_ITERATIONS || measured.dirty < LIBXC_TARGET_DIRTY
    })
}

fn shown(measured: &Measured) -> String {
    let expected = expected_downtime(measured)
        .map_or("?".into(), |time| format!("{:.0} ms", time.as_secs_f64() * 1e3));
    format!("iteration {}, {} dirty, {expected}", measured.iterations, measured.dirty)
}

#[test]
fn recorded_guests_are_suspended_below_the_limit_or_because_nothing_helps() {
    let traces = traces();
    assert!(traces.len() >= 5, "{} traces", traces.len());
    for trace in &traces {
        for limit in [100, 300, 1000] {
            let (index, verdict) = replay(limits(limit, Otherwise::Force), &trace.judged);
            let iteration = &trace.judged[index];
            println!("{}, limit {limit} ms: {verdict:?} at {}", trace.name, shown(iteration));
            let fits = |measured: &Measured| {
                expected_downtime(measured).is_some_and(|time| time.as_millis() <= limit.into())
            };
            assert!(
                !trace.judged[..index].iter().any(fits),
                "an earlier iteration would have done"
            );
            assert_eq!(verdict == Verdict::Stop(Why::BelowLimit), fits(iteration), "{verdict:?}");
        }
        println!("{}, libxc: {}", trace.name, libxc(&trace.judged).map_or("later".into(), shown));
    }
}

#[test]
fn a_larger_limit_never_takes_longer() {
    for trace in traces() {
        let ends = [1, 10, 100, 300, 1000, 10_000]
            .map(|limit| replay(limits(limit, Otherwise::Force), &trace.judged).0);
        assert!(ends.is_sorted_by(|sooner, later| sooner >= later), "{}: {ends:?}", trace.name);
    }
}

#[test]
fn a_guest_faster_than_the_link_is_given_up_where_the_user_wants_that() {
    let ends = |name: &str| {
        let traces = traces();
        let trace = traces.iter().find(|trace| trace.name == name).expect(name);
        let (index, verdict) = replay(limits(300, Otherwise::Cancel), &trace.judged);
        (trace.judged[index].iterations, verdict)
    };
    assert_eq!(ends("small-50").1, Verdict::Stop(Why::BelowLimit));
    // All of its memory is dirty after each iteration: two more than the first show that nothing
    // helps.
    assert_eq!(ends("small-1500-8mbit"), (3, Verdict::Cancel(Why::DirtyRate)));
}
