//! rxl's line to its guard, the process that puts a domain right when rxl is killed.
//!
//! [`crate::guard`] has the protocol and what the guard does.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde::{Deserialize, Serialize};

use rxl_core::{deadlines, own_program};

/// The hidden subcommand that a guard runs.
const SUBCOMMAND: &str = "guard";

/// Longest word in bytes. A migration's id is the longest part of it.
const MAX_WORD: usize = 256;

/// What a guard is to do if nothing more is heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// Settle this record.
    Settle {
        /// Which end of the migration this is.
        side: Side,
        /// The migration's id.
        id: String,
        /// The guest may have been asked to suspend, and may still do so.
        asked: bool,
    },
    /// Nothing is left to settle.
    Done,
}

/// An end of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The domain leaves.
    Source,
    /// The domain arrives.
    Target,
}

/// Hears which record a guard is to settle. Dropped before [`Word::Done`], it acts.
pub trait Listener: Send + fmt::Debug {
    /// Tells it what to do from here on.
    fn tell(&self, word: &Word) -> io::Result<()>;
}

/// A session's line to its guard. Dropped before [`Guard::done`], it lets the guard act, and waits
/// for it.
#[derive(Debug)]
pub struct Guard(Option<Box<dyn Listener>>);

impl Guard {
    /// A line to this listener.
    pub fn new(listener: impl Listener + 'static) -> Self {
        Self(Some(Box::new(listener)))
    }

    /// A line to nobody: nothing is put right if rxl is killed.
    pub fn none() -> Self {
        Self(None)
    }

    /// Starts the guard's process. It keeps `lock` locked as long as it lives.
    pub fn start(lock: BorrowedFd<'_>) -> io::Result<Self> {
        Process::start(lock).map(Self::new)
    }

    /// Tells it what to do from here on.
    pub fn tell(&self, word: &Word) {
        let told = self.0.as_ref().map_or(Ok(()), |listener| listener.tell(word));
        if let Err(error) = told {
            tracing::warn!("nobody looks after the domain if rxl is killed: {error}");
        }
    }

    /// Ends it, with nothing to be done.
    pub fn done(self) {
        self.tell(&Word::Done);
    }
}

/// The guard as a process, `rxl guard`.
#[derive(Debug)]
struct Process {
    child: Child,
    line: Option<OwnedFd>,
}

impl Process {
    fn start(lock: BorrowedFd<'_>) -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(io::Error::from)?;
        let child = own_program::command()
            .arg(SUBCOMMAND)
            .stdin(theirs)
            // Nothing is written there. A child inherits only its three standard descriptors, and
            // the lock has to be one of them.
            .stdout(lock.try_clone_to_owned()?)
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, line: Some(ours) })
    }
}

impl Listener for Process {
    fn tell(&self, word: &Word) -> io::Result<()> {
        self.line.as_ref().map_or(Ok(()), |line| say(line.as_fd(), word))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.line.take());
        let deadline = Instant::now() + deadlines::GUARD;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn say(line: BorrowedFd<'_>, word: &Word) -> io::Result<()> {
    let text = serde_json::to_vec(word)?;
    if text.len() > MAX_WORD {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a word is too long"));
    }
    send(line.as_raw_fd(), &text, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

/// The last word on the line before it ended, however it ended.
pub fn last_word(line: BorrowedFd<'_>) -> Option<Word> {
    let mut last = None;
    let mut buffer = [0; MAX_WORD];
    loop {
        match recv(line.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => return last,
            Ok(length) => match serde_json::from_slice(buffer.get(..length).unwrap_or_default()) {
                Ok(word) => last = Some(word),
                Err(_) => return last,
            },
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return last,
        }
    }
}

/// Writes a line to syslog (RFC 3164, facility daemon), where there is one. `program` is who says
/// it.
pub fn log(program: &str, line: &str) {
    const DAEMON_WARNING: u8 = 3 * 8 + 4;
    let mut datagram = Vec::new();
    let _ = write!(datagram, "<{DAEMON_WARNING}>{program}[{}]: {line}", std::process::id());
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.send_to(&datagram, "/dev/log");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(id: &str) -> Word {
        Word::Settle { side: Side::Source, id: id.into(), asked: false }
    }

    #[test]
    fn the_last_word_counts_however_the_line_ends() {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .unwrap();
        for word in [settle("a"), settle("b")] {
            say(ours.as_fd(), &word).unwrap();
        }
        drop(ours);
        assert_eq!(last_word(theirs.as_fd()), Some(settle("b")));
        assert_eq!(last_word(theirs.as_fd()), None);
    }

    #[test]
    fn a_word_that_is_too_long_is_refused() {
        let (ours, _theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .unwrap();
        assert!(say(ours.as_fd(), &settle(&"x".repeat(MAX_WORD))).is_err());
    }
}
