//! The QEMUs of a lab, as one: started, stopped and brought back together.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::accelerator::Accelerator;
use crate::monitor::Monitor;
use crate::process::{ProcessId, wait_for};
use crate::processor::{self, ProcessorTime};
use crate::qemu::{self, Life, Parts, Qemu, SNAPSHOT, Start};
use crate::run_dir::State;
use crate::topology::Node;

const LINK_LIMIT: Duration = Duration::from_secs(60);

/// Hosts without work are in Xen's idle loop at nearly every look.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Where Xen has its own code: XEN_VIRT_START and XEN_VIRT_END of
/// `xen/arch/x86/include/asm/config.h`.
const XEN_CODE: Range<u64> = 0xffff_82d0_4000_0000..0xffff_82d0_8000_0000;

/// One for each node.
pub(crate) struct Machines {
    nodes: &'static [Node],
    qemus: Vec<Qemu>,
}

impl Machines {
    /// Starts these nodes in a run directory that holds their disks, noting each in the directory's
    /// state.
    pub(crate) fn start(
        nodes: &'static [Node],
        run_dir: &Path,
        parts: &Parts,
        accelerator: Accelerator,
        start: Start,
        life: Life,
    ) -> Result<Self> {
        let mut state = State { owner: ProcessId::own(), qemus: Vec::new() };
        state.write(run_dir)?;
        let mut qemus = Vec::with_capacity(nodes.len());
        for node in nodes {
            let qemu = Qemu::start(*node, nodes, run_dir, parts, accelerator, start, life)
                .with_context(|| format!("starting {node}"))?;
            state.qemus.push(qemu.id());
            state.write(run_dir)?;
            qemus.push(qemu);
            // The first listens; the others connect once and do not try again.
            wait_for("the links between the hosts", LINK_LIMIT, || {
                Ok(qemu::links(nodes, run_dir).iter().all(|link| qemu::listens(link)).then_some(()))
            })?;
        }
        if life == Life::Detached {
            state.owner = None;
            state.write(run_dir)?;
        }
        Ok(Self { nodes, qemus })
    }

    /// Takes over the QEMUs of a lab that another process started.
    pub(crate) fn existing(run_dir: &Path) -> Result<Self> {
        let state = State::read(run_dir)?;
        let nodes = [&Node::PAIR[..], &Node::THREE]
            .into_iter()
            .find(|nodes| nodes.len() == state.qemus.len());
        let Some(nodes) = nodes else {
            bail!("the lab in {} is not up", run_dir.display());
        };
        let qemus = nodes
            .iter()
            .zip(state.qemus)
            .map(|(node, id)| Qemu::existing(id, run_dir, *node))
            .collect();
        Ok(Self { nodes, qemus })
    }

    /// In the order of their numbers.
    pub(crate) fn nodes(&self) -> &'static [Node] {
        self.nodes
    }

    /// Binds each to one processor.
    pub(crate) fn bind(&self) -> Result<()> {
        self.nodes
            .iter()
            .zip(&self.qemus)
            .try_for_each(|(node, qemu)| processor::bind(qemu.id().pid(), *node))
    }

    /// What each has had of the processors, in the order of the nodes.
    pub(crate) fn processor_times(&self) -> Vec<ProcessorTime> {
        self.qemus.iter().map(|qemu| ProcessorTime::of(qemu.id().pid())).collect()
    }

    /// A connection to a node's monitor.
    pub(crate) fn monitor(&self, node: Node) -> Result<Monitor> {
        let at = self
            .nodes
            .iter()
            .position(|other| *other == node)
            .with_context(|| format!("no {node} in this lab"))?;
        self.qemus[at].monitor().with_context(|| node.name())
    }

    /// The local ports of the hosts' sshd.
    pub(crate) fn ssh_ports(&self) -> Result<Vec<(Node, u16)>> {
        self.nodes
            .iter()
            .zip(&self.qemus)
            .map(|(node, qemu)| Ok((*node, qemu.ssh_port()?)))
            .collect()
    }

    /// Stops the machines' clocks and CPUs where a snapshot of them can be loaded again: with each
    /// CPU in Xen itself. QEMU saves one that is inside of a nested guest, too, and then refuses it
    /// (7.2 under TCG: "vCPU set in guest-mode inconsistent with migrated kernel nested state").
    pub(crate) fn stop_in_xen(&self) -> Result<()> {
        self.on_each(|monitor| {
            wait_for("a CPU that is in Xen", STOP_LIMIT, || {
                monitor.execute("stop", &Value::Null)?;
                if is_in_xen(&monitor.human("info registers")?)? {
                    return Ok(Some(()));
                }
                monitor.execute("cont", &Value::Null)?;
                Ok(None)
            })
        })
    }

    /// Lets the machines run.
    pub(crate) fn resume(&self) -> Result<()> {
        self.on_each(|monitor| monitor.execute("cont", &Value::Null).map(drop))
    }

    /// Saves the golden snapshot of each; they must be stopped.
    pub(crate) fn save(&self) -> Result<()> {
        self.on_each(|monitor| monitor.human_silent(&format!("savevm {SNAPSHOT}")))
    }

    /// Ends the QEMUs.
    pub(crate) fn end(&mut self) -> Result<()> {
        let ended: Vec<Result<()>> = self.qemus.iter_mut().map(Qemu::end).collect();
        ended.into_iter().collect()
    }

    fn on_each(&self, action: impl Fn(&mut Monitor) -> Result<()> + Sync) -> Result<()> {
        on_each(self.nodes, |node| action(&mut self.monitor(node)?).with_context(|| node.name()))
    }
}

/// Runs an action for these nodes at once.
pub(crate) fn on_each(nodes: &[Node], action: impl Fn(Node) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let action = &action;
        let threads: Vec<_> = nodes.iter().map(|node| scope.spawn(move || action(*node))).collect();
        let ended = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        // All have ended before the first failure is told.
        ended.collect::<Vec<Result<()>>>().into_iter().collect()
    })
}

/// Of the answer to `info registers`.
fn is_in_xen(registers: &str) -> Result<bool> {
    let rip = registers.split_ascii_whitespace().find_map(|field| field.strip_prefix("RIP="));
    let rip = rip.and_then(|rip| u64::from_str_radix(rip, 16).ok());
    Ok(XEN_CODE.contains(&rip.with_context(|| format!("no RIP among the registers: {registers}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xens_idle_loop_is_in_xen_and_a_kernel_is_not() {
        let registers = |rip| {
            format!("CPU#0\r\nRAX=0 RBX=1\r\nRIP={rip} RFL=00000246 [---Z-P-] CPL=0 HLT=1\r\n")
        };
        assert!(is_in_xen(&registers("ffff82d0402a1b2c")).unwrap());
        assert!(!is_in_xen(&registers("ffffffff81e3a3f0")).unwrap());
        assert!(is_in_xen("QEMU says nothing").is_err());
    }
}
