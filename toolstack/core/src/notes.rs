//! Notes: what libxl reports while it saves or restores a domain.

use std::sync::mpsc::Sender;
use std::time::Instant;

use crate::steering::Walker;

/// Something that libxl reported while an operation ran.
#[derive(Clone, Debug)]
pub struct Note {
    /// When it was reported, on this host's monotonic clock.
    pub at: Instant,
    pub what: NoteKind,
}

/// What libxl reports while it saves or restores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// libxc's progress: `what` is one of xg_sr_save.c's strings, such as `Frames iteration 2`;
    /// counts are pfns. Single events carry 0 of 0.
    Progress {
        what: String,
        /// Number of pfns handled in this iteration: 0 when it begins, `total` when it ends. What
        /// lies between is not reported.
        done: u64,
        /// Number of pfns in this iteration: the dirty count when it began.
        total: u64,
    },
    /// libxl asked the guest to suspend (it wrote `control/shutdown`).
    SuspendRequested,
    /// The guest acknowledged the request.
    SuspendAcknowledged,
    /// The guest's vCPUs have stopped.
    Suspended,
    /// What reads the domain's memory, once that is known.
    Walker(Walker),
    /// Xen keeps free what a domain that is being restored will take.
    MemoryClaimed,
    /// A log line of libxl's, of level warning or worse, for people.
    Message(String),
}

/// The sender of notes. Sending never blocks.
pub type Notes = Sender<Note>;
