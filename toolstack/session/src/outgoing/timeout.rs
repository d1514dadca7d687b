//! What `--timeout` does, and when.

use std::time::Instant;

use rxl_core::error::{Exit, Failure};
use rxl_precopy::policy::{Limits, Otherwise};

/// When `--timeout` cancels the migration, or forces the suspend. The default does neither.
#[derive(Default)]
pub struct Timeout {
    cancel_at: Option<Instant>,
    force_at: Option<Instant>,
}

impl Timeout {
    /// Counted from the migration's beginning.
    pub fn new(limits: &Limits, began: Instant) -> Self {
        let at = |what| {
            limits.timeout.filter(|_| limits.on_timeout == what).map(|timeout| began + timeout)
        };
        Self { cancel_at: at(Otherwise::Cancel), force_at: at(Otherwise::Force) }
    }

    /// The earlier of the deadline and the moment at which everything is cancelled.
    pub fn or(&self, deadline: Instant) -> Instant {
        self.cancel_at.map_or(deadline, |at| at.min(deadline))
    }

    /// Fails when everything is to be cancelled.
    pub fn check(&self) -> Result<(), Failure> {
        if self.cancel_at.is_some_and(|at| Instant::now() >= at) {
            return Err(Failure::new(Exit::Cancelled, "cancelled, as --timeout has passed"));
        }
        Ok(())
    }

    /// Whether pre-copy is to end now. True once.
    pub fn forces_suspend(&mut self) -> bool {
        self.force_at.take_if(|at| Instant::now() >= *at).is_some()
    }
}
