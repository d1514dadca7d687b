//! The freezer of cgroup v2.
//!
//! The ranks of each cgroup are moved into a new one just below it, a group, and that is frozen. A
//! group below the agent's own cgroup would not do: there the limits, the accounting and the
//! processors that a batch system or a session has given the ranks would no longer apply, and
//! before Linux 6.2 a move between cpusets forgets a rank's binding. A child without controllers of
//! its own changes none of that. Moving takes the kernel some tens of milliseconds, so it is done
//! while the ranks run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use procfs::process::Process;
use rxl_agent_protocol::Freezer;

use super::stopper::Stopper;
use crate::guest::Held;

/// Groups of ranks in the hierarchy mounted at `root`.
pub struct Cgroups {
    root: PathBuf,
    /// The name of each group.
    name: String,
    /// The groups of this epoch.
    groups: Vec<PathBuf>,
    /// Groups of earlier epochs that could not be dissolved. They are not frozen with the others.
    leftovers: Vec<PathBuf>,
    /// Groups whose processes stay in them, as their home takes none.
    settled: BTreeSet<PathBuf>,
}

/// Most attempts to empty a group. Each finds only the processes that were started since the last.
const MOST_ATTEMPTS: usize = 16;

impl Cgroups {
    /// Uses the cgroup v2 hierarchy, if one with a freezer is mounted. New groups get this name.
    pub fn mounted(name: &str) -> Option<Self> {
        let mounts = procfs::mounts().ok()?;
        let root = mounts
            .into_iter()
            .find(|mount| mount.fs_vfstype == "cgroup2")
            .map(|mount| mount.fs_file.into())?;
        let groups = Self::below(root, name);
        groups.has_freezer().then_some(groups)
    }

    fn below(root: PathBuf, name: &str) -> Self {
        let (groups, leftovers, settled) = (Vec::new(), Vec::new(), BTreeSet::new());
        Self { root, name: name.into(), groups, leftovers, settled }
    }

    /// The root cgroup has no freezer, so any child is looked at. Linux 5.2 and later have one in
    /// all of them.
    fn has_freezer(&self) -> bool {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let children: Vec<_> =
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        children.is_empty() || children.iter().any(|child| child.join("cgroup.freeze").exists())
    }

    /// Moves a process into the group below its cgroup. Tries again where that cgroup vanishes
    /// meanwhile: the process is in another by then, or gone.
    fn gather_one(&mut self, pid: i32) -> io::Result<()> {
        let mut gathered = Ok(());
        for _ in 0..MOST_ATTEMPTS {
            let Some(home) = self.cgroup_of(pid)? else { return Ok(()) };
            gathered = self.gather_below(home, pid);
            if !gathered.as_ref().is_err_and(is_gone) {
                break;
            }
            self.groups.retain(|group| group.is_dir());
        }
        gathered
    }

    fn gather_below(&mut self, home: PathBuf, pid: i32) -> io::Result<()> {
        let group = if home.ends_with(&self.name) { home } else { home.join(&self.name) };
        if !self.groups.contains(&group) {
            make(&group)?;
            self.leftovers.retain(|leftover| *leftover != group);
            self.settled.remove(&group);
            self.groups.push(group.clone());
        }
        move_to(&group, pid)
    }

    /// The directory of a process's cgroup. None if the process is gone.
    fn cgroup_of(&self, pid: i32) -> io::Result<Option<PathBuf>> {
        let Ok(cgroups) = Process::new(pid).and_then(|process| process.cgroups()) else {
            return Ok(None);
        };
        let Some(path) =
            cgroups.into_iter().find(|cgroup| cgroup.hierarchy == 0).map(|cgroup| cgroup.pathname)
        else {
            return Err(io::Error::other(format!("process {pid} has no cgroup v2")));
        };
        // The last cgroup of a process that has ended and is not yet reaped.
        if path.ends_with(" (deleted)") {
            return Ok(None);
        }
        if path.starts_with("/..") {
            return Err(io::Error::other(format!(
                "the cgroup of process {pid} is outside the mounted hierarchy"
            )));
        }
        Ok(Some(self.root.join(path.trim_start_matches('/'))))
    }
}

fn make(group: &Path) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Moves a process with all its threads. A process that is gone is no error.
fn move_to(group: &Path, pid: i32) -> io::Result<()> {
    match fs::write(group.join("cgroup.procs"), pid.to_string()) {
        Err(error) if error.raw_os_error() != Some(Errno::ESRCH as i32) => Err(error),
        _ => Ok(()),
    }
}

/// The processes of a group. A group that is gone has none: who removed its cgroup, for instance
/// systemd after the last of its processes has ended, removed the group too.
fn processes(group: &Path) -> io::Result<Vec<i32>> {
    match fs::read_to_string(group.join("cgroup.procs")) {
        Ok(list) => Ok(list.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// ENOENT after the group was removed; ENODEV if it was removed while its file was open.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}

impl Stopper for Cgroups {
    fn kind(&self) -> Freezer {
        Freezer::Cgroup
    }

    fn gather(&mut self, processes: &BTreeMap<i32, u64>) -> io::Result<()> {
        processes.keys().try_for_each(|&pid| self.gather_one(pid))
    }

    fn stop(&mut self) -> io::Result<()> {
        self.groups.iter().try_for_each(|group| fs::write(group.join("cgroup.freeze"), "1"))
    }

    fn wait(&mut self, until: Instant) -> io::Result<bool> {
        for group in &self.groups {
            if !wait_for_freeze(group, until)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tries all, whatever fails.
    fn go(&mut self) -> io::Result<()> {
        let thaw = |group: &PathBuf| ignore_missing(fs::write(group.join("cgroup.freeze"), "0"));
        let thawed: Vec<_> = self.groups.iter().map(thaw).collect();
        thawed.into_iter().collect()
    }

    /// Tries all. What cannot be dissolved now is left over, to be tried again. What its home takes
    /// no more stays where it is.
    fn scatter(&mut self) -> io::Result<()> {
        let mut scattered = Ok(());
        let mut all = std::mem::take(&mut self.groups);
        all.append(&mut self.leftovers);
        for group in all {
            match dissolve(&group) {
                Ok(()) => {}
                Err(error) if refuses_processes(&group, &error) => self.settle(group),
                Err(error) => {
                    scattered = Err(error);
                    self.leftovers.push(group);
                }
            }
        }
        self.remove_empty();
        scattered
    }

    fn members(&self) -> io::Result<Vec<i32>> {
        let lists: io::Result<Vec<_>> = self.groups.iter().map(|group| processes(group)).collect();
        Ok(lists?.concat())
    }

    fn held(&self) -> Held {
        let (groups, leftovers) = (self.groups.clone(), self.leftovers.clone());
        Held { groups, leftovers, ..Held::default() }
    }

    /// What no record speaks of, an agent has left that was killed before it could write one, or
    /// whose record was lost: it is thawed and put back.
    fn take_over(&mut self, held: Held) -> io::Result<bool> {
        let ours = |group: &PathBuf| {
            group.starts_with(&self.root) && group.ends_with(&self.name) && group.is_dir()
        };
        self.groups = held.groups.into_iter().filter(ours).collect();
        self.leftovers = held.leftovers.into_iter().filter(ours).collect();
        self.put_unknown_back();
        let frozen = |group: &PathBuf| {
            fs::read_to_string(group.join("cgroup.freeze")).map(|flag| flag.trim() == "1")
        };
        let flags: io::Result<Vec<_>> = self.groups.iter().map(frozen).collect();
        Ok(flags?.contains(&true))
    }
}

/// Waits until `cgroup.events` says `frozen 1`: the last task of the group has stopped. A change of
/// the file wakes who polls it.
fn wait_for_freeze(group: &Path, until: Instant) -> io::Result<bool> {
    let mut events = File::open(group.join("cgroup.events"))?;
    loop {
        let mut text = String::new();
        events.rewind()?;
        events.read_to_string(&mut text)?;
        if text.lines().any(|line| line == "frozen 1") {
            return Ok(true);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        match poll(
            &mut fds,
            PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX),
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Moves all processes of a group up, and removes it.
fn dissolve(group: &Path) -> io::Result<()> {
    let home = group.parent().ok_or(ErrorKind::InvalidInput)?;
    for _ in 0..MOST_ATTEMPTS {
        processes(group)?.into_iter().try_for_each(|pid| move_to(home, pid))?;
        match fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {}
            removed => return ignore_missing(removed),
        }
    }
    Err(io::Error::other(format!("{} does not become empty", group.display())))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

mod settle;

use settle::refuses_processes;

#[cfg(test)]
mod tests;
