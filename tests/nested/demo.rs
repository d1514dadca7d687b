//! `make demo`: two nested Xen hosts, an MPI ring over two domUs, one of which moves while the ring
//! turns.

#[path = "cluster.rs"]
#[expect(dead_code, reason = "the demo needs less of it than the tests")]
mod cluster;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::{Cluster, MIGRATION};
use rxl_lab::Node;

const RING_SECONDS: u32 = 120;

fn main() -> Result<()> {
    let [rxl, helper] = [beside_this_program("rxl")?, beside_this_program("rxl-save-helper")?];
    say("Two nested Xen hosts, nodeA and nodeB (the first time, their images are built: minutes).");
    let begun = Instant::now();
    let cluster = Cluster::up(&Node::PAIR, &[&rxl, &helper])?;
    println!(
        "   up in {:.1} s; dom3 and small run on nodeA, dom4 on nodeB",
        begun.elapsed().as_secs_f64()
    );

    say("The guest agent, from its package, in both domains of the job.");
    for guest in ["dom3", "dom4"] {
        cluster.install_agent(guest)?;
    }

    cluster.lab.bind_processors()?;
    say("An MPI ring: two ranks, one in dom3 and one in dom4, 64 KiB a message, each with its \
         number and a checksum.");
    let launcher = cluster.lab.guest_via("dom4", Node::B)?;
    let mut ring =
        launcher.spawn(&format!("mpirun --host dom3,dom4 -np 2 mpi-ring {RING_SECONDS} 65536"))?;
    ring.wait_for_stdout("progress", Duration::from_secs(120))
        .context("the ring does not start")?;
    println!("   it turns");

    say("nodeA# rxl jobs");
    print!("{}", jobs(&cluster)?);

    say("nodeA# rxl migrate dom3 nodeB --mpi-quiesce");
    let output = cluster
        .lab
        .node(Node::A)
        .check("rxl migrate --progress plain dom3 nodeB --mpi-quiesce", MIGRATION)?;
    print!("{}{}", output.stderr, output.stdout);

    say("What the ring saw, when it has ended by itself:");
    let saw = ring.wait(MIGRATION)?;
    println!("   {}", saw.stdout.lines().last().context("it said nothing")?);
    ensure!(saw.success(), "the job failed: {}", saw.stderr);

    say("nodeB# xl list");
    print!("{}", cluster.lab.node(Node::B).check("xl list", cluster::COMMAND)?.stdout);
    Ok(())
}

/// The hosts of the cluster are named once; then each sees the job, which its agents notice within
/// seconds.
fn jobs(cluster: &Cluster) -> Result<String> {
    cluster.name_hosts(Node::A)?;
    let look = "for i in $(seq 10); do rxl jobs | tee /run/jobs | grep -c openmpi | grep -qx 2 && \
                break; sleep 1; done; cat /run/jobs";
    Ok(cluster.lab.node(Node::A).check(look, MIGRATION)?.stdout)
}

fn say(text: &str) {
    println!("\n== {text}");
}

/// Examples are built into a folder beside the programs.
fn beside_this_program(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let program = here.ancestors().nth(2).context("a folder")?.join(name);
    ensure!(program.exists(), "{} is not built: `make demo` does it", program.display());
    Ok(program)
}
