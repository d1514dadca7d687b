//! How a save is made, and the decisions about it while it runs.

use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// How to save (libxl's `LIBXL_SUSPEND_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveFlags {
    /// Copy memory while the guest runs.
    pub live: bool,
    /// Send all memory again after the suspend, for the receiver to compare (`xl migrate --debug`).
    pub debug: bool,
}

/// What is known when a live iteration has been made and the next one might be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrecopyStats {
    /// Live iterations made.
    pub iteration: u32,
    /// Pages sent in all of them.
    pub written: u64,
    /// Pages dirty now: those of the next iteration.
    pub dirty: u64,
}

/// The decision after a live iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Another iteration while the guest runs.
    Continue,
    /// Suspend the guest and send the rest.
    StopAndCopy,
    /// End the save; the guest runs on.
    Abort,
}

/// Decides about a save while it runs. The methods are called on threads of the save, which wait
/// for the answer.
pub trait Steering: Send {
    /// After each live iteration, when it is known what was dirtied meanwhile.
    fn precopy(&mut self, stats: &PrecopyStats) -> Decision;

    /// Whether pre-copy must end now, without waiting for the end of the iteration.
    fn is_due(&self) -> bool;

    /// Called right before the guest is asked to suspend. On an error it is not asked, and the save
    /// fails.
    fn suspend(&mut self) -> Result<(), SuspendRefused>;
}

/// Why a guest must not be asked to suspend.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SuspendRefused {
    /// The session has ended the save.
    #[error("{0}")]
    Session(#[source] Failure),
    /// The session has not answered in time, or is gone.
    #[error("the session has not allowed it")]
    Unanswered,
}

/// Steers as libxl does without a decision of rxl's: pre-copy goes on until libxl ends it.
pub struct Unsteered;

impl Steering for Unsteered {
    fn precopy(&mut self, _stats: &PrecopyStats) -> Decision {
        Decision::Continue
    }

    fn is_due(&self) -> bool {
        false
    }

    fn suspend(&mut self) -> Result<(), SuspendRefused> {
        Ok(())
    }
}

/// What reads the guest's memory during a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Walker {
    /// rxl itself; PVH and HVM guests.
    Rxl,
    /// libxenguest's xc_domain_save, in rxl's save helper; every guest.
    Libxc,
    /// libxl's own save helper, with its own policy: five iterations, or fewer than 50 dirty pages.
    Stock,
}

/// What writes the memory of a domain that is being received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restorer {
    /// rxl itself, while libxl attaches the domain's devices; PVH guests.
    Rxl,
    /// libxl's own save helper, before libxl attaches them; every guest.
    Libxc,
}
