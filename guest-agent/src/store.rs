//! Where commands come from and answers go to: xenstore, or a directory in its place.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

mod directory;
mod xenstore;

pub use directory::Directory;
pub use xenstore::{DEVICE, SOCKET_VARIABLE, Xenstore};

/// A tree of small values. Paths are relative to the domain's own directory.
pub trait Store {
    /// Reads a node's value; none if the node is missing. Bytes that are not UTF-8 come back as
    /// U+FFFD, which the parser of the value refuses.
    fn read(&mut self, path: &str) -> io::Result<Option<String>>;

    /// Writes a value. Makes the node and its parents where they are missing.
    fn write(&mut self, path: &str, value: &str) -> io::Result<()>;

    /// Removes the node and all below it. A missing node is no error.
    fn remove(&mut self, path: &str) -> io::Result<()>;

    /// Waits until dom0 has written something since the last call, `other` is readable, or the
    /// time is over. Returns true in the first case.
    fn wait(&mut self, other: BorrowedFd<'_>, longest: Duration) -> io::Result<bool>;
}

impl<S: Store + ?Sized> Store for Box<S> {
    fn read(&mut self, path: &str) -> io::Result<Option<String>> {
        (**self).read(path)
    }

    fn write(&mut self, path: &str, value: &str) -> io::Result<()> {
        (**self).write(path, value)
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        (**self).remove(path)
    }

    fn wait(&mut self, other: BorrowedFd<'_>, longest: Duration) -> io::Result<bool> {
        (**self).wait(other, longest)
    }
}

/// Waits until one of these is readable, or the time is over.
pub(crate) fn wait_for_any(fds: &[BorrowedFd<'_>], longest: Duration) -> io::Result<()> {
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    // poll(2) counts whole milliseconds. Rounded down, the last one would be a busy loop.
    let milliseconds = PollTimeout::try_from(longest.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, milliseconds) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
