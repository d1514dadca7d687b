//! The golden snapshot: hosts booted, their guests up and warm. A lab starts from it within
//! seconds, where booting takes minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::accelerator::Accelerator;
use crate::cache::{Cache, recipe_hash};
use crate::host::{self, Host, guest_alias};
use crate::images::{Images, crate_path};
use crate::lab::{create_guest, watchdog};
use crate::machines::{Machines, on_each};
use crate::process::{check, wait_for};
use crate::qemu::{self, Life, Start};
use crate::run_dir;
use crate::topology::{GUESTS, Node};

const BOOT_LIMIT: Duration = Duration::from_secs(900);
const GUEST_LIMIT: Duration = Duration::from_secs(900);
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// The sources that decide what a snapshot holds, or whether a QEMU can load it.
const INPUTS: [&str; 4] = ["src/golden.rs", "src/machines.rs", "src/qemu.rs", "src/topology.rs"];

/// A set of hosts that were booted together.
struct Set {
    /// The cache's name for it.
    part: &'static str,
    nodes: &'static [Node],
}

/// Of every lab.
const PAIR: Set = Set { part: "golden", nodes: &Node::PAIR };

/// Of labs with three hosts. It knows nothing of the others yet, and no guest runs on it: it is
/// booted alone.
const THIRD: Set = Set { part: "third", nodes: &[Node::C] };

/// A finished snapshot.
pub(crate) struct Golden {
    /// Each host, and the directory with its disk.
    disks: Vec<(Node, PathBuf)>,
}

impl Golden {
    /// Makes the snapshots of these hosts that the cache lacks.
    pub(crate) fn build(
        cache: &Cache,
        images: &Images,
        accelerator: Accelerator,
        nodes: &[Node],
    ) -> Result<Self> {
        let inputs = INPUTS.map(crate_path);
        let hash = recipe_hash(&[&images.hash, accelerator.name(), &qemu::version()?], &inputs)?;
        let mut disks = Vec::new();
        for set in [PAIR, THIRD] {
            if set.nodes.iter().all(|node| nodes.contains(node)) {
                let dir =
                    cache.part(set.part, &hash, |out| make(&set, out, images, accelerator))?;
                disks.extend(set.nodes.iter().map(|node| (*node, dir.clone())));
            }
        }
        Ok(Self { disks })
    }

    /// Removes snapshots that nobody used for two weeks.
    pub(crate) fn prune(cache: &Cache) -> Result<()> {
        [PAIR, THIRD].iter().try_for_each(|set| cache.prune(set.part))
    }

    /// Copies the hosts' disks, with the snapshot in them, to a run directory.
    pub(crate) fn copy_disks(&self, run_dir: &Path) -> Result<()> {
        let nodes: Vec<Node> = self.disks.iter().map(|(node, _)| *node).collect();
        on_each(&nodes, |node| {
            let from = self.disks.iter().filter(|(other, _)| *other == node);
            from.map(|(_, dir)| qemu::disk_path(dir, node))
                .try_for_each(|disk| copy_disk(&disk, run_dir, node))
        })
    }
}

fn copy_disk(disk: &Path, dir: &Path, node: Node) -> Result<()> {
    fs::copy(disk, qemu::disk_path(dir, node))
        .map(drop)
        .with_context(|| format!("copying {}", disk.display()))
}

/// Twice, if need be: guests of emulated hosts crash now and then, through no fault of what is in
/// them (README.md: limits).
fn make(set: &Set, out: &Path, images: &Images, accelerator: Accelerator) -> Result<()> {
    make_once(set, out, images, accelerator).or_else(|error| {
        eprintln!("lab: once more after: {error:#}");
        make_once(set, out, images, accelerator)
    })
}

fn make_once(set: &Set, out: &Path, images: &Images, accelerator: Accelerator) -> Result<()> {
    let run_dir = run_dir::create(None)?;
    let made = boot_and_save(set, &run_dir, out, images, accelerator);
    if made.is_err() {
        keep_consoles(set.nodes, &run_dir, out);
    }
    run_dir::destroy(&run_dir)?;
    made
}

fn boot_and_save(
    set: &Set,
    run_dir: &Path,
    out: &Path,
    images: &Images,
    accelerator: Accelerator,
) -> Result<()> {
    eprintln!(
        "lab: making the golden snapshot of {} host(s) under {}",
        set.nodes.len(),
        accelerator.name()
    );
    for node in set.nodes {
        create_disk(&images.parts.dom0.join("dom0.qcow2"), &qemu::disk_path(run_dir, *node))?;
    }
    let mut machines =
        Machines::start(set.nodes, run_dir, &images.parts, accelerator, Start::Boot, Life::Owned)?;
    host::write_ssh_config(run_dir, &images.key, &machines.ssh_ports()?)?;
    let watchdog = watchdog(run_dir, set.nodes);
    on_each(set.nodes, |node| wait_for_xen(&Host::new(run_dir, node.name())))?;
    eprintln!("lab: hosts are up");
    on_each(set.nodes, |node| create_guests(&Host::new(run_dir, node.name()), node))?;
    eprintln!("lab: all guests are up");
    on_each(set.nodes, |node| warm_up_host(&Host::new(run_dir, node.name())))?;
    if set.part == PAIR.part {
        warm_up_pair(run_dir)?;
    }
    for node in set.nodes {
        let host = Host::new(run_dir, node.name());
        host.check("sync", COMMAND_LIMIT)?;
        host.close();
    }
    drop(watchdog);
    machines.stop_in_xen()?;
    machines.save()?;
    machines.end()?;
    // One that cannot be loaded would fail every lab from now on.
    let loaded = Machines::start(
        set.nodes,
        run_dir,
        &images.parts,
        accelerator,
        Start::Golden,
        Life::Owned,
    )?;
    loaded.ssh_ports().context("loading the snapshot")?;
    drop(loaded);
    set.nodes.iter().try_for_each(|node| copy_disk(&qemu::disk_path(run_dir, *node), out, *node))
}

fn create_disk(backing: &Path, disk: &Path) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(backing).arg(disk);
    check(&mut command, COMMAND_LIMIT).map(drop)
}

fn wait_for_xen(host: &Host) -> Result<()> {
    wait_for(&format!("{} booting", host.name()), BOOT_LIMIT, || {
        let output = host.run("systemctl is-system-running --wait && xl list", BOOT_LIMIT)?;
        Ok(output.success().then_some(()))
    })
}

/// One by one: two guests that boot at once on one CPU keep each other's devices waiting past
/// systemd's patience.
fn create_guests(host: &Host, node: Node) -> Result<()> {
    GUESTS
        .into_iter()
        .filter(|guest| guest.home == Some(node))
        .try_for_each(|guest| create_guest(host, guest, GUEST_LIMIT))
}

/// Brings the programs that tests use into the page cache.
fn warm_up_host(host: &Host) -> Result<()> {
    let command =
        "xl info >/dev/null && xenstore-ls >/dev/null && cat /usr/lib/xen-4.17/bin/* >/dev/null";
    host.check(command, COMMAND_LIMIT).map(drop)
}

/// Proves what tests rely on, which warms up what it uses.
fn warm_up_pair(run_dir: &Path) -> Result<()> {
    on_each(&Node::PAIR, |node| {
        let other = node.other();
        let command = format!("ssh {other} true && ping -c 2 {other}");
        Host::new(run_dir, node.name()).check(&command, COMMAND_LIMIT).map(drop)
    })?;
    // A save goes through all that a migration's sender uses; small is the guest that is saved
    // fastest.
    Host::new(run_dir, Node::A.name())
        .check("xl save -c small /dev/null && xl list small", COMMAND_LIMIT)?;
    let ring = Host::new(run_dir, &guest_alias("dom3", Node::A));
    Host::new(run_dir, &guest_alias("dom4", Node::B)).check("ssh dom3 true", COMMAND_LIMIT)?;
    let output = ring.check("mpirun --host dom3,dom4 -np 2 mpi-ring 5", COMMAND_LIMIT)?;
    if !output.stdout.contains("\"bad\":0,\"longest_stall_ms\"") {
        bail!("the MPI ring did not turn: {}", output.stdout);
    }
    ring.close();
    Host::new(run_dir, &guest_alias("dom4", Node::B)).close();
    Ok(())
}

/// For whoever has to find out why a host or guest did not boot.
fn keep_consoles(nodes: &[Node], run_dir: &Path, out: &Path) {
    for node in nodes {
        let console = qemu::console_path(run_dir, *node);
        let kept = out.with_extension(format!("{node}.console"));
        if fs::copy(&console, &kept).is_ok() {
            eprintln!("lab: {node}'s console is in {}", kept.display());
        }
    }
}
