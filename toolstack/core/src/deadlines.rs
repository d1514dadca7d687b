//! Deadlines, and how they relate.

use std::time::Duration;

/// Longest time in which no byte moves on a data connection or to or from libxl, while the control
/// channel is alive. A guest may take libxl's 60 s to acknowledge a suspend and 60 s more to carry
/// it out.
pub const STALL_PATIENCE: Duration = Duration::from_secs(180);
