//! The spans of a migration that the target measures.

use serde::{Deserialize, Serialize};

use crate::steering::Restorer;

/// Spans that the target measured on its own clock, ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TargetSpans {
    /// The domain's domid at the target.
    pub domid: u32,
    /// What wrote the domain's memory.
    pub restorer: Restorer,
    /// From the start of `libxl_domain_create_restore` to a complete domain. Nearly all of it
    /// passes while the guest still runs at the source.
    pub restore_total: f64,
    /// From the last byte of the stream to a complete domain, within the blackout.
    pub restore_after_stream: f64,
    /// From GO to the unpaused domain; 0 in READY, which comes before.
    pub resume: f64,
    /// Number of frames whose checksum was verified.
    pub frames_verified: u64,
}
