//! Why a host did not do what was asked.

/// Why a host did not do what was asked. One line: what, where and, when known, why.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No domain of that name or number.
    #[error("no domain {0} here; `xl list` shows those that are")]
    NoSuchDomain(String),
    /// There is a domain of that name already.
    #[error("a domain named {0} is here already")]
    NameTaken(String),
    /// The operation was aborted as asked.
    #[error("{0} was aborted")]
    Aborted(&'static str),
    /// Xen or its toolstack is not there, not reachable or not the one that rxl was built for.
    #[error("{0}")]
    NoXen(String),
    /// The operation failed: its name, what libxl returned and its last error lines.
    #[error("{operation} failed: {reason}")]
    Failed {
        /// Which, in libxl's terms.
        operation: &'static str,
        /// What libxl said.
        reason: String,
    },
}
