//! rxl beside stock xl, interleaved: the same idle guest back and forth.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rxl_lab::{Node, guest};

use crate::cluster::{COMMAND, Cluster, MIGRATION, median};

/// One migration's figures.
struct Sample {
    seconds: f64,
    wire_bytes: f64,
    ping_gap_ms: f64,
}

/// RXL_COMPARE_RUNS: migrations by each tool; an even number ends where it began.
fn runs() -> Result<usize> {
    match std::env::var("RXL_COMPARE_RUNS") {
        Ok(runs) => runs.parse().context("RXL_COMPARE_RUNS"),
        Err(_) => Ok(3),
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

pub fn idle_guest_with_stock_xl(cluster: &Cluster) -> Result<()> {
    let (mut xl, mut rxl) = (Vec::new(), Vec::new());
    let mut at = Node::A;
    for run in 0..runs()? {
        let mut tools = [("xl migrate", &mut xl), ("rxl migrate --progress none", &mut rxl)];
        // Each tool goes in each direction.
        tools.rotate_left(run % 2);
        for (tool, samples) in tools {
            samples.push(measure(cluster, tool, "dom3", at)?);
            at = at.other();
        }
    }
    let row = |what: &str, of: fn(&Sample) -> f64| {
        let (xl, rxl) = (median(xl.iter().map(of).collect()), median(rxl.iter().map(of).collect()));
        println!("  {what:<22} {xl:>14.1} {rxl:>14.1} {:>8.3}", rxl / xl);
        rxl / xl
    };
    println!("  {:<22} {:>14} {:>14} {:>8}", "median", "xl", "rxl", "ratio");
    let time = row("total time (s)", |s| s.seconds);
    let wire = row("wire (MB)", |s| s.wire_bytes / 1e6);
    row("ping gap (ms)", |s| s.ping_gap_ms);
    // About half where nothing else runs; a busy machine's noise must not fail a build.
    ensure!(time <= 0.8, "rxl takes {time:.2} of xl's time");
    ensure!(wire <= 0.12, "rxl sends {wire:.2} of xl's bytes");
    cluster.check_clean("dom3", at)
}
