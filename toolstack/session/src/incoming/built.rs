//! A domain that is complete here, and paused.

use std::time::Instant;

use crate::incoming::ledger::TargetLedger;
use rxl_core::domain::DomId;
use rxl_host::guard_line::{Guard, Word};
use rxl_host::host::Host;

/// A domain that is complete here and paused, under the name that it was built with.
pub struct Built<'a> {
    pub host: &'a dyn Host,
    pub domid: DomId,
    pub name: String,
    /// When libxl was asked to restore.
    pub began: Instant,
    /// When libxl had restored.
    pub restored_at: Instant,
    pub ledger: TargetLedger,
    pub(super) guard: Guard,
}

impl Built<'_> {
    /// The record is settled: nothing is left for the guard.
    pub fn settled(&self) {
        self.guard.tell(&Word::Done);
    }
}
