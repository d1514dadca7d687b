//! A real MPI job, one of whose ranks moves.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, MIGRATION, number};
use rxl_lab::Node;

/// The ring, over TCP, one rank on each of two domUs.
pub const RING: &str = "mpirun --host dom3,dom4 -np 2 mpi-ring";

/// Longer than the migration takes, so that it turns before, while and after.
const RING_SECONDS: u32 = 120;

pub fn a_ring_survives_the_move_of_a_rank(cluster: &Cluster) -> Result<()> {
    cluster.lab.bind_processors()?;
    // From dom4, which stays: its own clock sees the whole stall.
    let launcher = cluster.lab.guest_via("dom4", Node::B)?;
    let mut ring = launcher.spawn(&format!("{RING} {RING_SECONDS} 65536"))?;
    ring.wait_for_stdout("progress", Duration::from_secs(120))
        .context("the ring does not start")?;
    let report = cluster.migrate(Node::A, "dom3 nodeB")?;
    ensure!(ring.is_running()?, "the ring ended before the migration did: {}", ring.stdout());
    let output = ring.wait(MIGRATION)?;
    ensure!(output.success(), "the job failed: {} {}", output.stdout, output.stderr);
    let last = output.stdout.lines().last().context("the ring said nothing")?;
    let saw: Value =
        serde_json::from_str(last).with_context(|| format!("not a summary: {last}"))?;
    println!(
        "  ring: {} rounds, {} bad messages, longest stall {:.0} ms, median round {:.0} ms; rxl: \
         total {:.1} s, downtime {:.0} ms",
        saw["rounds"],
        saw["bad"],
        number(&saw, "/longest_stall_ms")?,
        number(&saw, "/median_ms")?,
        number(&report, "/total-time")? / 1e3,
        number(&report, "/downtime")?,
    );
    ensure!(saw["bad"] == 0 && saw["rounds"].as_u64() > Some(0), "{last}");
    cluster.check_clean("dom3", Node::B)
}
