//! The freezer of cgroup v2.
//!
//! The ranks of each cgroup are moved into a new one just below it, a group, and that is frozen. A
//! group below the agent's own cgroup would not do: there the limits, the accounting and the
//! processors that a batch system or a session has given the ranks would no longer apply, and
//! before Linux 6.2 a move between cpusets forgets a rank's binding. A child without controllers of
//! its own changes none of that. Moving takes the kernel some tens of milliseconds, so it is done
//! while the ranks run.

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
    /// The name of each group.
    name: String,
    /// The groups of this epoch.
    groups: Vec<PathBuf>,
    /// Groups of earlier epochs that could not be dissolved. They are not frozen with the others.
    leftovers: Vec<PathBuf>,
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
        let groups = Self { root, name: name.into(), groups: Vec::new(), leftovers: Vec::new() };
        groups.has_freezer().then_some(groups)
    }

    /// The root cgroup has no freezer, so any child is looked at. Linux 5.2 and later have one in
    /// all of them.
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
            self.leftovers.retain(|leftover| *leftover != group);
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

    /// Tries all. What cannot be dissolved now is left over: the kernel refuses for good to move a
    /// process back into a cgroup that meanwhile gives controllers to its children (EBUSY, "no
    /// internal processes" in Linux's Documentation/admin-guide/cgroup-v2.rst). The processes run,
    /// and under the same limits, as the group is below their home.
    fn scatter(&mut self) -> io::Result<()> {
        let mut scattered = Ok(());
        self.leftovers.append(&mut self.groups);
        self.leftovers.retain(|group| match dissolve(group) {
            Ok(()) => false,
            Err(error) => {
                scattered = Err(error);
                true
            }
        });
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

    fn take_over(&mut self, held: Held) -> io::Result<bool> {
        let ours = |group: &PathBuf| {
            group.starts_with(&self.root) && group.ends_with(&self.name) && group.is_dir()
        };
        self.groups = held.groups.into_iter().filter(ours).collect();
        self.leftovers = held.leftovers.into_iter().filter(ours).collect();
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

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A process in a cgroup of its own, below which a group of ranks may be made.
    struct Home {
        cgroups: Cgroups,
        home: PathBuf,
        controller: &'static str,
        was_enabled: bool,
        process: Child,
    }

    impl Home {
        /// None without root's rights, or a hierarchy with a controller that a test may enable.
        fn new() -> Option<Self> {
            let cgroups = Cgroups::mounted("rxl.ranks.test")?;
            let offered = fs::read_to_string(cgroups.root.join("cgroup.controllers")).ok()?;
            // Not cpu or pids: the kernel lets a process stand beside children with those.
            let controller = ["hugetlb", "memory", "io"]
                .into_iter()
                .find(|name| offered.split_whitespace().any(|word| word == *name))?;
            let enabled = fs::read_to_string(cgroups.root.join("cgroup.subtree_control")).ok()?;
            let was_enabled = enabled.split_whitespace().any(|word| word == controller);
            let home = cgroups.root.join(format!("rxl-test-{}", std::process::id()));
            fs::create_dir(&home).ok()?;
            let process = Command::new("sleep").arg("60").spawn().expect("sleep");
            let home = Self { cgroups, home, controller, was_enabled, process };
            home.enable(&home.cgroups.root, '+');
            move_to(&home.home, home.pid()).expect("move");
            Some(home)
        }

        fn pid(&self) -> i32 {
            self.process.id() as i32
        }

        fn enable(&self, cgroup: &Path, sign: char) {
            let change = format!("{sign}{}", self.controller);
            fs::write(cgroup.join("cgroup.subtree_control"), change).expect("subtree_control");
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
            let _ = self.cgroups.scatter();
            let _ = fs::remove_dir(&self.home);
            if !self.was_enabled {
                self.enable(&self.cgroups.root, '-');
            }
        }
    }

    #[test]
    fn a_home_with_controllers_for_its_children_leaves_a_group_over() {
        let Some(mut home) = Home::new() else {
            eprintln!("SKIPPED: needs root and a controller of cgroup v2");
            return;
        };
        let group = home.home.join("rxl.ranks.test");
        let pid = home.pid();
        home.cgroups.gather(&[(pid, 0)].into()).expect("gather");
        home.enable(&home.home, '+');
        let refused = home.cgroups.scatter().expect_err("no internal processes");
        assert_eq!(refused.raw_os_error(), Some(Errno::EBUSY as i32));
        let leftovers = vec![group.clone()];
        assert_eq!(home.cgroups.held(), Held { leftovers, ..Held::default() });
        assert!(home.cgroups.members().expect("members").is_empty(), "a freeze would stop it");

        home.cgroups.gather(&[(pid, 0)].into()).expect("gather it where it is");
        assert_eq!(home.cgroups.members().expect("members"), [pid]);
        assert_eq!(home.cgroups.held(), Held { groups: vec![group], ..Held::default() });

        home.cgroups.scatter().expect_err("still so");
        home.enable(&home.home, '-');
        home.cgroups.scatter().expect("now it can");
        assert_eq!(home.cgroups.held(), Held::default());
        assert_eq!(processes(&home.home).expect("processes"), [pid]);
    }

    #[test]
    fn a_group_that_somebody_removed_has_no_members_and_is_no_error() {
        let root = tempfile::tempdir().expect("directory");
        let groups = vec![root.path().join("home/rxl.ranks.test")];
        let (root, name) = (root.path().to_owned(), "rxl.ranks.test".into());
        let mut cgroups = Cgroups { root, name, groups, leftovers: Vec::new() };
        assert!(cgroups.members().expect("members").is_empty());
        cgroups.go().expect("thaw");
        cgroups.scatter().expect("scatter");
        assert_eq!(cgroups.held(), Held::default());
    }
}
