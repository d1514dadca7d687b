//! The levels of `--mpi-quiesce`.

use serde::{Deserialize, Serialize};

/// Who is held still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Nobody.
    Off,
    /// The ranks of what moves.
    Domain,
    /// All ranks of its job, on all hosts. If that cannot be, it moves without.
    Job,
    /// As job; if that cannot be, nothing moves.
    Require,
}
