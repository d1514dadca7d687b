//! Where commands come from and answers go to: xenstore, or a directory that stands for it.

use std::io;
use std::os::fd::BorrowedFd;

pub mod directory;
pub mod wire;
pub mod xenbus;

pub use directory::Directory;
pub use xenbus::Xenbus;

/// A tree of small values, relative to the domain's own directory.
pub trait Store {
    /// The value, if the node is there. Bytes that are not UTF-8 are replaced: what they stand in
    /// is refused later.
    fn read(&mut self, path: &str) -> io::Result<Option<String>>;

    /// Writes a value, making the node and those above it where they are missing.
    fn write(&mut self, path: &str, value: &str) -> io::Result<()>;

    /// Removes the node and all below it, if it is there.
    fn remove(&mut self, path: &str) -> io::Result<()>;

    /// Takes all notices that have come; tells whether there were any since the last call. Never
    /// waits.
    fn changed(&mut self) -> io::Result<bool>;

    /// Becomes readable when a notice comes; none while there is no connection.
    fn notices(&self) -> Option<BorrowedFd<'_>>;
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

    fn changed(&mut self) -> io::Result<bool> {
        (**self).changed()
    }

    fn notices(&self) -> Option<BorrowedFd<'_>> {
        (**self).notices()
    }
}
