//! `/run/rxl`: what running sessions share on one host. A reboot empties it, as it ends the
//! domains. What has to outlive that is in `/var/lib/rxl`.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::domain::DomId;
use crate::error::{Exit, Failure};
use crate::text::one_line;

/// The directories in which this host's sessions keep locks and sockets, and what outlives them.
#[derive(Clone, Debug)]
pub struct StateDir {
    run: PathBuf,
    lasting: PathBuf,
}

/// The lock on a domain that is being migrated, or is watched. The kernel releases it however the
/// process ends.
pub struct DomainLock(Flock<File>);

/// The open file that is locked. A child that inherits it keeps the lock.
impl AsFd for DomainLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl StateDir {
    pub fn system() -> Self {
        Self { run: PathBuf::from("/run/rxl"), lasting: PathBuf::from("/var/lib/rxl") }
    }

    /// Another directory than the system's, for tests.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let run = path.into();
        Self { lasting: run.join("lasting"), run }
    }

    /// The directory of what outlives a reboot.
    pub fn lasting(&self) -> &Path {
        &self.lasting
    }

    /// The directory. It is created with access for root only if it does not exist.
    pub fn path(&self) -> Result<&Path, Failure> {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(&self.run);
        made.map_err(|error| Failure::internal(self.run.display(), &error))?;
        Ok(&self.run)
    }

    /// Removes the sockets of processes that were killed. Whether somebody listens is read from
    /// /proc/net/unix: a connection would be taken for one of a save helper or of data.
    pub fn sweep(&self) -> Result<(), Failure> {
        let dir = self.path()?;
        let broken = |e| Failure::internal(dir.display(), &e);
        // The directory is read before the bound sockets: a socket that is bound in between is then
        // not among those that may be removed.
        let entries: Vec<_> =
            std::fs::read_dir(dir).map_err(broken)?.flatten().map(|entry| entry.path()).collect();
        let bound = std::fs::read_to_string("/proc/net/unix").map_err(broken)?;
        let bound: HashSet<&str> =
            bound.lines().filter_map(|line| line.split_whitespace().nth(7)).collect();
        let is_dead = |path: &&PathBuf| {
            path.extension().is_some_and(|e| e == "sock")
                && path.to_str().is_some_and(|path| !bound.contains(path))
        };
        for path in entries.iter().filter(is_dead) {
            tracing::debug!("{}: left by a process that is gone", path.display());
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    /// The socket on which the session that receives this migration accepts data connections.
    pub fn receive_socket(&self, migration_id: &str) -> Result<PathBuf, Failure> {
        Ok(self.path()?.join(format!("receive-{migration_id}.sock")))
    }

    /// The socket on which this process accepts the save helpers that libxl starts for it.
    pub fn helper_socket(&self) -> Result<PathBuf, Failure> {
        Ok(self.path()?.join(format!("helper-{}.sock", std::process::id())))
    }

    /// Excludes other migrations of this domain until the lock is dropped.
    ///
    /// `key` is this host's name for it: a domain that leaves is locked by its domid, one that
    /// arrives by its name. `name` is for the message.
    pub fn lock(&self, key: &str, name: &str) -> Result<DomainLock, Failure> {
        self.try_lock(key)?.ok_or_else(|| {
            let what = format!("{} is being migrated by another rxl", one_line(name));
            Failure::new(Exit::Busy, what)
        })
    }

    /// Excludes other watchers of this domain until the lock is dropped. None where it has one.
    pub fn watch_lock(&self, domid: DomId) -> Result<Option<DomainLock>, Failure> {
        self.try_lock(&format!("watch-{domid}"))
    }

    /// The file that is there if a domain that leaves was watched when it was about to.
    pub fn watched_mark(&self, domid: DomId) -> Result<PathBuf, Failure> {
        Ok(self.path()?.join(format!("watched-{domid}")))
    }

    fn try_lock(&self, key: &str) -> Result<Option<DomainLock>, Failure> {
        let path = self.path()?.join(format!("{key}.lock"));
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|error| Failure::internal(path.display(), &error))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(DomainLock(lock))),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(Failure::internal(path.display(), &io::Error::from(errno))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn sockets_of_dead_processes_are_swept_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(dir.path().join("dead.sock")).unwrap());
        let _alive = UnixListener::bind(dir.path().join("alive.sock")).unwrap();
        std::fs::write(dir.path().join("domain-3.lock"), "").unwrap();
        StateDir::at(dir.path()).sweep().unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        left.sort();
        assert_eq!(left, ["alive.sock", "domain-3.lock"]);
    }

    #[test]
    fn a_domain_is_locked_once_and_freed_on_drop() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path().join("rxl"));
        let held = state.lock("domain-3", "dom3").unwrap();
        assert_eq!(state.lock("domain-3", "dom3").err().unwrap().exit, Exit::Busy);
        state.lock("domain-4", "dom4").unwrap();
        drop(held);
        state.lock("domain-3", "dom3").unwrap();
    }

    #[test]
    fn a_domain_has_one_watcher_beside_its_migration() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path().join("rxl"));
        let _migrated = state.lock("domain-3", "dom3").unwrap();
        let watched = state.watch_lock(DomId(3)).unwrap().unwrap();
        assert!(state.watch_lock(DomId(3)).unwrap().is_none());
        assert!(state.watch_lock(DomId(4)).unwrap().is_some());
        drop(watched);
        assert!(state.watch_lock(DomId(3)).unwrap().is_some());
    }
}
