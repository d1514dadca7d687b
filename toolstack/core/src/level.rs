//! The levels of `--mpi-quiesce`.

use serde::{Deserialize, Serialize};

/// The ranks that are frozen while a domain is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// No rank is frozen.
    Off,
    /// The ranks in the domains that are moved or saved.
    Domain,
    /// All ranks of the job, on all hosts. If they cannot be frozen, the domain moves without.
    Job,
    /// All ranks of the job, on all hosts. If they cannot be frozen, the domain does not move.
    Require,
}
