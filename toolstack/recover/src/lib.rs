//! Decides every ending of a migration, whatever was killed, cut or switched off.
//!
//! A guard does it for the session that was killed, a session for itself before it gives up,
//! `rxl recover` for the whole host: at boot, every minute, and when a person asks. All of them come
//! here, and read the same records ([`rxl_handover`]).
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
mod effects;
mod end;
mod exchange;
mod saved;
mod source;
mod target;

pub use answer::{answer, serve};
pub use effects::Settling;
pub use end::{End, RecoverError};
pub use exchange::{Answer, OtherHost, Peer, Question, Unreachable};
pub use source::settle_source;
pub use target::settle_target;

use std::time::Instant;

use rxl_core::deadlines;
use rxl_core::names::lock_key;
use rxl_core::state_dir::{DomainLock, StateDir};
use rxl_handover::source::SourceState;
use rxl_handover::target::TargetState;
use rxl_handover::{Entry, Header, Journal, Record};
use rxl_host::host::Host;

/// The host whose records are settled.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Its Xen.
    pub host: &'a dyn Host,
    /// Its records.
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

    /// What it says from its beginning on, and whether it has ended.
    pub fn summary(&self) -> Result<(Header, bool, String), RecoverError> {
        use rxl_handover::State;
        Ok(match self {
            Self::Source(record) => {
                let Entry { header, state, .. } = record.read()?;
                (header, state.is_final(), format!("{state:?}"))
            }
            Self::Target(record) => {
                let Entry { header, state, .. } = record.read()?;
                (header, state.is_final(), format!("{state:?}"))
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

    /// Settles it, and asks again for a while where it cannot be decided yet. The caller has its
    /// lock.
    pub fn settle_patiently(
        &self,
        place: Place<'_>,
        peer: &dyn Peer,
        until: Instant,
    ) -> Result<End, RecoverError> {
        loop {
            let end = self.settle(place, peer)?;
            if !matches!(end, End::Waits(_)) || Instant::now() >= until {
                return Ok(end);
            }
            std::thread::sleep(deadlines::RECOVER_PAUSE);
        }
    }
}

/// A domain that leaves is locked by its number, as the session does it.
fn source_lock_key(header: &Header) -> String {
    format!("domain-{}", header.domid.unwrap_or_default())
}

/// A domain that arrives is locked by its name, as the session does it.
fn target_lock_key(header: &Header) -> String {
    format!("incoming-{}", lock_key(&header.name))
}
