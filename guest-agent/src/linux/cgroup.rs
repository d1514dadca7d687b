//! The freezer of cgroup v2.
//!
//! The ranks of each cgroup are moved into a new one just below it, and that is frozen. Not into
//! one below the agent's own: there the limits, the accounting and the processors that a batch
//! system or a session has given them would no longer apply, and before Linux 6.2 a move between
//! cpusets forgets a rank's binding. A child without controllers of its own changes nothing of all
//! that. Moving takes the kernel some tens of milliseconds, so it is done while the ranks run.

use std::collections::BTreeMap;
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
    name: String,
    groups: Vec<PathBuf>,
}

/// Rounds to move processes whose parents fork meanwhile; each finds only what was started since
/// the last.
const ROUNDS: usize = 16;

impl Cgroups {
    /// None if no cgroup v2 hierarchy with a freezer is mounted. New groups will have this name.
    pub fn mounted(name: &str) -> Option<Self> {
        let mounts = procfs::mounts().ok()?;
        let root = mounts
            .into_iter()
            .find(|mount| mount.fs_vfstype == "cgroup2")
            .map(|mount| mount.fs_file.into())?;
        let groups = Self { root, name: name.into(), groups: Vec::new() };
        groups.has_freezer().then_some(groups)
    }

    /// The root cgroup has none, so any child will do (Linux 5.2 and later have it in all of them).
    fn has_freezer(&self) -> bool {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let children: Vec<_> =
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        children.is_empty() || children.iter().any(|child| child.join("cgroup.freeze").exists())
    }

    fn gather_one(&mut self, pid: i32) -> io::Result<()> {
        let Some(home) = self.cgroup_of(pid)? else { return Ok(()) };
        let group = if home.ends_with(&self.name) { home } else { home.join(&self.name) };
        if !self.groups.contains(&group) {
            make(&group)?;
            self.groups.push(group.clone());
        }
        move_to(&group, pid)
    }

    /// The directory of a process's cgroup; none if it is gone.
    fn cgroup_of(&self, pid: i32) -> io::Result<Option<PathBuf>> {
        let Ok(cgroups) = Process::new(pid).and_then(|process| process.cgroups()) else {
            return Ok(None);
        };
        let Some(path) =
            cgroups.into_iter().find(|cgroup| cgroup.hierarchy == 0).map(|cgroup| cgroup.pathname)
        else {
            return Err(io::Error::other(format!("process {pid} has no cgroup v2")));
        };
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

/// Moves a process with all its threads. One that is gone is no error.
fn move_to(group: &Path, pid: i32) -> io::Result<()> {
    match fs::write(group.join("cgroup.procs"), pid.to_string()) {
        Err(error) if error.raw_os_error() != Some(Errno::ESRCH as i32) => Err(error),
        _ => Ok(()),
    }
}

fn processes(group: &Path) -> io::Result<Vec<i32>> {
    let list = fs::read_to_string(group.join("cgroup.procs"))?;
    Ok(list.lines().filter_map(|line| line.parse().ok()).collect())
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

    /// All are tried, whatever fails.
    fn go(&mut self) -> io::Result<()> {
        let thaw = |group: &PathBuf| ignore_missing(fs::write(group.join("cgroup.freeze"), "0"));
        let thawed: Vec<_> = self.groups.iter().map(thaw).collect();
        thawed.into_iter().collect()
    }

    fn scatter(&mut self) -> io::Result<()> {
        while let Some(group) = self.groups.last() {
            dissolve(group)?;
            self.groups.pop();
        }
        Ok(())
    }

    fn members(&self) -> io::Result<Vec<i32>> {
        let lists: io::Result<Vec<_>> = self.groups.iter().map(|group| processes(group)).collect();
        Ok(lists?.concat())
    }

    fn held(&self) -> Held {
        Held { groups: self.groups.clone(), ..Held::default() }
    }

    fn take_over(&mut self, held: Held) -> io::Result<bool> {
        let ours = |group: &PathBuf| {
            group.starts_with(&self.root) && group.ends_with(&self.name) && group.is_dir()
        };
        self.groups = held.groups.into_iter().filter(ours).collect();
        let frozen = |group: &PathBuf| {
            fs::read_to_string(group.join("cgroup.freeze")).map(|flag| flag.trim() == "1")
        };
        let flags: io::Result<Vec<_>> = self.groups.iter().map(frozen).collect();
        Ok(flags?.contains(&true))
    }
}

/// `cgroup.events` says `frozen 1` when the last task of the group has stopped; a change wakes who
/// polls it.
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
    for _ in 0..ROUNDS {
        let left = match processes(group) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            left => left?,
        };
        left.into_iter().try_for_each(|pid| move_to(home, pid))?;
        match fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {}
            removed => return ignore_missing(removed),
        }
    }
    Err(io::Error::other(format!("{} does not become empty", group.display())))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
