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

/// Stock xl; rxl; rxl with libxc's code at both ends, which one run alone leaves out.
const TOOLS: [&str; 3] = [
    "xl migrate",
    "rxl migrate --progress none",
    "rxl migrate --progress none --walker libxc --restorer libxc",
];

pub fn beside_stock_xl(cluster: &Cluster) -> Result<()> {
    let guests = std::env::var("RXL_COMPARE_GUESTS").unwrap_or_else(|_| "small".into());
    guests.split_whitespace().try_for_each(|guest| compare(cluster, guest))
}

fn compare(cluster: &Cluster, guest: &str) -> Result<()> {
    let runs = runs()?;
    let tools = if runs == 1 { &TOOLS[..2] } else { &TOOLS[..] };
    let mut samples: Vec<Vec<Sample>> = tools.iter().map(|_| Vec::new()).collect();
    let mut at = cluster.home_of(guest)?;
    for run in 0..runs {
        for turn in 0..tools.len() {
            // Three tools and two directions: each goes in each.
            let tool = (run + turn) % tools.len();
            samples[tool].push(measure(cluster, tools[tool], guest, at)?);
            at = at.other();
        }
    }
    check(guest, &samples)?;
    cluster.check_clean(guest, at)
}

/// Prints the medians, and each as a part of xl's.
fn check(guest: &str, samples: &[Vec<Sample>]) -> Result<()> {
    println!("  {guest}, medians by xl, rxl and, with more than one run, rxl with libxc's code:");
    let row = |what: &str, of: fn(&Sample) -> f64| {
        let medians: Vec<f64> =
            samples.iter().map(|by| median(by.iter().map(of).collect())).collect();
        let ratios: Vec<f64> = medians[1..].iter().map(|value| value / medians[0]).collect();
        println!("  {what:<22} {medians:>10.1?}, of xl's {ratios:.3?}");
        ratios
    };
    let time = row("total time (s)", |s| s.seconds)[0];
    let wire = row("wire (MB)", |s| s.wire_bytes / 1e6);
    let gap = row("ping gap (ms)", |s| s.ping_gap_ms)[0];
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
    Ok(())
}
