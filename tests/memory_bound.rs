//! rxl's memory does not depend on the guest's: 16 GiB go through, on both sides under 128 MiB.
//!
//! A test program of its own, because it measures its own process: run it with optimisation.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use rxl_testkit::memory::Guest;
use support::Pair;

const GIB_PAGES: u64 = 1 << 18;
const LIMIT_KIB: u64 = 128 << 10;

fn kib(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number of KiB")
}

#[test]
fn sixteen_gib_pass_through_little_memory() {
    let guest = Guest {
        pages: 16 * GIB_PAGES,
        zero_per_256: 192,
        dirty: vec![GIB_PAGES / 4],
        endless: false,
        seed: 9,
    };
    let mut pair = Pair::new(guest);
    pair.request.packing.threads = rxl_datapath::packing::MAX_THREADS;
    let (result, report) = pair.migrate();
    result.unwrap();
    let outcome = pair.outcome();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let source = kib(status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap());
    let target = kib(outcome["peak"].as_str().unwrap());
    println!(
        "16 GiB in {:.1} s: peak {} MiB at the source, {} MiB at the target, {:.1} GB of stream, \
         {:.1} GB on the wire",
        report.total_time / 1e3,
        source / 1024,
        target / 1024,
        report.ram.stream_bytes as f64 / 1e9,
        report.ram.transferred as f64 / 1e9,
    );
    assert!(source < LIMIT_KIB && target < LIMIT_KIB, "{source} KiB, {target} KiB");
}
