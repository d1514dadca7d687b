//! Which host a domain belongs to while it moves: what each end may do, and its record on disk.
//!
//! A migration has a record on each host, in `/var/lib/rxl`. A record holds the end's state, and
//! every change of it is on the disk before anything follows from it. So whoever looks at the two
//! records can decide what becomes of the domain, whatever was killed or lost its power.
//!
//! ```text
//!  source                                          target
//!  Leaving     libxl saves                         Receiving   libxl restores
//!     |                                               |
//!     |                        <--- READY ---      Held        a complete copy stands paused
//!  Committing  written before the rename              |
//!     |        ---- GO ---->                       Taken       written before the rename
//!     |                                               |        rename, unpause
//!     |                        <--- Done ----      Running
//!  Released    the copy here is destroyed             |
//!              ---- Released ---->                 Settled     nobody will ask again
//! ```
//! **The domain belongs to the target from the moment in which Taken is on the target's disk.**
//! Three rules follow, and every function here keeps to them:
//!
//! - the source runs its copy again from Leaving, where nobody was told GO; from Committing only
//!   once the target's record says that it never takes the domain (Aborted, GivenBack);
//! - the target takes the domain from Held, and only with the source's word: GO, or the answer to a
//!   question that it asked after the connection was lost;
//! - the source destroys its copy once the target's record says Running, not Taken: what was taken
//!   and cannot be started is given back.
//!
//! A record changes by [`Record::advance`], which compares and sets under the record's own lock. So
//! two processes that decide about one migration at once (a session that was stopped and runs on,
//! and a fence) cannot both have their way.
//!
//! # Questions
//!
//! ```text
//!  source's record   asks the target             target's record  asks the source
//!  Committing        Fence: abort if you only    Held             Claim: may I run it?
//!                    hold it                     Running          Runs: you may destroy yours
//!  Committing, and   HandOver: run it, the copy
//!  its host was off  here is gone
//! ```
//! [`source`] and [`target`] have the states, what each question does to them, and what an end does
//! about its own record. They are pure: sessions, guards, `rxl recover` and the model that is
//! checked exhaustively (`tests/model`) all go through them.

#![forbid(unsafe_code)]

mod error;
pub mod journal;
mod lines;
pub mod questions;
pub mod record;
pub mod source;
pub mod target;

pub use error::JournalError;
pub use journal::Journal;
pub use record::{Entry, Header, Other, Record};

/// A state of one end, as its record holds it.
pub trait State:
    Copy + PartialEq + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned
{
    /// What may happen to it.
    type Event: Copy + std::fmt::Debug;

    /// The suffix of the record's file name.
    const SIDE: &'static str;

    /// The state in which a record begins.
    const FIRST: Self;

    /// The state after an event.
    fn after(self, event: Self::Event) -> Result<Self, OutOfOrder>;

    /// Whether nothing is left to decide. Of what was aborted a copy may still be left to destroy:
    /// `step` tells.
    fn is_final(self) -> bool;
}

/// An event that may not happen in this state: somebody else has decided otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record says {state}, which does not allow '{event}'")]
pub struct OutOfOrder {
    /// The state's name.
    pub state: String,
    /// The event's name.
    pub event: String,
}

impl OutOfOrder {
    fn new(state: impl std::fmt::Debug, event: impl std::fmt::Debug) -> Self {
        Self { state: format!("{state:?}"), event: format!("{event:?}") }
    }
}

/// Whether one host still has its copy of the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Presence {
    /// It is there.
    There,
    /// The host was off since the record was begun: no memory is left.
    PowerLost,
    /// The host was on, and the copy is not there: somebody destroyed it, or it has ended.
    Gone,
}
