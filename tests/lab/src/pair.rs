//! The two QEMUs of a lab, as one: started, stopped and brought back together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::accelerator::Accelerator;
use crate::monitor::Monitor;
use crate::process::{ProcessId, wait_for};
use crate::processor;
use crate::qemu::{self, Life, Parts, Qemu, SNAPSHOT, Start};
use crate::run_dir::State;
use crate::topology::Node;

const LINK_LIMIT: Duration = Duration::from_secs(60);

/// Both QEMUs, in the order of [`Node::ALL`].
pub(crate) struct Pair {
    qemus: [Qemu; 2],
}

impl Pair {
    /// Starts both in a run directory that holds their disks, noting each in the directory's state.
    pub(crate) fn start(
        run_dir: &Path,
        parts: &Parts,
        accelerator: Accelerator,
        start: Start,
        life: Life,
    ) -> Result<Self> {
        let mut state = State { owner: ProcessId::own(), qemus: Vec::new() };
        state.write(run_dir)?;
        let mut start_one = |node| -> Result<Qemu> {
            let qemu = Qemu::start(node, run_dir, parts, accelerator, start, life)
                .with_context(|| format!("starting {node}"))?;
            state.qemus.push(qemu.id());
            state.write(run_dir)?;
            Ok(qemu)
        };
        let a = start_one(Node::A)?;
        // The other end connects once and does not try again.
        wait_for("the link between the hosts", LINK_LIMIT, || {
            Ok(qemu::listens(&qemu::link_path(run_dir)).then_some(()))
        })?;
        let b = start_one(Node::B)?;
        if life == Life::Detached {
            state.owner = None;
            state.write(run_dir)?;
        }
        Ok(Self { qemus: [a, b] })
    }

    /// Takes over the QEMUs of a lab that another process started.
    pub(crate) fn existing(run_dir: &Path) -> Result<Self> {
        let state = State::read(run_dir)?;
        let [a, b] = state.qemus[..] else {
            bail!("the lab in {} is not up", run_dir.display());
        };
        Ok(Self { qemus: [Qemu::existing(a, run_dir, Node::A), Qemu::existing(b, run_dir, Node::B)] })
    }

    /// Binds each to a processor of its own.
    pub(crate) fn bind(&self) -> Result<()> {
        Node::ALL.into_iter().try_for_each(|node| processor::bind(self.qemus[node.index()].id().pid(), node))
    }

    /// A connection to a node's monitor.
    pub(crate) fn monitor(&self, node: Node) -> Result<Monitor> {
        self.qemus[node.index()].monitor().with_context(|| node.name())
    }

    /// The local ports of both hosts' sshd.
    pub(crate) fn ssh_ports(&self) -> Result<[u16; 2]> {
        Ok([self.qemus[0].ssh_port()?, self.qemus[1].ssh_port()?])
    }

    /// Stops both machines' clocks and CPUs.
    pub(crate) fn stop(&self) -> Result<()> {
        self.on_both(|monitor| monitor.execute("stop", &Value::Null).map(drop))
    }

    /// Lets both machines run.
    pub(crate) fn resume(&self) -> Result<()> {
        self.on_both(|monitor| monitor.execute("cont", &Value::Null).map(drop))
    }

    /// Saves the golden snapshot of both, which must be stopped.
    pub(crate) fn save(&self) -> Result<()> {
        self.on_both(|monitor| monitor.human_silent(&format!("savevm {SNAPSHOT}")))
    }

    /// Ends both QEMUs.
    pub(crate) fn end(&mut self) -> Result<()> {
        let ended = self.qemus.each_mut().map(Qemu::end);
        ended.into_iter().collect()
    }

    fn on_both(&self, action: impl Fn(&mut Monitor) -> Result<()> + Sync) -> Result<()> {
        both(|node| action(&mut self.monitor(node)?).with_context(|| node.name())).map(drop)
    }
}

/// Runs an action for both nodes at once.
pub(crate) fn both<T: Send>(action: impl Fn(Node) -> Result<T> + Sync) -> Result<[T; 2]> {
    let [a, b] = std::thread::scope(|scope| {
        Node::ALL
            .map(|node| {
                scope.spawn({
                    let action = &action;
                    move || action(node)
                })
            })
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    Ok([a?, b?])
}

/// Copies both hosts' disks.
pub(crate) fn copy_disks(from: &Path, to: &Path) -> Result<()> {
    both(|node| {
        let (source, target): (PathBuf, PathBuf) = (qemu::disk_path(from, node), qemu::disk_path(to, node));
        std::fs::copy(&source, &target).with_context(|| format!("copying {}", source.display()))
    })
    .map(drop)
}
