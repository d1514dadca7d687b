//! One migration's record on one host.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rxl_core::deadlines;
use serde::{Deserialize, Serialize};

use crate::error::JournalError;
use crate::lines::{decode, encode};
use crate::{Presence, State};
use rxl_core::boot::BootId;

#[cfg(test)]
pub(crate) mod tests;

/// Bytes of zeroes behind the first lines, so that a later one changes no more than one block of a
/// file that does not grow: one write of the disk, not three.
const ROOM: usize = 4096;

/// The largest record that is read, in bytes. The domain's configuration is most of it.
const LONGEST: u64 = 8 << 20;

/// What a record says from its beginning on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Header {
    /// The migration's id, 32 hexadecimal digits; the same on both hosts.
    pub id: String,
    /// The domain's own name.
    pub name: String,
    /// The domain's UUID, where its configuration has one.
    pub uuid: Option<String>,
    /// libxl's configuration of it, in JSON.
    pub config_json: String,
    /// The domain's number here. At the target it is not known before the copy is complete.
    pub domid: Option<u32>,
    /// The other end.
    pub other: Other,
    /// The domain stays paused at the target (`-p`).
    pub leave_paused: bool,
    /// No process is to wait for the domain's end at the target (`-e`).
    pub no_monitor: bool,
}

/// The other end of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Other {
    /// rxl on another host, which can be asked.
    Rxl {
        /// The host, as ssh knows it here. More than one where the first may not do.
        hosts: Vec<String>,
        /// What takes ssh's place (`-s`).
        ssh_command: Option<String>,
    },
    /// Stock xl on another host, which cannot.
    Xl {
        /// The host, as ssh knows it here; none where it sends.
        host: Option<String>,
    },
    /// A file that the domain is saved into, or restored from.
    File {
        /// Its name once it is whole.
        path: PathBuf,
        /// Its name while it is being written.
        unfinished: Option<PathBuf>,
        /// What becomes of the domain once it is saved.
        after: AfterSave,
    },
}

/// What becomes of a domain that is saved into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterSave {
    /// It is destroyed: it lives in the file.
    Destroy,
    /// It runs on.
    Run,
    /// It stands still until it is unpaused.
    Pause,
}

/// One state, as it was reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Step<S> {
    state: S,
    /// The boot in which that was.
    boot: BootId,
    /// The domain's number from here on, where it has changed.
    domid: Option<u32>,
    /// Seconds since 1970.
    at: u64,
}

impl<S> Step<S> {
    fn now(state: S, boot: &BootId, domid: Option<u32>) -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { state, boot: boot.clone(), domid, at }
    }
}

/// All that a record says.
#[derive(Clone, Debug)]
pub struct Entry<S> {
    /// What it says from its beginning on.
    pub header: Header,
    /// The state that was reached last.
    pub state: S,
    /// The domain's number here, where it is known.
    pub domid: Option<u32>,
    /// The boot in which the copy was made, or the domain started last.
    pub copy_boot: BootId,
    /// When the last state was reached, in seconds since 1970.
    pub at: u64,
    /// Where the next line goes.
    end: u64,
}

impl<S> Entry<S> {
    /// Whether the copy is still there. `found`: the host has the domain of this number.
    pub fn presence(&self, boot: &BootId, found: bool) -> Presence {
        match (self.copy_boot == *boot, found) {
            (false, _) => Presence::PowerLost,
            (true, true) => Presence::There,
            (true, false) => Presence::Gone,
        }
    }
}

/// A record on the disk. Any number of processes may have it open.
#[derive(Debug)]
pub struct Record<S> {
    path: PathBuf,
    boot: BootId,
    state: PhantomData<fn() -> S>,
}

impl<S> Clone for Record<S> {
    fn clone(&self) -> Self {
        Self { path: self.path.clone(), boot: self.boot.clone(), state: PhantomData }
    }
}

impl<S: State> Record<S> {
    pub(crate) fn at(path: PathBuf, boot: BootId) -> Self {
        Self { path, boot, state: PhantomData }
    }

    /// Where it is on the disk.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The boot that this process runs in.
    pub fn boot(&self) -> &BootId {
        &self.boot
    }

    /// The bytes of a new record.
    pub(crate) fn first_bytes(&self, header: &Header) -> Result<Vec<u8>, JournalError> {
        let step = Step::now(S::FIRST, &self.boot, header.domid);
        let json = |error| JournalError::Io { path: self.path.clone(), error };
        let mut bytes = encode(header).map_err(|e| json(e.into()))?;
        bytes.extend(encode(&step).map_err(|e| json(e.into()))?);
        bytes.resize(bytes.len() + ROOM, 0);
        // Nobody could read it.
        if bytes.len() as u64 > LONGEST {
            return Err(json(io::ErrorKind::FileTooLarge.into()));
        }
        Ok(bytes)
    }

    /// All that it says now, and what it says is on the disk: whoever wrote the last line may have
    /// been killed before it was, and a loss of power would take back what others have acted on.
    pub fn read(&self) -> Result<Entry<S>, JournalError> {
        let file = File::open(&self.path).map_err(|error| self.failed(error))?;
        let entry = self.entry(&file)?;
        file.sync_data().map_err(|error| self.failed(error))?;
        Ok(entry)
    }

    /// The state that was reached last.
    pub fn state(&self) -> Result<S, JournalError> {
        self.read().map(|entry| entry.state)
    }

    /// Records an event, if the state that it meets allows it. When this returns it is on the disk.
    pub fn advance(&self, event: S::Event) -> Result<S, JournalError> {
        self.advance_with(event, None)
    }

    /// As [`Self::advance`], with the number that the domain has here from now on.
    pub fn advance_with(&self, event: S::Event, domid: Option<u32>) -> Result<S, JournalError> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path);
        let file = self.lock(file.map_err(|error| self.failed(error))?)?;
        let entry = self.entry(&file)?;
        let next = entry.state.after(event).map_err(JournalError::OutOfOrder)?;
        let written = if next == entry.state && domid.is_none() {
            Ok(())
        } else {
            let line = encode(&Step::now(next, &self.boot, domid)).map_err(io::Error::from);
            line.and_then(|line| file.write_all_at(&line, entry.end))
        };
        // What is there already may not be on the disk yet.
        written.and_then(|()| file.sync_data()).map_err(|error| self.failed(error))?;
        Ok(next)
    }

    /// The record's own lock, held while it is read and written. A process that was stopped in
    /// between must not stop everybody else for ever.
    fn lock(&self, mut file: File) -> Result<Flock<File>, JournalError> {
        let deadline = Instant::now() + deadlines::RECORD_LOCK;
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(locked),
                Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < deadline => file,
                Err((_, errno)) => return Err(self.failed(errno.into())),
            };
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn entry(&self, file: &File) -> Result<Entry<S>, JournalError> {
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes).map_err(|error| self.failed(error))?;
        self.parse(&bytes).ok_or_else(|| JournalError::Unreadable(self.path.clone()))
    }

    fn parse(&self, bytes: &[u8]) -> Option<Entry<S>> {
        let (header, mut end): (Header, usize) = decode(bytes)?;
        let (first, length): (Step<S>, usize) = decode(bytes.get(end..)?)?;
        end += length;
        let mut entry = Entry {
            domid: first.domid.or(header.domid),
            header,
            state: first.state,
            copy_boot: first.boot,
            at: first.at,
            end: 0,
        };
        while let Some((step, length)) = decode::<Step<S>>(bytes.get(end..)?) {
            end += length;
            // A number is told where a copy is complete or was started: there it was made.
            if step.domid.is_some() {
                (entry.domid, entry.copy_boot) = (step.domid, step.boot);
            }
            (entry.state, entry.at) = (step.state, step.at);
        }
        entry.end = u64::try_from(end).ok()?;
        Some(entry)
    }

    fn failed(&self, error: io::Error) -> JournalError {
        JournalError::Io { path: self.path.clone(), error }
    }
}
