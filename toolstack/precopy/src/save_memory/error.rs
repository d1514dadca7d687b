//! Why a guest's memory could not be saved.

use migrate_stream::libxc::BodyError;

use crate::Cause;
use rxl_core::steering::SuspendRefused;
use rxl_datapath::feed::FeedError;

/// Why a guest's memory could not be saved. Displays as one line.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// Xen has refused something of the guest.
    #[error(transparent)]
    Guest(Cause),
    /// Who steers the save does not allow the suspend.
    #[error(transparent)]
    NotAllowed(SuspendRefused),
    /// The guest could not be suspended.
    #[error(transparent)]
    Suspend(Cause),
    #[error("the guest has not suspended")]
    NotSuspended,
    #[error("page {0:#x} cannot be mapped")]
    Unmappable(u64),
    #[error("stopped as the policy demands")]
    Policy,
    #[error("more iterations than can be counted")]
    Endless,
    #[error("given up")]
    GivenUp,
    #[error(transparent)]
    Record(#[from] BodyError),
    #[error(transparent)]
    Feed(#[from] FeedError),
}

impl SaveError {
    pub(super) fn guest(error: impl Into<Cause>) -> Self {
        Self::Guest(error.into())
    }
}
