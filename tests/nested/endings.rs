//! Every ending decided without a person: a host loses its power, the link is cut, or rxl is
//! stopped, at each step of the handover. What is left is decided by the hosts' own timers.
//!
//! rxl is stopped where its record says so on the disk (`stop_after.c`), so that what is broken is
//! broken in that very moment.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rxl_lab::{Node, RemoteProcess, guest};

use crate::cluster::{COMMAND, Cluster, MIGRATION};
use crate::survival::check_memory;

/// Until both hosts are up again and their timers have decided.
const DECIDED: Duration = Duration::from_secs(600);

/// Tells that rxl was stopped, on the host where that was. It outlasts a loss of power.
const MARKER: &str = "/root/rxl-stopped";

/// Puts the library before the receiver: `-s` names this in ssh's place.
const VIA: &str = "/root/via";

/// A step of the handover: the state that has just been recorded, and where.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    name: &'static str,
    state: &'static str,
    node: Node,
}

const STEPS: [Step; 4] = [
    Step { name: "before READY", state: "held", node: Node::B },
    Step { name: "between READY and GO", state: "committing", node: Node::A },
    Step { name: "between GO and Done", state: "taken", node: Node::B },
    Step { name: "after Done", state: "running", node: Node::B },
];

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    SourceOff,
    TargetOff,
    LinkCut,
    Stopped,
}

/// The one that takes least time, for every run.
pub fn a_link_cut_between_go_and_done(cluster: &Cluster) -> Result<()> {
    let library = prepare(cluster)?;
    broken(cluster, &library, STEPS[2], Break::LinkCut)
}

pub fn links_cut_and_rxl_stopped_at_each_step(cluster: &Cluster) -> Result<()> {
    let library = prepare(cluster)?;
    each(cluster, &library, &[Break::LinkCut, Break::Stopped])
}

pub fn power_lost_at_each_step(cluster: &Cluster) -> Result<()> {
    let library = prepare(cluster)?;
    each(cluster, &library, &[Break::SourceOff, Break::TargetOff])
}

fn each(cluster: &Cluster, library: &Path, breaks: &[Break]) -> Result<()> {
    for step in STEPS {
        for what in breaks {
            broken(cluster, library, step, *what)
                .with_context(|| format!("{what:?} {}", step.name))?;
            bring_home(cluster)?;
        }
    }
    Ok(())
}

/// Builds the library, and has each host recover by itself, as a package would set it up.
fn prepare(cluster: &Cluster) -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = std::env::temp_dir().join(format!("rxl-stop-after-{}.so", std::process::id()));
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-o"]).arg(&library);
    let compiled = compiler.arg(here.join("tests/nested/stop_after.c")).status()?;
    ensure!(compiled.success(), "cc: {compiled}");
    for node in Node::PAIR {
        let host = cluster.lab.node(node);
        for unit in ["rxl-recover.service", "rxl-recover.timer"] {
            let remote = format!("/etc/systemd/system/{unit}");
            host.put(&here.join("toolstack/systemd").join(unit), &remote, COMMAND)?;
        }
        host.put(&library, "/root/stop-after.so", COMMAND)?;
        host.check(
            "systemctl daemon-reload && systemctl enable --now rxl-recover.timer && sync",
            COMMAND,
        )?;
    }
    Ok(library)
}

/// Breaks a migration of small from nodeA, lets the hosts decide, and looks at what is left.
fn broken(cluster: &Cluster, _library: &Path, step: Step, what: Break) -> Result<()> {
    let mut probe = cluster.lab.watch_memcheck(Node::B, guest("small")?.ip)?;
    check_memory(&mut probe, "before")?;
    let (mut migration, stopped) = stop_at(cluster, step)?;
    let go_on = || {
        let host = cluster.lab.node(step.node);
        // A host that was off has no such process any more.
        host.run(&format!("kill -CONT {stopped}"), COMMAND).map(drop)
    };
    let begun = Instant::now();
    match what {
        Break::SourceOff => off(cluster, Node::A, step, go_on)?,
        Break::TargetOff => off(cluster, Node::B, step, go_on)?,
        Break::LinkCut => {
            cluster.lab.set_link(Node::B, false)?;
            go_on()?;
            std::thread::sleep(Duration::from_secs(20));
            cluster.lab.set_link(Node::B, true)?;
        }
        Break::Stopped => {
            // Longer than its peer waits for a word.
            std::thread::sleep(Duration::from_secs(25));
            go_on()?;
        }
    }
    let home = decided(cluster)?;
    let ended = migration.wait(MIGRATION);
    let said = ended.map_or_else(|_| String::new(), |output| output.stderr.trim().to_owned());
    println!(
        "  {what:?} {}: small runs on {home}, decided after {:.0} s; {said}",
        step.name,
        begun.elapsed().as_secs_f64()
    );
    for node in Node::PAIR {
        let told = cluster.lab.node(node).run(
            "journalctl -q -o cat -t rxl -t rxl-guard -t rxl-recover --since -20min",
            COMMAND,
        )?;
        told.stdout.lines().for_each(|line| println!("    {node}: {line}"));
    }
    let mut probe = cluster.lab.watch_memcheck(home.other(), guest("small")?.ip)?;
    check_memory(&mut probe, "after")?;
    cluster.check_clean("small", home)
}

/// Starts the migration; returns when rxl stands still at this step, with its process's id.
fn stop_at(cluster: &Cluster, step: Step) -> Result<(RemoteProcess, String)> {
    let preload =
        format!("LD_PRELOAD=/root/stop-after.so STOP_AFTER={} STOP_MARKER={MARKER}", step.state);
    for node in Node::PAIR {
        cluster.lab.node(node).check(&format!("rm -f {MARKER}"), COMMAND)?;
    }
    let (here, there) =
        if step.node == Node::A { (preload.as_str(), "") } else { ("", preload.as_str()) };
    let source = cluster.lab.node(Node::A);
    let via = format!("#!/bin/sh\nhost=$1; shift\nexec ssh \"$host\" {there} \"$@\"\n");
    source.write(VIA, via.as_bytes(), COMMAND)?;
    source.check(&format!("chmod +x {VIA} && sync"), COMMAND)?;
    let command =
        format!("{here} rxl migrate --progress none --peer-timeout 10 -s {VIA} small nodeB");
    let migration = source.spawn(command.trim())?;
    cluster.wait_until(step.node, &format!("test -s {MARKER}"))?;
    let stopped = cluster.lab.node(step.node).check(&format!("cat {MARKER}"), COMMAND)?;
    Ok((migration, stopped.stdout.trim().to_owned()))
}

/// Takes a host's power for a while. What was stopped on the other one goes on meanwhile.
fn off(cluster: &Cluster, node: Node, step: Step, go_on: impl Fn() -> Result<()>) -> Result<()> {
    cluster.lab.cut_power(node)?;
    if step.node != node {
        go_on()?;
    }
    std::thread::sleep(Duration::from_secs(5));
    cluster.lab.restore_power(node)
}

/// Waits until small runs on one host and nothing is left to decide on either.
fn decided(cluster: &Cluster) -> Result<Node> {
    let deadline = Instant::now() + DECIDED;
    let nothing = "rxl recover --dry-run | grep -q '^nothing is left'";
    loop {
        let done = Node::PAIR.into_iter().all(|node| {
            let looked = cluster.lab.node(node).run(nothing, COMMAND);
            looked.is_ok_and(|output| output.success())
        });
        if done && let Ok(home) = cluster.home_of("small") {
            return Ok(home);
        }
        ensure!(Instant::now() < deadline, "not decided by itself");
        std::thread::sleep(Duration::from_secs(3));
    }
}

/// Back to nodeA, for the next one.
fn bring_home(cluster: &Cluster) -> Result<()> {
    if cluster.home_of("small")? == Node::B {
        cluster.migrate(Node::B, "small nodeA")?;
    }
    Ok(())
}
