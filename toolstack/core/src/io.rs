//! File descriptors whose every wait can be cancelled and ends at a deadline.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes every [`Guarded`] descriptor that was made with it. Once pulled it stays pulled.
#[derive(Clone)]
pub struct Cancel(Arc<EventFd>);

impl Cancel {
    /// A cancel that has not been pulled.
    pub fn new() -> io::Result<Self> {
        let fd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(Arc::new(fd)))
    }

    /// Ends all waits, those under way and those to come.
    pub fn pull(&self) {
        // Fails only when the counter is at its limit. Then it is readable, which is what wakes.
        let _ = self.0.write(1);
    }

    /// Whether it has been pulled.
    pub fn pulled(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

/// A pipe or socket: reading and writing wait at most `patience`, and end at once when cancelled.
///
/// Errors: [`io::ErrorKind::TimedOut`] when nothing moved for `patience`,
/// [`io::ErrorKind::Interrupted`] is never returned, [`io::ErrorKind::ConnectionAborted`] when
/// cancelled.
pub struct Guarded {
    fd: OwnedFd,
    cancel: Cancel,
    patience: Option<Duration>,
}

impl Guarded {
    /// Guards a descriptor. Its open file description becomes non-blocking, so nothing else may use
    /// that.
    ///
    /// `patience` is the longest time in which one read or write moves no byte; with `None` only
    /// the cancel ends it.
    pub fn new(
        fd: impl Into<OwnedFd>,
        cancel: Cancel,
        patience: Option<Duration>,
    ) -> io::Result<Self> {
        let fd = fd.into();
        let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
        fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self { fd, cancel, patience })
    }

    /// A second handle of the same description, for the other direction.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, cancel: self.cancel.clone(), patience: self.patience })
    }

    /// A second handle with a cancel and a patience of its own.
    pub fn with(&self, cancel: Cancel, patience: Duration) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, cancel, patience: Some(patience) })
    }

    fn retry(
        &self,
        wanted: PollFlags,
        mut call: impl FnMut(&OwnedFd) -> nix::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            // Trying first saves a system call whenever bytes are there. After a cancel they soon
            // are not.
            match call(&self.fd) {
                Err(Errno::EAGAIN) => wait(&self.fd, wanted, &self.cancel, self.patience)?,
                Err(Errno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

/// Waits until one of the descriptors can be read, and returns its index; none after `patience`.
pub fn wait_readable(
    fds: &[BorrowedFd<'_>],
    cancel: &Cancel,
    patience: Duration,
) -> io::Result<Option<usize>> {
    wait_any(fds, PollFlags::POLLIN, cancel, Some(patience))
}

/// Waits until a descriptor can be read, at most for `patience`. A signal may end the wait early:
/// for callers that look again anyway.
pub fn rest(fd: BorrowedFd<'_>, patience: Duration) {
    // Rounded up: a wait of zero would be no wait.
    let timeout = PollTimeout::try_from(patience.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    let _ = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout);
}

fn wait(
    fd: &OwnedFd,
    wanted: PollFlags,
    cancel: &Cancel,
    patience: Option<Duration>,
) -> io::Result<()> {
    if wait_any(&[fd.as_fd()], wanted, cancel, patience)?.is_some() {
        return Ok(());
    }
    let seconds = patience.unwrap_or_default().as_secs();
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing moved for {seconds} s")))
}

fn wait_any(
    fds: &[BorrowedFd<'_>],
    wanted: PollFlags,
    cancel: &Cancel,
    patience: Option<Duration>,
) -> io::Result<Option<usize>> {
    let timeout = match patience {
        None => PollTimeout::NONE,
        Some(patience) => PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX),
    };
    let mut polled = vec![PollFd::new(cancel.0.as_fd(), PollFlags::POLLIN)];
    polled.extend(fds.iter().map(|fd| PollFd::new(*fd, wanted)));
    while let Err(errno) = poll(&mut polled, timeout) {
        if errno != Errno::EINTR {
            return Err(errno.into());
        }
    }
    // The cancel is the first.
    match polled.iter().position(|fd| fd.any().unwrap_or(false)) {
        Some(0) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cancelled")),
        ready => Ok(ready.map(|index| index - 1)),
    }
}

impl Read for Guarded {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.retry(PollFlags::POLLIN, |fd| nix::unistd::read(fd, buf))
    }
}

impl Write for Guarded {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.retry(PollFlags::POLLOUT, |fd| nix::unistd::write(fd, buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.retry(PollFlags::POLLOUT, |fd| nix::sys::uio::writev(fd, bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Size of the pipes that libxl's stream goes through, in bytes: the most that an unprivileged
/// process may ask for.
pub const PIPE_BYTES: i32 = 1 << 20;

/// A pipe (reading end, writing end), both blocking and close-on-exec, as wide as the system
/// allows.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // A narrower pipe is slower, never wrong.
    let _ = fcntl(writer.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    Ok((reader, writer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_read_ends_when_cancelled_from_another_thread() {
        let (reader, _writer) = pipe().unwrap();
        let cancel = Cancel::new().unwrap();
        let mut guarded = Guarded::new(reader, cancel.clone(), None).unwrap();
        let puller = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            cancel.pull();
        });
        let error = guarded.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        puller.join().unwrap();
    }

    #[test]
    fn a_write_to_a_full_pipe_ends_at_its_deadline() {
        let (_reader, writer) = pipe().unwrap();
        let patience = Duration::from_millis(50);
        let mut guarded = Guarded::new(writer, Cancel::new().unwrap(), Some(patience)).unwrap();
        let begun = Instant::now();
        let error = guarded.write_all(&vec![0; 2 * PIPE_BYTES as usize]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= patience);
    }

    #[test]
    fn end_of_file_is_zero_bytes() {
        let (reader, writer) = pipe().unwrap();
        drop(writer);
        let mut guarded = Guarded::new(reader, Cancel::new().unwrap(), None).unwrap();
        assert_eq!(guarded.read(&mut [0; 8]).unwrap(), 0);
    }
}
