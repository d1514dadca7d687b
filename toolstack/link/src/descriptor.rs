//! Pipes and sockets on the runtime.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::time::timeout;

use rxl_core::json_lines::{JsonLineError, JsonLines};

/// How much is read at once, in bytes.
const CHUNK: usize = 8 << 10;

/// How long nothing may move. It is looked at again when it is over: it may have grown meanwhile.
pub trait Silence {
    /// The time that holds now.
    fn longest(&self) -> Duration;
}

impl Silence for Duration {
    fn longest(&self) -> Duration {
        *self
    }
}

impl<S: Silence> Silence for &S {
    fn longest(&self) -> Duration {
        (*self).longest()
    }
}

/// A pipe's end or a socket, read and written on the runtime.
pub struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    /// Takes a descriptor, and makes its open file description non-blocking: give it one that
    /// nobody else counts on. An error for a regular file, which epoll does not take.
    pub fn new(runtime: &Handle, fd: impl Into<OwnedFd>) -> io::Result<Self> {
        let fd = fd.into();
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(watched(runtime, fd, Interest::READABLE | Interest::WRITABLE)?))
    }

    /// Reads what is there, or waits for it. 0 at the end of the input.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |fd: &OwnedFd| Ok(rustix::io::read(fd, &mut *buffer)?);
        self.0.async_io(Interest::READABLE, read).await
    }

    /// Fills the buffer. Fails with [`io::ErrorKind::TimedOut`] where nothing comes for `silence`.
    pub async fn read_exact(&self, mut buffer: &mut [u8], silence: impl Silence) -> io::Result<()> {
        while !buffer.is_empty() {
            let read = within(&silence, self.read(buffer)).await?;
            let rest = buffer.get_mut(read..).unwrap_or_default();
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer = rest;
        }
        Ok(())
    }

    /// Writes what is taken at once, or waits until something is, for `silence` at most.
    pub async fn write(&self, bytes: &[u8], silence: impl Silence) -> io::Result<usize> {
        let write = |fd: &OwnedFd| Ok(rustix::io::write(fd, bytes)?);
        match within(silence, self.0.async_io(Interest::WRITABLE, write)).await? {
            0 if !bytes.is_empty() => Err(io::ErrorKind::WriteZero.into()),
            written => Ok(written),
        }
    }

    /// Writes all. Fails with [`io::ErrorKind::TimedOut`] where nothing is taken for `silence`.
    pub async fn write_all(&self, mut bytes: &[u8], silence: impl Silence) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.write(bytes, &silence).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

/// A descriptor whose readiness the runtime watches.
pub(crate) fn watched(
    runtime: &Handle,
    fd: OwnedFd,
    interest: Interest,
) -> io::Result<AsyncFd<OwnedFd>> {
    let _inside = runtime.enter();
    #[allow(
        deprecated,
        reason = "an OwnedFd stays open as long as it is owned, which is all that \
                                  the unsafe successor asks for"
    )]
    AsyncFd::with_interest(fd, interest)
}

/// A result that comes in time, or [`io::ErrorKind::TimedOut`].
async fn within<T>(
    silence: impl Silence,
    moved: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let (begun, mut moved) = (Instant::now(), pin!(moved));
    loop {
        let longest = silence.longest();
        let left = longest.saturating_sub(begun.elapsed());
        if let Ok(moved) = timeout(left, &mut moved).await {
            return moved;
        }
        if begun.elapsed() >= silence.longest() {
            let what = format!("nothing moved for {} s", longest.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
    }
}

/// The lines that come on a descriptor.
pub struct LineReader {
    from: Descriptor,
    /// What has been read beyond the last line.
    unread: Vec<u8>,
}

impl LineReader {
    /// Reads lines from here on.
    pub fn new(from: Descriptor) -> Self {
        Self { from, unread: Vec::new() }
    }

    /// The next line with its newline, or `longest` bytes of it, or what came before the end:
    /// nothing when that was all. May be cancelled and called again.
    pub async fn line(&mut self, longest: usize) -> io::Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            let new = self.unread.get(searched..).unwrap_or_default();
            let found = new.iter().position(|byte| *byte == b'\n').map(|at| searched + at + 1);
            if let Some(end) = found.or((self.unread.len() >= longest).then_some(longest)) {
                let rest = self.unread.split_off(end.min(longest));
                return Ok(std::mem::replace(&mut self.unread, rest));
            }
            searched = self.unread.len();
            let mut chunk = [0; CHUNK];
            let read = self.from.read(&mut chunk).await?;
            if read == 0 {
                return Ok(std::mem::take(&mut self.unread));
            }
            self.unread.extend_from_slice(chunk.get(..read).unwrap_or_default());
        }
    }

    /// The next JSON line. None when the input has ended. May be cancelled and called again.
    pub async fn json<T: DeserializeOwned>(
        &mut self,
        lines: JsonLines,
    ) -> Result<Option<T>, JsonLineError> {
        let line = self.line(lines.longest().saturating_add(1)).await?;
        lines.decode(&line)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;
    use crate::runtime::runtime;

    #[test]
    fn lines_are_cut_where_they_end_or_get_too_long() {
        let runtime = runtime().unwrap();
        let (from, to) = rxl_core::io::pipe().unwrap();
        let mut lines = LineReader::new(Descriptor::new(&runtime, from).unwrap());
        let mut to = File::from(to);
        to.write_all(b"one\ntwo\n12345678901\nrest").unwrap();
        drop(to);
        let mut next = || runtime.block_on(lines.line(8)).unwrap();
        assert_eq!(next(), b"one\n");
        assert_eq!(next(), b"two\n");
        assert_eq!(next(), b"12345678");
        assert_eq!(next(), b"901\n");
        assert_eq!(next(), b"rest");
        assert_eq!(next(), b"");
    }

    #[test]
    fn a_reader_that_takes_nothing_ends_the_write() {
        let runtime = runtime().unwrap();
        let (_from, to) = rxl_core::io::pipe().unwrap();
        let to = Descriptor::new(&runtime, to).unwrap();
        let bytes = vec![0; 4 << 20];
        let error = runtime.block_on(to.write_all(&bytes, Duration::from_millis(50))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_regular_file_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(Descriptor::new(&runtime().unwrap(), file).is_err());
    }
}
