//! The processes of this Linux, as /proc shows them.

use std::collections::BTreeMap;

use procfs::process::{self, Process, Stat};

use super::judge::{Processes, Variables};
use super::unclaimed;
use crate::guest::Refusal;

/// All processes, as they were when [`Proc::look`] was called. What else is asked of one is read
/// then, and is empty if it has ended.
#[derive(Debug)]
pub struct Proc {
    /// What `/proc/PID/stat` says, by pid.
    pub stats: BTreeMap<i32, Stat>,
    children: BTreeMap<i32, Vec<i32>>,
}

impl Proc {
    /// Lists the processes.
    pub fn look() -> Result<Self, Refusal> {
        let all = process::all_processes().map_err(Refusal::system("list processes"))?;
        // Those that end meanwhile are left out.
        Ok(Self::of(all.flatten().filter_map(|process| process.stat().ok())))
    }

    fn of(all: impl Iterator<Item = Stat>) -> Self {
        let stats: BTreeMap<_, _> = all.map(|stat| (stat.pid, stat)).collect();
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for stat in stats.values() {
            children.entry(stat.ppid).or_default().push(stat.pid);
        }
        Self { stats, children }
    }

    /// These processes alone.
    #[cfg(test)]
    pub fn only(self, pids: &[u32]) -> Self {
        let is_one = |stat: &Stat| pids.contains(&stat.pid.unsigned_abs());
        Self::of(self.stats.into_values().filter(is_one))
    }
}

impl Processes for Proc {
    fn pids(&self) -> Vec<i32> {
        // A kernel thread has no memory of its own, a zombie none left.
        self.stats.values().filter(|stat| stat.vsize > 0).map(|stat| stat.pid).collect()
    }

    fn parent(&self, pid: i32) -> Option<i32> {
        self.stats.get(&pid).map(|stat| stat.ppid)
    }

    fn children(&self, pid: i32) -> Vec<i32> {
        self.children.get(&pid).cloned().unwrap_or_default()
    }

    fn name(&self, pid: i32) -> Option<&str> {
        self.stats.get(&pid).map(|stat| stat.comm.as_str())
    }

    fn arguments(&self, pid: i32) -> Vec<String> {
        Process::new(pid).and_then(|process| process.cmdline()).unwrap_or_default()
    }

    fn variables(&self, pid: i32) -> Variables {
        let all = Process::new(pid).and_then(|process| process.environ()).unwrap_or_default();
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        all.into_iter().filter_map(text).collect()
    }

    fn has_mpi(&self, pid: i32) -> bool {
        unclaimed::library_of(pid, &mut unclaimed::MOST_MAPS.clone()).is_some()
    }
}
