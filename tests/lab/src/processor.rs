//! Each machine on one processor of the host's, all its threads together.
//!
//! QEMU under TCG sets and clears a bit of its list of pending interrupts without a lock whenever
//! Xen enters or leaves a guest that waits for a virtual interrupt (svm_helper.c: helper_vmrun,
//! do_vmexit), while its main loop may be adding a real one: on two processors that one is
//! sometimes lost, and Xen's timer with it (see `watchdog`). On one processor the two cannot meet
//! within an instruction. What runs in between then takes about a fifth longer, so this is for
//! guests that spin, as MPI ranks do: 131 wakes in 379 s were seen with them before, none in 1,050
//! s since.

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::topology::Node;

/// Binds all threads of a node's QEMU, and those that they will start. Nothing where there is one
/// processor.
pub(crate) fn bind(pid: i32, node: Node) -> Result<()> {
    let mine = sched_getaffinity(Pid::this()).context("this process's processors")?;
    let mine: Vec<usize> =
        (0..CpuSet::count()).filter(|cpu| mine.is_set(*cpu) == Ok(true)).collect();
    ensure!(!mine.is_empty(), "no processor");
    let mut one = CpuSet::new();
    one.set(mine[node.index() % mine.len()])?;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("QEMU's threads")?.flatten() {
        let id = thread.file_name().to_string_lossy().parse().context("a thread's id")?;
        // One that has ended meanwhile needs none.
        match sched_setaffinity(Pid::from_raw(id), &one) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => return Err(error).context("QEMU's processor"),
        }
    }
    Ok(())
}
