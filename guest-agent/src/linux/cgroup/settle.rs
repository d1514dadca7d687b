//! Groups that outlive their epoch.
//!
//! The kernel refuses to move a process into a cgroup that gives controllers to its children
//! (EBUSY, "no internal processes" in Linux's Documentation/admin-guide/cgroup-v2.rst). Whoever has
//! switched one on below the ranks' home since they were gathered has thereby closed it to them.
//! They stay in their group, which is a leaf below that home: the limits are the same. No later
//! attempt would do better, so none is made before the next epoch's end or the next start, and an
//! empty group is removed then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use tracing::{info, warn};

use super::{Cgroups, dissolve, processes};

/// Most cgroups that a search for groups looks at.
const MOST_CGROUPS: usize = 16_384;

/// Whether this error means that the group's home takes no processes.
pub fn refuses_processes(group: &Path, error: &io::Error) -> bool {
    let is_busy = error.raw_os_error() == Some(Errno::EBUSY as i32);
    let controllers = group.parent().map(|home| home.join("cgroup.subtree_control"));
    let given = controllers.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    is_busy && !given.trim().is_empty()
}

impl Cgroups {
    /// Leaves the processes of a group where they are.
    pub(super) fn settle(&mut self, group: PathBuf) {
        let home = group.parent().unwrap_or(&group).display();
        if !self.settled.contains(&group) {
            info!("{home} takes no processes any more: its ranks stay in {}", group.display());
        }
        self.settled.insert(group);
    }

    /// Removes settled groups whose processes have ended.
    pub(super) fn remove_empty(&mut self) {
        let is_used = |group: &PathBuf| processes(group).is_ok_and(|all| !all.is_empty());
        self.settled.retain(|group| is_used(group) || fs::remove_dir(group).is_err());
    }

    /// Thaws and dissolves the groups of this agent's name that it does not know.
    pub(super) fn put_unknown_back(&mut self) {
        for group in groups_below(&self.root, &self.name) {
            if self.groups.contains(&group) || self.leftovers.contains(&group) {
                continue;
            }
            // Frozen or not: what no record speaks of, no dom0 waits for.
            if let Err(error) = fs::write(group.join("cgroup.freeze"), "0") {
                warn!("cannot thaw {}: {error}", group.display());
            }
            match dissolve(&group) {
                Ok(()) => info!("{} was left by an earlier agent: removed", group.display()),
                Err(error) if refuses_processes(&group, &error) => self.settle(group),
                Err(_) => self.leftovers.push(group),
            }
        }
    }
}

/// The groups of this name below a cgroup.
fn groups_below(root: &Path, name: &str) -> Vec<PathBuf> {
    let (mut found, mut next) = (Vec::new(), vec![root.to_owned()]);
    for _ in 0..MOST_CGROUPS {
        let Some(cgroup) = next.pop() else { break };
        for entry in fs::read_dir(&cgroup).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if entry.file_name() == *name {
                found.push(path);
            } else {
                next.push(path);
            }
        }
    }
    found
}
