//! A second process that puts a domain right when rxl is killed.
//!
//! A suspended domain whose rxl is gone stands still until somebody looks; so does a half-built
//! copy at the target. No handler runs on SIGKILL, so each session that holds a domain has a guard:
//! `rxl guard`, in a session of its own and under a name of its own (`rxl-guard`), which hears what
//! the domain is to become and acts when the line to rxl ends without `done`.
//!
//! ```text
//!  rxl migrate             rxl-guard         rxl receive              rxl-guard
//!   |- leaving, lock ------> |                |- coming NAME--incoming -> |
//!   |                        | killed: runs   |                           | killed: destroyed
//!   |                        | the domain on  |- held ------------------> |
//!   |                        | here           |                           | killed: kept, as before
//!   |- done ---------------> |                |                           |
//!   |========== GO =========================> |- taken -----------------> |
//!   |                                         |                           | killed: run here
//!   |                                         |- done ------------------> |
//! ```
//! `done` goes out before GO, so a guard never runs a domain on that the target may be running. The
//! domain's lock is shared with the guard (flock(2) belongs to the open file): nobody begins a
//! migration of a domain that is being put right.
//!
//! What the guard does is said to syslog: rxl's own standard error may have gone with its terminal,
//! or with ssh.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::{Pid, getppid};
use serde::{Deserialize, Serialize};

use crate::host::{Domain, Host};
use crate::state_dir::DomainLock;

mod act;

pub use act::{Settling, put_right};

/// The hidden subcommand.
const SUBCOMMAND: &str = "guard";

/// Longest word, in bytes: a domain's name is the longest part of it.
const MAX_WORD: usize = 4096;

/// How long a guard may take to put right what it guards, when rxl itself lets it.
const PATIENCE: Duration = Duration::from_secs(90);

/// What the domain is to become if nothing more is heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// It is being saved, or has been: it runs on here, under this name.
    Leaving {
        /// Its number.
        domid: u32,
        /// Its name before anything began.
        name: String,
    },
    /// It is being built under this name, which was free: it is destroyed.
    Coming {
        /// Such as `dom3--incoming`.
        name: String,
    },
    /// It is whole, and whether it is to run is the source's to say: it is kept.
    Held,
    /// It is to run here, under its own name.
    Taken {
        /// Its number.
        domid: u32,
        /// What it is called now, unless it was renamed.
        incoming: String,
        /// Its name.
        name: String,
        /// It stays paused.
        paused: bool,
    },
    /// Nothing is left to guard.
    Done,
}

/// rxl's end. Dropped before [`Guard::done`], it lets the guard act, and waits for it.
#[derive(Debug)]
pub struct Guard(Kind);

#[derive(Debug)]
enum Kind {
    None,
    Process { child: Child, line: Option<OwnedFd> },
    Memory(std::sync::mpsc::Sender<Word>),
}

impl Guard {
    /// Starts one. It keeps `lock` locked as long as it lives.
    pub fn start(lock: BorrowedFd<'_>) -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(io::Error::from)?;
        let child = Command::new(std::env::current_exe()?)
            .arg(SUBCOMMAND)
            .stdin(theirs)
            // Not that anything is written there: a descriptor that a child gets by itself is one
            // of three.
            .stdout(lock.try_clone_to_owned()?)
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(Kind::Process { child, line: Some(ours) }))
    }

    /// None at all.
    pub fn none() -> Self {
        Self(Kind::None)
    }

    /// None either: what it would have been told goes to `words`.
    pub fn in_memory(words: std::sync::mpsc::Sender<Word>) -> Self {
        Self(Kind::Memory(words))
    }

    /// Tells it what the domain is to become from here on.
    pub fn tell(&self, word: &Word) {
        let told = match &self.0 {
            Kind::Process { line: Some(line), .. } => say(line.as_fd(), word),
            Kind::Process { line: None, .. } | Kind::None => Ok(()),
            Kind::Memory(words) => {
                let _ = words.send(word.clone());
                Ok(())
            }
        };
        if let Err(error) = told {
            tracing::warn!("nobody looks after the domain if rxl is killed: {error}");
        }
    }

    /// Ends it, with nothing to be done.
    pub fn done(self) {
        self.tell(&Word::Done);
    }
}

/// Waits until our parent, this process, has ended, if it is ending: a parent that lives on lets
/// its guard act, and waits for it. Linux gives a process a new parent once the old one has closed
/// all its files (`do_exit` in kernel/exit.c).
pub fn wait_for_end_of(parent: Pid) {
    const GLANCE: Duration = Duration::from_millis(20);
    let until = Instant::now() + Duration::from_secs(1);
    while getppid() == parent && Instant::now() < until {
        std::thread::sleep(GLANCE);
    }
}

/// Looks after a domain that is being saved. A migration without is better than none.
pub fn leaving(host: &dyn Host, domain: &Domain, lock: &DomainLock) -> Guard {
    with_word(host, lock, &Word::Leaving { domid: domain.domid.0, name: domain.name.clone() })
}

/// Looks after a domain that is being built under a name that was free.
pub fn coming(host: &dyn Host, name: &str, lock: &DomainLock) -> Guard {
    with_word(host, lock, &Word::Coming { name: name.into() })
}

fn with_word(host: &dyn Host, lock: &DomainLock, word: &Word) -> Guard {
    let guard = host.guard(lock).unwrap_or_else(|error| {
        tracing::warn!("nobody puts things right if rxl is killed: {error}");
        Guard::none()
    });
    guard.tell(word);
    guard
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Kind::Process { child, line } = &mut self.0 else { return };
        drop(line.take());
        let deadline = Instant::now() + PATIENCE;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn say(line: BorrowedFd<'_>, word: &Word) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let text = serde_json::to_vec(word)?;
    if text.len() > MAX_WORD {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a word is too long"));
    }
    send(line.as_raw_fd(), &text, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

/// The last word on the line before it ended, however it ended.
pub fn last_word(line: BorrowedFd<'_>) -> Option<Word> {
    use std::os::fd::AsRawFd;
    let mut last = None;
    let mut buffer = [0; MAX_WORD];
    loop {
        match recv(line.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => return last,
            Ok(length) => match serde_json::from_slice(&buffer[..length]) {
                Ok(word) => last = Some(word),
                Err(_) => return last,
            },
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return last,
        }
    }
}

/// Says a line to syslog (RFC 3164, facility daemon); where there is none, to nobody.
pub fn log(line: &str) {
    const DAEMON_WARNING: u8 = 3 * 8 + 4;
    let mut datagram = Vec::new();
    let _ = write!(datagram, "<{DAEMON_WARNING}>rxl-guard[{}]: {line}", std::process::id());
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.send_to(&datagram, "/dev/log");
    }
}

#[cfg(test)]
mod tests;
