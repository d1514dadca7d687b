//! Decides every ending of a migration, whatever was killed, cut or switched off.
//!
//! A guard does it for the session that was killed, a session for itself before it gives up,
//! `rxl recover` for the whole host: at boot, every minute, and when a person asks. All of them
//! come here, and read the same records ([`rxl_handover`]).
//!
//! ```text
//!  source: rxl recover                             target: rxl receive (preamble: Recover)
//!    |- reads its record, looks at its copy          .
//!    |- Fence | HandOver ------------------------->  reads its record, records what follows from
//!    |                                               the question, does it
//!    |<------------------- Aborted | Taken | Running -
//!    |- records what follows, does it                .
//! ```
//! The other direction is the same, with Claim and Runs. A question is answered without asking
//! back, so two hosts that ask each other at once both get their answers.
//!
//! Who settles a record has the domain's lock, so sessions, guards and recoveries of one host take
//! turns. An answer is given without the lock where the record alone decides.

#![forbid(unsafe_code)]

mod answer;
mod boot;
mod effects;
mod end;
mod exchange;
mod saved;
mod source;
mod source_copy;
mod target;

pub use answer::{answer, serve};
pub use effects::Settling;
pub use end::{End, RecoverError};
pub use exchange::{Answer, GoneForGood, OtherHost, Peer, Question, Unreachable};
pub use source::settle_source;
pub use target::settle_target;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rxl_core::deadlines;
use rxl_core::names::lock_key;
use rxl_core::state_dir::{DomainLock, StateDir};
use rxl_handover::source::SourceState;
use rxl_handover::target::TargetState;
use rxl_handover::{Entry, Header, Journal, Presence, Record, State};
use rxl_host::host::Host;

/// The host whose records are settled.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The Xen that its domains run on.
    pub host: &'a dyn Host,
    /// The records of its migrations.
    pub journal: &'a Journal,
    /// How long things are watched before they count as settled.
    pub settling: Settling,
}

/// A record of either end.
#[derive(Clone, Debug)]
pub enum AnyRecord {
    /// A domain that leaves, or is saved.
    Source(Record<SourceState>),
    /// A domain that arrives, or is restored.
    Target(Record<TargetState>),
}

impl AnyRecord {
    /// All records of a journal.
    pub fn all(journal: &Journal) -> Result<Vec<Self>, RecoverError> {
        let sources = journal.all()?.into_iter().map(Self::Source);
        let targets = journal.all()?.into_iter().map(Self::Target);
        Ok(sources.chain(targets).collect())
    }

    /// What it says from its beginning on.
    pub fn header(&self) -> Result<Header, RecoverError> {
        Ok(match self {
            Self::Source(record) => record.read()?.header,
            Self::Target(record) => record.read()?.header,
        })
    }

    /// Whether something is left to decide or to do: the record is open, or a copy is left that
    /// was to be destroyed.
    pub fn is_open(&self, place: Place<'_>) -> Result<bool, RecoverError> {
        Ok(match self {
            Self::Source(record) => !record.state()?.is_final(),
            Self::Target(record) => {
                let entry = record.read()?;
                let there = || target::presence(place, &entry);
                !entry.state.is_final()
                    || (entry.state == TargetState::Aborted && there()? == Presence::There)
            }
        })
    }

    /// What would be done about it first, for people.
    pub fn plan(&self, place: Place<'_>) -> Result<String, RecoverError> {
        Ok(match self {
            Self::Source(record) => {
                let entry = record.read()?;
                let copy = source_copy::presence(place, &entry)?;
                let next = rxl_handover::source::step(entry.state, copy, None);
                format!("{}: {}", state_of(&entry, copy), next.describe())
            }
            Self::Target(record) => {
                let entry = record.read()?;
                let copy = target::presence(place, &entry)?;
                let next = rxl_handover::target::step(entry.state, copy, None);
                format!("{}: {}", state_of(&entry, copy), next.describe())
            }
        })
    }

    /// Takes the lock of its domain. None while a session or a guard is at work on it.
    pub fn lock(&self, state: &StateDir, header: &Header) -> Option<DomainLock> {
        let key = match self {
            Self::Source(_) => source_lock_key(header),
            Self::Target(_) => target_lock_key(header),
        };
        state.lock(&key, &header.name).ok()
    }

    /// Settles it. The caller has its lock.
    pub fn settle(&self, place: Place<'_>, peer: &dyn Peer) -> Result<End, RecoverError> {
        match self {
            Self::Source(record) => settle_source(place, record, peer),
            Self::Target(record) => settle_target(place, record, peer),
        }
    }
}

/// How the other host is asked when its word does not come.
#[derive(Clone)]
pub struct Asking {
    /// Who answers for it; none where it is asked as the record says.
    pub peer: Option<Arc<dyn Peer + Send + Sync>>,
    /// How long it is tried to have the end decided.
    pub try_for: Duration,
}

impl Default for Asking {
    fn default() -> Self {
        Self { peer: None, try_for: deadlines::RECOVER_TRY }
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("try_for", &self.try_for).finish_non_exhaustive()
    }
}

impl Asking {
    /// Settles a record, and asks again for a while where it cannot be decided yet. The caller has
    /// its lock.
    pub fn settle(&self, place: Place<'_>, record: &AnyRecord) -> Result<End, RecoverError> {
        let header = record.header()?;
        let other = OtherHost(&header.other);
        let peer = self.peer.as_deref().map_or(&other as &dyn Peer, |peer| peer);
        let until = Instant::now() + self.try_for;
        loop {
            let end = record.settle(place, peer)?;
            if !matches!(end, End::Waits(_)) || Instant::now() >= until {
                return Ok(end);
            }
            std::thread::sleep(deadlines::RECOVER_PAUSE.min(self.try_for));
        }
    }
}

fn state_of<S: State>(entry: &Entry<S>, copy: Presence) -> String {
    let copy = match copy {
        Presence::There => "its copy is here",
        Presence::PowerLost => "this host lost its power since",
        Presence::Gone => "its copy is not here",
    };
    format!("{:?}, {copy}", entry.state).to_lowercase()
}

/// A domain that leaves is locked by its number, as the session does it.
fn source_lock_key(header: &Header) -> String {
    format!("domain-{}", header.domid.unwrap_or_default())
}

/// A domain that arrives is locked by its name, as the session does it.
fn target_lock_key(header: &Header) -> String {
    format!("incoming-{}", lock_key(&header.name))
}
