//! rxl beside stock xl, interleaved: the same idle guest back and forth.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::cluster::{COMMAND, Cluster, MIGRATION, median};
use rxl_lab::{Node, guest};

/// What one migration took and what a watcher of its guest saw.
struct Sample {
    seconds: f64,
    wire_bytes: f64,
    ping_gap_ms: f64,
}

/// The most that rxl may take of what xl takes.
struct Most {
    time: f64,
    gap: f64,
    wire: f64,
}

/// RXL_COMPARE_RUNS: migrations by each tool. RXL_COMPARE_GUESTS: whose; `dom3` is idle, `small`
/// dirties its memory.
fn runs() -> Result<usize> {
    match std::env::var("RXL_COMPARE_RUNS") {
        Ok(runs) => runs.parse().context("RXL_COMPARE_RUNS"),
        Err(_) => Ok(1),
    }
}

fn measure(cluster: &Cluster, tool: &str, name: &str, from: Node) -> Result<Sample> {
    let to = from.other();
    let mut ping = cluster.lab.ping_gap(to, guest(name)?.ip)?;
    ping.wait_for_reply(COMMAND)?;
    let sent = cluster.link_bytes(from)?;
    let begun = Instant::now();
    cluster.lab.node(from).check(&format!("{tool} {name} {to}"), MIGRATION)?;
    let seconds = begun.elapsed().as_secs_f64();
    let wire_bytes = (cluster.link_bytes(from)? - sent) as f64;
    let sample = Sample { seconds, wire_bytes, ping_gap_ms: ping.finish()?.longest_gap_ms };
    println!(
        "  {tool} {name} {from} -> {to}: {:.1} s, {:.1} MB, ping gap {:.0} ms",
        sample.seconds,
        sample.wire_bytes / 1e6,
        sample.ping_gap_ms
    );
    Ok(sample)
}

/// Stock xl; rxl with libxc's code at both ends; rxl.
const TOOLS: [&str; 3] = [
    "xl migrate",
    "rxl migrate --progress none --walker libxc --restorer libxc",
    "rxl migrate --progress none",
];

pub fn beside_stock_xl(cluster: &Cluster) -> Result<()> {
    let guests = std::env::var("RXL_COMPARE_GUESTS").unwrap_or_else(|_| "small".into());
    guests.split_whitespace().try_for_each(|guest| compare(cluster, guest))
}

fn compare(cluster: &Cluster, guest: &str) -> Result<()> {
    let mut samples: [Vec<Sample>; 3] = Default::default();
    let mut at = Node::A;
    for run in 0..runs()? {
        for turn in 0..TOOLS.len() {
            // Three tools and two directions: each goes in each.
            let tool = (run + turn) % TOOLS.len();
            samples[tool].push(measure(cluster, TOOLS[tool], guest, at)?);
            at = at.other();
        }
    }
    println!(
        "  {:<22} {:>14} {:>14} {:>14}   {:>8} {:>8}",
        format!("{guest}, median"),
        "xl",
        "rxl (libxc)",
        "rxl",
        "libxc/xl",
        "rxl/xl"
    );
    let row = |what: &str, of: fn(&Sample) -> f64| {
        let [xl, libxc, rxl] = [0, 1, 2].map(|tool| median(samples[tool].iter().map(of).collect()));
        println!(
            "  {what:<22} {xl:>14.1} {libxc:>14.1} {rxl:>14.1}   {:>8.3} {:>8.3}",
            libxc / xl,
            rxl / xl
        );
        [libxc / xl, rxl / xl]
    };
    let [_, time] = row("total time (s)", |s| s.seconds);
    let wire = row("wire (MB)", |s| s.wire_bytes / 1e6);
    let [_, gap] = row("ping gap (ms)", |s| s.ping_gap_ms);
    // Wide: a busy machine's noise must not fail a build. A guest as small as this one is moved in
    // the time of the scripts for its devices, which both run.
    let most = if guest == "dom3" {
        Most { time: 1.0, gap: 0.8, wire: 0.12 }
    } else {
        Most { time: 1.5, gap: 2.5, wire: 0.5 }
    };
    ensure!(time <= most.time, "rxl takes {time:.2} of xl's time");
    ensure!(gap <= most.gap, "a ping waits {gap:.2} of what it waits with xl");
    ensure!(wire.iter().all(|ratio| *ratio <= most.wire), "rxl sends {wire:.2?} of xl's bytes");
    cluster.check_clean(guest, at)
}
