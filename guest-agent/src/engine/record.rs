//! What an agent must leave for the next one, should it die while ranks are frozen: a small file
//! in /run.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rxl_agent_protocol::{JobRow, Stamp, State, Status, path};
use serde::{Deserialize, Serialize};

use crate::guest::Held;
use crate::store::Store;

/// How far the agent is in an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// No epoch is under way.
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

/// What the engine remembers of its epoch. Times are CLOCK_MONOTONIC.
#[derive(Debug)]
pub struct Record {
    /// The boot that the times and processes belong to.
    pub boot: String,
    pub stamp: Stamp,
    pub status: Status,
    pub phase: Phase,
    /// When the freeze began.
    pub frozen_at: Duration,
    /// The length of the lease.
    pub lease: Duration,
    pub lease_end: Duration,
    /// What has to be put back. Outside an epoch: what could not be.
    pub held: Held,
    /// The job rows, as written to the store.
    pub rows: Vec<String>,
    /// What the last survey found unclaimed, as written to the store.
    pub unclaimed: Option<String>,
    /// The nodes of the last survey's explanation, as written to the store. Not kept in the file.
    pub explanation: Vec<String>,
    /// The nodes of the cut, as written to the store.
    pub cut_chunks: Vec<String>,
}

/// The record as it stands in the file, in JSON.
#[derive(Serialize, Deserialize)]
struct RecordFile {
    boot: String,
    state: String,
    phase: Phase,
    #[serde(rename = "since")]
    frozen_at: Duration,
    lease: Duration,
    #[serde(rename = "until")]
    lease_end: Duration,
    held: Held,
    rows: Vec<String>,
    #[serde(default)]
    unclaimed: Option<String>,
    #[serde(rename = "chunks")]
    cut_chunks: Vec<String>,
}

impl Record {
    fn empty(boot: &str) -> Self {
        Self {
            boot: boot.into(),
            stamp: Stamp::default(),
            status: Status::Idle,
            phase: Phase::Idle,
            frozen_at: Duration::ZERO,
            lease: Duration::ZERO,
            lease_end: Duration::ZERO,
            held: Held::default(),
            rows: Vec::new(),
            unclaimed: None,
            explanation: Vec::new(),
            cut_chunks: Vec::new(),
        }
    }

    /// Reads the record. It is empty if the file is missing, from another boot, or of another
    /// version.
    pub fn load(file: &Path, boot: &str) -> Self {
        Self::read(file).filter(|record| record.boot == boot).unwrap_or_else(|| Self::empty(boot))
    }

    fn read(file: &Path) -> Option<Self> {
        let file: RecordFile = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        let State { stamp, status } = file.state.parse().ok()?;
        Some(Self {
            boot: file.boot,
            stamp,
            status,
            phase: file.phase,
            frozen_at: file.frozen_at,
            lease: file.lease,
            lease_end: file.lease_end,
            held: file.held,
            rows: file.rows,
            unclaimed: file.unclaimed,
            explanation: Vec::new(),
            cut_chunks: file.cut_chunks,
        })
    }

    /// Replaces the file in one go, so that a death leaves the old record or the new one.
    pub fn save(&self, file: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(&RecordFile {
            boot: self.boot.clone(),
            state: self.state().to_string(),
            phase: self.phase,
            frozen_at: self.frozen_at,
            lease: self.lease,
            lease_end: self.lease_end,
            held: self.held.clone(),
            rows: self.rows.clone(),
            unclaimed: self.unclaimed.clone(),
            cut_chunks: self.cut_chunks.clone(),
        })?;
        let unfinished = file.with_extension("unfinished");
        fs::write(&unfinished, text)?;
        fs::rename(&unfinished, file)
    }

    /// What the agent tells dom0.
    pub fn state(&self) -> State {
        State { stamp: self.stamp, status: self.status.clone() }
    }

    /// Takes the last agent's stamp from the store. Without a file, that keeps an old command from
    /// being obeyed again.
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
