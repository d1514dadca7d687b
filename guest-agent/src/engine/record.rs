//! What an agent leaves for the next one, should it die while ranks are frozen: a small file in
//! /run.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rxl_agent_protocol::{JobRow, Stamp, State, Status, path};
use serde::{Deserialize, Serialize};

use crate::guest::Held;
use crate::store::Store;

/// Where in an epoch the agent is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// In none.
    #[default]
    Idle,
    /// Ranks are gathered and run.
    Prepared,
    /// Ranks stand still.
    Frozen,
    /// Ranks run again; figures are being kept.
    Thawed,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Prepared => "prepared",
            Self::Frozen => "frozen",
            Self::Thawed => "thawed",
        })
    }
}

/// All that the engine remembers. Times are CLOCK_MONOTONIC.
#[derive(Debug)]
pub struct Record {
    /// The boot that the times and processes belong to.
    pub boot: String,
    pub stamp: Stamp,
    pub status: Status,
    pub phase: Phase,
    /// When the freeze began.
    pub since: Duration,
    /// The length of the lease, and its end.
    pub lease: Duration,
    pub until: Duration,
    pub held: Held,
    /// The job rows and cut rows, as written to the store.
    pub rows: Vec<String>,
    pub chunks: Vec<String>,
}

/// The record as it stands in the file, in JSON.
#[derive(Serialize, Deserialize)]
struct File {
    boot: String,
    state: String,
    phase: Phase,
    since: Duration,
    lease: Duration,
    until: Duration,
    held: Held,
    rows: Vec<String>,
    chunks: Vec<String>,
}

impl Record {
    fn empty(boot: &str) -> Self {
        Self {
            boot: boot.into(),
            stamp: Stamp::default(),
            status: Status::Idle,
            phase: Phase::Idle,
            since: Duration::ZERO,
            lease: Duration::ZERO,
            until: Duration::ZERO,
            held: Held::default(),
            rows: Vec::new(),
            chunks: Vec::new(),
        }
    }

    /// The one in the file, or an empty one: it may be missing, from another boot, or of another
    /// version.
    pub fn load(file: &Path, boot: &str) -> Self {
        Self::read(file).filter(|record| record.boot == boot).unwrap_or_else(|| Self::empty(boot))
    }

    fn read(file: &Path) -> Option<Self> {
        let file: File = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        let State { stamp, status } = file.state.parse().ok()?;
        let File { boot, phase, since, lease, until, held, rows, chunks, .. } = file;
        Some(Self { boot, stamp, status, phase, since, lease, until, held, rows, chunks })
    }

    /// Replaces the file at once.
    pub fn save(&self, file: &Path) -> io::Result<()> {
        let unfinished = file.with_extension("unfinished");
        let state = State { stamp: self.stamp, status: self.status.clone() }.to_string();
        let Self { boot, phase, since, lease, until, held, rows, chunks, .. } = self;
        let (boot, held, rows, chunks) = (boot.clone(), held.clone(), rows.clone(), chunks.clone());
        let (phase, since, lease, until) = (*phase, *since, *lease, *until);
        let text = serde_json::to_vec(&File {
            boot,
            state,
            phase,
            since,
            lease,
            until,
            held,
            rows,
            chunks,
        })?;
        fs::write(&unfinished, text)?;
        fs::rename(&unfinished, file)
    }

    /// Without a file, the last agent's own word in the store keeps an old command from being
    /// obeyed again.
    pub fn adopt_stamp(&mut self, store: &mut impl Store) -> io::Result<()> {
        let told = store.read(path::STATE)?.and_then(|text| text.parse::<State>().ok());
        if let Some(state) = told.filter(|state| state.stamp > self.stamp) {
            self.stamp = state.stamp;
        }
        Ok(())
    }

    pub fn set_rows(&mut self, rows: &[JobRow]) {
        self.rows = rows.iter().map(JobRow::to_string).collect();
    }
}
