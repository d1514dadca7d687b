//! The directory of the records.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rxl_core::state_dir::StateDir;

use crate::State;
use crate::error::JournalError;
use crate::record::{Header, Record};
use rxl_core::boot::BootId;

#[cfg(test)]
mod tests;

/// Records that have ended are kept for so long, for whoever wants to know what became of a domain.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Most records that are looked at. A host that has more has another trouble.
const MOST: usize = 100_000;

/// Suffix of a record that is being made.
const UNFINISHED: &str = "new";

/// This host's records: one file for each migration and end.
#[derive(Clone, Debug)]
pub struct Journal {
    dir: PathBuf,
    boot: BootId,
}

impl Journal {
    /// The one of the host with these directories: `/var/lib/rxl/migrations`.
    pub fn of(state: &StateDir) -> Result<Self, JournalError> {
        Self::at(state.lasting().join("migrations"))
    }

    pub(crate) fn at(dir: impl Into<PathBuf>) -> Result<Self, JournalError> {
        let dir = dir.into();
        match BootId::current() {
            Ok(boot) => Ok(Self { dir, boot }),
            Err(error) => Err(JournalError::Io { path: dir, error }),
        }
    }

    /// As it is seen in another boot of the host, for tests.
    #[must_use]
    pub fn in_boot(self, boot: BootId) -> Self {
        Self { boot, ..self }
    }

    /// The boot that this process runs in.
    pub fn boot(&self) -> &BootId {
        &self.boot
    }

    /// Begins a record. When this returns it is on the disk. A migration that has one already is
    /// refused: what it says would be forgotten.
    pub fn begin<S: State>(&self, header: &Header) -> Result<Record<S>, JournalError> {
        let record = self.named::<S>(&header.id)?;
        let bytes = record.first_bytes(header)?;
        let unfinished = record.path().with_extension(format!("{}.{UNFINISHED}", S::SIDE));
        let written = make_dir(&self.dir)
            .and_then(|()| write_whole(&unfinished, &bytes))
            .and_then(|()| std::fs::hard_link(&unfinished, record.path()))
            .and_then(|()| sync_dir(&self.dir));
        let _ = std::fs::remove_file(&unfinished);
        written.map_err(|error| self.failed(error))?;
        Ok(record)
    }

    /// The record of this migration, where there is one.
    pub fn find<S: State>(&self, id: &str) -> Result<Option<Record<S>>, JournalError> {
        let record = self.named::<S>(id)?;
        // That it cannot be looked for does not mean that there is none.
        match record.path().try_exists() {
            Ok(exists) => Ok(exists.then_some(record)),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The record that the other host asks for, or that this host has none of it. A target has
    /// begun its record before the source begins its own, so a host without a journal has lost it,
    /// or its file system is not mounted: it must not say that nothing was taken.
    pub fn find_for_other<S: State>(&self, id: &str) -> Result<Option<Record<S>>, JournalError> {
        let found = self.find(id)?;
        match self.dir.try_exists() {
            Ok(false) => Err(JournalError::NotThere(self.dir.clone())),
            Ok(true) => Ok(found),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// All records of this end, oldest name first.
    pub fn all<S: State>(&self) -> Result<Vec<Record<S>>, JournalError> {
        let found = self.files(&format!(".{}", S::SIDE))?;
        Ok(found.into_iter().map(|path| Record::at(path, self.boot.clone())).collect())
    }

    /// Files whose names end so, in the order of their names.
    fn files(&self, end: &str) -> Result<Vec<PathBuf>, JournalError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| self.failed(error))?,
        };
        let paths = entries.take(MOST).flatten().map(|entry| entry.path());
        let ours = paths.filter(|path| path.to_str().is_some_and(|path| path.ends_with(end)));
        let mut found: Vec<PathBuf> = ours.collect();
        found.sort();
        Ok(found)
    }

    /// Removes records that have ended long ago, and what a loss of power left half made.
    pub fn prune<S: State>(&self) -> Result<(), JournalError> {
        let Some(before) = SystemTime::now().checked_sub(KEPT) else { return Ok(()) };
        let is_old = |path: &Path| {
            let changed = path.metadata().and_then(|metadata| metadata.modified());
            changed.is_ok_and(|changed| changed < before)
        };
        let ended = self
            .all::<S>()?
            .into_iter()
            .filter(|record| is_old(record.path()) && record.state().is_ok_and(State::is_final));
        let half_made = self.files(&format!(".{}.{UNFINISHED}", S::SIDE))?;
        let half_made = half_made.into_iter().filter(|path| is_old(path));
        for path in ended.map(|record| record.path().to_owned()).chain(half_made) {
            match std::fs::remove_file(path) {
                // Another process prunes, too.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(|error| self.failed(error))?,
            }
        }
        Ok(())
    }

    fn named<S: State>(&self, id: &str) -> Result<Record<S>, JournalError> {
        if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(JournalError::NoId(id.chars().take(64).collect()));
        }
        Ok(Record::at(self.dir.join(format!("{id}.{}", S::SIDE)), self.boot.clone()))
    }

    fn failed(&self, error: io::Error) -> JournalError {
        JournalError::Io { path: self.dir.clone(), error }
    }
}

/// A directory that is made is a line in the one above, which has to be on the disk as well.
fn make_dir(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
    DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
    missing.into_iter().filter_map(Path::parent).try_for_each(sync_dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
