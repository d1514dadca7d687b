//! What the target measured of a migration.

use serde::{Deserialize, Serialize};

use crate::steering::Restorer;

/// Spans that the target measured on its own clock, ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TargetSpans {
    /// The domain's number there.
    pub domid: u32,
    /// Who filled its memory.
    pub restorer: Restorer,
    /// Start of `libxl_domain_create_restore` to a complete domain: nearly all of it while the
    /// guest still runs at the source.
    pub restore_total: f64,
    /// Last byte of the stream taken to a complete domain: within the blackout.
    pub restore_after_stream: f64,
    /// GO received to unpaused; 0 in READY.
    pub resume: f64,
    /// Frames whose checksum was verified.
    pub frames_verified: u64,
}
