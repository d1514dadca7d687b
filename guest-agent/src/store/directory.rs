//! A directory in the place of xenstore: a node is a file of that name. For tests and trials on any
//! Linux.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rxl_agent_protocol::path;

use super::{Store, wait_for_any};

/// A tree of files, with a watch on the directory of the commands.
pub struct Directory {
    root: PathBuf,
    inotify: Inotify,
}

impl Directory {
    /// Opens the tree below `root`, and makes it if it is missing.
    pub fn open(root: &Path) -> io::Result<Self> {
        let control = root.join(path::CONTROL);
        fs::create_dir_all(&control)?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(&control, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE)?;
        Ok(Self { root: root.to_owned(), inotify })
    }

    /// Takes all events that have come; tells whether there were any.
    fn take_events(&mut self) -> io::Result<bool> {
        let mut any = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => any |= !events.is_empty(),
                Err(Errno::EAGAIN) => return Ok(any),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Store for Directory {
    fn read(&mut self, path: &str) -> io::Result<Option<String>> {
        match fs::read(self.root.join(path)) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes by renaming, so that nobody reads half a value.
    fn write(&mut self, path: &str, value: &str) -> io::Result<()> {
        let path = self.root.join(path);
        let parent = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent)?;
        let unfinished = parent.join(".unfinished");
        fs::write(&unfinished, value)?;
        fs::rename(&unfinished, &path)
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        let path = self.root.join(path);
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn wait(&mut self, other: BorrowedFd<'_>, longest: Duration) -> io::Result<bool> {
        wait_for_any(&[self.inotify.as_fd(), other], longest)?;
        self.take_events()
    }
}
