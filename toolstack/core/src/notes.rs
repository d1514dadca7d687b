//! What libxl tells while it saves or restores a domain.

use std::sync::mpsc::Sender;
use std::time::Instant;

use crate::steering::Walker;

/// Something that libxl told while an operation ran, with the time at which it was told.
#[derive(Clone, Debug)]
pub struct Note {
    /// This host's monotonic clock.
    pub at: Instant,
    /// What was told.
    pub what: NoteKind,
}

/// What libxl tells while it saves or restores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// libxc's progress: `what` is one of xg_sr_save.c's strings, such as `Frames iteration 2`;
    /// counts are pfns. Single events carry 0 of 0.
    Progress {
        /// The string.
        what: String,
        /// pfns handled so far in this iteration: none when it begins, all when it ends; what lies
        /// between is not told.
        done: u64,
        /// pfns of this iteration: the dirty count when the iteration began.
        total: u64,
    },
    /// libxl asked the guest to suspend (it wrote `control/shutdown`).
    SuspendRequested,
    /// The guest acknowledged the request.
    SuspendAcknowledged,
    /// The guest's vCPUs have stopped.
    Suspended,
    /// Who walks over the memory, once that is known.
    Walker(Walker),
    /// A log line of libxl's, of level warning or worse, for people.
    Message(String),
}

/// Where notes go. Sending never blocks.
pub type Notes = Sender<Note>;
