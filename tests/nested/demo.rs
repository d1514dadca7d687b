//! `make demo`: two nested Xen hosts and an MPI ring over two domains, one of which moves while the
//! ring turns.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "cluster.rs"]
#[expect(dead_code, reason = "the demo needs less of it than the tests")]
mod cluster;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::{COMMAND, Cluster, MIGRATION};
use rxl_lab::{Node, RemoteProcess};
use serde_json::Value;

/// With any value, `xl migrate` moves the same domain the same way afterwards, for comparison.
const BESIDE_XL: &str = "RXL_DEMO_BESIDE_XL";

/// Lines of the ring's progress, one a second, before and after a migration: it turns as usual.
const STEADY: usize = 5;

/// Turns until it is killed, at the end of the demo.
const RING: &str = "exec mpirun --host dom4,dom3 -np 2 mpi-ring 0 65536";

fn main() -> Result<()> {
    let cluster = start()?;
    say("An MPI ring: a rank in dom4 and one in dom3, 64 KiB a message, each numbered and with a \
         checksum.");
    let mut ring = Ring::start(&cluster)?;
    let usual = ring.listen(STEADY)?;
    println!("   it turns; the longest round of {STEADY} s took {usual:.1} s");

    say("nodeA# rxl jobs");
    print!("{}", jobs(&cluster)?);

    let migrate = "rxl migrate --progress plain dom3 nodeB --mpi-quiesce";
    ring.watch(&cluster, migrate, true)?;
    if std::env::var_os(BESIDE_XL).is_some() {
        cluster.migrate(Node::B, "dom3 nodeA")?;
        ring.watch(&cluster, "xl migrate dom3 nodeB", false)?;
    }

    say("nodeB# xl list");
    print!("{}", cluster.lab.node(Node::B).check("xl list", COMMAND)?.stdout);
    Ok(())
}

fn start() -> Result<Cluster> {
    let [rxl, helper] = [beside_this_program("rxl")?, beside_this_program("rxl-save-helper")?];
    say("Two nested Xen hosts, nodeA and nodeB (the first time, their images are built: minutes).");
    let begun = Instant::now();
    let cluster = Cluster::up(&Node::PAIR, &[&rxl, &helper])?;
    let took = begun.elapsed().as_secs_f64();
    println!("   up in {took:.1} s; dom3 runs on nodeA, dom4 on nodeB");
    share_processors(&cluster)?;

    say("The guest agent, from its package, in both domains of the job.");
    cluster.install_agent("dom3")?;
    cluster.install_agent("dom4")?;
    Ok(cluster)
}

/// Each host has one emulated processor for its dom0, which copies, and for ranks, which spin. With
/// the lab's own weight dom0 takes nearly all of it while pages flow, and the ring stands still for
/// want of a processor, whoever moves the domain.
fn share_processors(cluster: &Cluster) -> Result<()> {
    cluster.lab.bind_processors()?;
    cluster.lab.node(Node::A).check("xl destroy small", COMMAND)?;
    cluster.weigh_dom0(cluster::SHARED_WEIGHT)?;
    let weight = cluster::SHARED_WEIGHT;
    println!("   Each host has one emulated processor, whichever tool migrates. dom0's weight is");
    println!(
        "   {weight}, as Xen's documentation says beside busy domains; a domain's is 256. With"
    );
    println!("   more for dom0 the ring would wait for a processor all through pre-copy.");
    Ok(())
}

/// A job whose rank 0 runs in dom4, which stays: its clock sees the whole stall.
struct Ring {
    process: RemoteProcess,
    /// Lines of progress that were looked at.
    seen: usize,
}

impl Ring {
    fn start(cluster: &Cluster) -> Result<Self> {
        let mut process = cluster.lab.guest_via("dom4", Node::B)?.spawn(RING)?;
        process
            .wait_for_stdout("progress", Duration::from_secs(120))
            .context("the ring does not start")?;
        Ok(Self { process, seen: 0 })
    }

    /// Waits for so many more lines. Returns the longest round since the last call, in seconds.
    fn listen(&mut self, lines: usize) -> Result<f64> {
        let until = Instant::now() + MIGRATION;
        let enough = self.progress()?.len() + lines;
        let progress = loop {
            let progress = self.progress()?;
            if progress.len() >= enough {
                break progress;
            }
            ensure!(self.process.is_running()? && Instant::now() < until, "the ring stands still");
            std::thread::sleep(Duration::from_millis(200));
        };
        let fresh = &progress[self.seen..];
        self.seen = progress.len();
        ensure!(fresh.iter().all(|line| line["bad"] == 0), "a message came damaged");
        let longest = fresh.iter().filter_map(|line| line["longest_ms"].as_f64());
        Ok(longest.fold(0.0, f64::max) / 1e3)
    }

    fn progress(&self) -> Result<Vec<Value>> {
        let text = self.process.stdout();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .filter(|line| line.contains("progress"))
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
            .collect()
    }

    /// Runs a migration on nodeA, shows what it says where that is wanted, and what the ring saw.
    fn watch(&mut self, cluster: &Cluster, command: &str, show: bool) -> Result<()> {
        say(&format!("nodeA# {command}"));
        self.listen(STEADY)?;
        let begun = Instant::now();
        let output = cluster.lab.node(Node::A).check(command, MIGRATION)?;
        let took = begun.elapsed().as_secs_f64();
        if show {
            print!("{}{}", output.stderr, output.stdout);
        }
        let longest = self.listen(STEADY)?;
        let last = self.progress()?.pop().context("the ring said nothing")?;
        println!(
            "   The ring turns on: {} rounds so far, {} damaged messages. While its domain was \
             moved, in {took:.0} s,\n   its longest round took {longest:.1} s.",
            last["progress"], last["bad"]
        );
        Ok(())
    }
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
