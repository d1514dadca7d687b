//! xenstore through the kernel: `/dev/xen/xenbus`.
//!
//! A client of its own, because the one on the registry (xenstore-rs) has no deadline for a
//! request, or brings an async runtime. What the kernel's device
//! (drivers/xen/xenbus/xenbus_dev_frontend.c) does and this file counts on:
//!
//! - one write(2) holds one whole request;
//! - watches are held by the kernel: it answers `WATCH` itself, with request id 0, and registers
//!   them again after the domain was resumed elsewhere, upon which each fires once;
//! - events come between answers in the same stream.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rxl_agent_protocol::path;

use super::Store;
use super::wire::{self, Kind};

/// The kernel's device.
pub const DEVICE: &str = "/dev/xen/xenbus";

/// Longest wait for an answer. xenstored answers in less than a millisecond, unless dom0 is in
/// trouble.
const PATIENCE: Duration = Duration::from_secs(5);

/// Token of the one watch.
const TOKEN: &str = "rxl";

/// See the module. After an error the device is opened anew at the next use, since an answer may
/// still be under way.
pub struct Xenbus {
    device: PathBuf,
    connection: Option<Connection>,
}

struct Connection {
    device: File,
    received: Vec<u8>,
    next_id: u32,
    event: bool,
}

impl Xenbus {
    /// Opens the device and watches what dom0 writes.
    pub fn open(device: &Path) -> io::Result<Self> {
        Ok(Self { device: device.to_owned(), connection: Some(Connection::open(device)?) })
    }

    fn ask(&mut self, kind: Kind, parts: &[&str]) -> io::Result<Vec<u8>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.device)?,
        };
        let answer = connection.ask(kind, &payload(kind, parts))?;
        self.connection = Some(connection);
        answer.into_result()
    }
}

/// Strings end with a NUL each, but for a value, which ends with the message.
fn payload(kind: Kind, parts: &[&str]) -> Vec<u8> {
    let joined = parts.join("\0");
    let end = if kind == Kind::Write { "" } else { "\0" };
    [joined, end.to_owned()].concat().into_bytes()
}

impl Connection {
    fn open(device: &Path) -> io::Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(device)?;
        let mut connection = Self { device, received: Vec::new(), next_id: 1, event: true };
        connection
            .ask(Kind::Watch, &payload(Kind::Watch, &[path::CONTROL, TOKEN]))?
            .into_result()?;
        Ok(connection)
    }

    /// Sends a request and waits for its answer.
    fn ask(&mut self, kind: Kind, payload: &[u8]) -> io::Result<wire::Message> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.device.write_all(&wire::request(kind, id, payload)?)?;
        let until = Instant::now() + PATIENCE;
        loop {
            while let Some(message) = wire::take(&mut self.received)? {
                if message.answers(kind, id) {
                    return Ok(message);
                }
                self.event |= message.kind == Kind::Event as u32;
            }
            self.wait(until)?;
            self.receive()?;
        }
    }

    fn wait(&self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(ErrorKind::TimedOut, "xenstore does not answer"));
        }
        let mut fds = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
        match poll(
            &mut fds,
            PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX),
        ) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what is there; tells whether there was anything.
    fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; wire::HEADER + wire::MAX_PAYLOAD];
        match self.device.read(&mut buffer) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.received.extend_from_slice(&buffer[..length]);
                Ok(true)
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether an event has come since the last call.
    fn take_event(&mut self) -> io::Result<bool> {
        while self.receive()? {
            while let Some(message) = wire::take(&mut self.received)? {
                self.event |= message.kind == Kind::Event as u32;
            }
        }
        Ok(std::mem::take(&mut self.event))
    }
}

impl Store for Xenbus {
    fn read(&mut self, path: &str) -> io::Result<Option<String>> {
        match self.ask(Kind::Read, &[path]) {
            Ok(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, path: &str, value: &str) -> io::Result<()> {
        self.ask(Kind::Write, &[path, value]).map(drop)
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        match self.ask(Kind::Remove, &[path]) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn changed(&mut self) -> io::Result<bool> {
        let Some(mut connection) = self.connection.take() else { return Ok(false) };
        let event = connection.take_event()?;
        self.connection = Some(connection);
        Ok(event)
    }

    fn notices(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(|connection| connection.device.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_end_as_xenstore_wants_them() {
        assert_eq!(payload(Kind::Read, &["a/b"]), b"a/b\0");
        assert_eq!(payload(Kind::Write, &["a/b", "v"]), b"a/b\0v");
        assert_eq!(payload(Kind::Watch, &["a", "t"]), b"a\0t\0");
        assert_eq!(payload(Kind::Remove, &["a"]), b"a\0");
    }
}
