//! A domain that is complete here, and paused.

use std::time::Instant;

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
    pub(super) guard: Guard,
}

impl Built<'_> {
    /// Tells the guard what the domain is to become if rxl is killed.
    pub fn tell_guard(&self, word: &Word) {
        self.guard.tell(word);
    }
}
