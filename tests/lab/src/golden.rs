//! The golden snapshot: both hosts booted, their guests up and warm. A lab starts from it within seconds, where booting
//! takes minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::accelerator::Accelerator;
use crate::cache::{Cache, recipe_hash};
use crate::host::{self, Host, guest_alias};
use crate::images::{Images, crate_path};
use crate::lab::{create_guest, hosts};
use crate::pair::{self, Pair};
use crate::process::{check, wait_for};
use crate::qemu::{self, Life, SNAPSHOT, Start};
use crate::run_dir;
use crate::topology::{GUESTS, Node};

const BOOT_LIMIT: Duration = Duration::from_secs(900);
const GUEST_LIMIT: Duration = Duration::from_secs(900);
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// The sources that decide what a snapshot holds, or whether a QEMU can load it.
const INPUTS: [&str; 3] = ["src/golden.rs", "src/qemu.rs", "src/topology.rs"];

/// The cache's name for it.
const PART: &str = "golden";

/// A finished snapshot.
pub(crate) struct Golden {
    dir: PathBuf,
}

impl Golden {
    /// Makes the snapshot if the cache lacks it.
    pub(crate) fn build(cache: &Cache, images: &Images, accelerator: Accelerator) -> Result<Self> {
        let inputs = INPUTS.map(crate_path);
        let hash = recipe_hash(&[&images.hash, accelerator.name(), &qemu::version()?], &inputs)?;
        let dir = cache.part(PART, &hash, |out| make(out, images, accelerator))?;
        Ok(Self { dir })
    }

    /// Removes snapshots that nobody used for two weeks.
    pub(crate) fn prune(cache: &Cache) -> Result<()> {
        cache.prune(PART)
    }

    /// Where the hosts' disks are, with the snapshot in them.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

fn make(out: &Path, images: &Images, accelerator: Accelerator) -> Result<()> {
    let run_dir = run_dir::create(None)?;
    let made = boot_and_save(&run_dir, out, images, accelerator);
    if made.is_err() {
        keep_consoles(&run_dir, out);
    }
    run_dir::destroy(&run_dir)?;
    made
}

fn boot_and_save(run_dir: &Path, out: &Path, images: &Images, accelerator: Accelerator) -> Result<()> {
    eprintln!("lab: making the golden snapshot under {}", accelerator.name());
    for node in Node::ALL {
        create_disk(&images.parts.dom0.join("dom0.qcow2"), &qemu::disk_path(run_dir, node))?;
    }
    let mut pair = Pair::start(run_dir, &images.parts, accelerator, Start::Boot, Life::Owned)?;
    host::write_ssh_config(run_dir, &images.key, pair.ssh_ports()?)?;
    let hosts = hosts(run_dir);
    pair::both(|node| wait_for_xen(&hosts[node.index()]))?;
    eprintln!("lab: both hosts are up");
    pair::both(|node| create_guests(&hosts[node.index()], node))?;
    eprintln!("lab: all guests are up");
    warm_up(run_dir, &hosts)?;
    for host in &hosts {
        host.check("sync", COMMAND_LIMIT)?;
        host.close();
    }
    pair.stop()?;
    pair.save()?;
    pair.end()?;
    for node in Node::ALL {
        let disk = qemu::disk_path(run_dir, node);
        verify_snapshot(&disk)?;
        fs::copy(&disk, qemu::disk_path(out, node)).with_context(|| format!("copying {}", disk.display()))?;
    }
    Ok(())
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

/// One by one: two guests that boot at once on one CPU keep each other's devices waiting past systemd's patience.
fn create_guests(host: &Host, node: Node) -> Result<()> {
    GUESTS
        .into_iter()
        .filter(|guest| guest.home == Some(node))
        .try_for_each(|guest| create_guest(host, guest, GUEST_LIMIT))
}

/// Proves what tests rely on, and so brings the programs they use into the page caches.
fn warm_up(run_dir: &Path, hosts: &[Host; 2]) -> Result<()> {
    pair::both(|node| {
        let other = node.other();
        let command = format!(
            "ssh {other} true && ping -c 2 {other} && xl info >/dev/null && xenstore-ls >/dev/null && \
             cat /usr/lib/xen-4.17/bin/* >/dev/null"
        );
        hosts[node.index()].check(&command, COMMAND_LIMIT)
    })?;
    // A save goes through all that a migration's sender uses; small is the guest that is saved fastest.
    hosts[Node::A.index()].check("xl save -c small /dev/null && xl list small", COMMAND_LIMIT)?;
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

fn verify_snapshot(disk: &Path) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["snapshot", "-l"]).arg(disk);
    let list = check(&mut command, COMMAND_LIMIT)?.stdout;
    if !list.lines().any(|line| line.split_ascii_whitespace().nth(1) == Some(SNAPSHOT)) {
        bail!("{} holds no snapshot {SNAPSHOT}", disk.display());
    }
    Ok(())
}

/// For whoever has to find out why a host or guest did not boot.
fn keep_consoles(run_dir: &Path, out: &Path) {
    for node in Node::ALL {
        let console = qemu::console_path(run_dir, node);
        let kept = out.with_extension(format!("{node}.console"));
        if fs::copy(&console, &kept).is_ok() {
            eprintln!("lab: {node}'s console is in {}", kept.display());
        }
    }
}
