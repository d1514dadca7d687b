//! The processors that machines run on: which one, and how much of it they get.
//!
//! `bind` keeps all threads of a machine on one.
//! QEMU under TCG sets and clears a bit of its list of pending interrupts without a lock whenever
//! Xen enters or leaves a guest that waits for a virtual interrupt (svm_helper.c: helper_vmrun,
//! do_vmexit), while its main loop may be adding a real one: on two processors that one is
//! sometimes lost, and Xen's timer with it (see `watchdog`). On one processor the two cannot meet
//! within an instruction. What runs in between then takes about a fifth longer, so this is for
//! guests that spin, as MPI ranks do: 131 wakes in 379 s were seen with them before, none in 1,050
//! s since.

use std::fs;
use std::time::Duration;

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

/// What the threads of a machine have had of the processors so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessorTime {
    /// On a processor.
    pub ran: Duration,
    /// Ready, while others were on it: the machine was starved.
    pub waited: Duration,
}

impl ProcessorTime {
    /// Of one QEMU; zero where the kernel does not tell (CONFIG_SCHEDSTATS).
    pub(crate) fn of(pid: i32) -> Self {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        threads
            .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
            .filter_map(|stat| Self::parse(&stat))
            .fold(Self::default(), |sum, one| Self {
                ran: sum.ran + one.ran,
                waited: sum.waited + one.waited,
            })
    }

    /// From nanoseconds on a processor and in its queue, as /proc/PID/schedstat begins.
    fn parse(stat: &str) -> Option<Self> {
        let mut fields = stat.split_ascii_whitespace().map(|field| field.parse().ok());
        Some(Self {
            ran: Duration::from_nanos(fields.next()??),
            waited: Duration::from_nanos(fields.next()??),
        })
    }

    /// What has come since `before`. A thread that has ended takes its times with it.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            ran: self.ran.saturating_sub(before.ran),
            waited: self.waited.saturating_sub(before.waited),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_kernel_tells_them() {
        let time = ProcessorTime::parse("2000000000 500000000 7\n").unwrap();
        assert_eq!(time.ran, Duration::from_secs(2));
        assert_eq!(time.waited, Duration::from_millis(500));
        assert_eq!(time.since(time), ProcessorTime::default());
        assert_eq!(ProcessorTime::parse("2"), None);
    }

    #[test]
    fn this_process_has_run() {
        assert!(ProcessorTime::of(std::process::id() as i32).ran > Duration::ZERO);
    }
}
