//! What the two ends ask each other, once the connection of the migration is gone.

use serde::{Deserialize, Serialize};

/// What the target asks the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceQuestion {
    /// A complete copy is held there, and nobody says whether it is to run: may it?
    Claim,
    /// It runs there: the copy here may be destroyed.
    Runs,
}

/// What the source answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceAnswer {
    /// The copy there is to run.
    Go,
    /// The domain stays here: the copy there is to be destroyed.
    Stays,
    /// The copy here is gone, and the record is closed.
    Released,
    /// A process here is still at work on it. Ask again.
    Busy,
    /// There is no record of this migration here: it has ended, or it never committed.
    Unknown,
}

/// What becomes of a record by a question: the event that has to be recorded before the answer is
/// given, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<E, A> {
    /// Recorded first. An event that the record refuses means that it has changed: look again.
    pub events: [Option<E>; 2],
    /// What is answered then.
    pub answer: A,
}

pub(crate) const fn reply<E, A>(events: [Option<E>; 2], answer: A) -> Reply<E, A> {
    Reply { events, answer }
}

/// What the source asks the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetQuestion {
    /// Abort if it is only held: the source's copy stands still, and can run.
    Fence,
    /// Run it if it is held: the source's copy is gone.
    HandOver,
}

/// What the target answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetAnswer {
    /// It never runs there. That is recorded: a GO that comes late is refused.
    Aborted,
    /// It belongs there, and does not run yet. It may still be given back.
    Taken,
    /// It was started there.
    Running,
    /// A process there is still at work on it. Ask again.
    Busy,
    /// There is no record of this migration there, so nothing can take it.
    Unknown,
}
