//! The errors of operations on a host.

/// The error of an operation on a host. Its text is one line: what failed, where and, if known,
/// why.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The host has no domain of that name or domid.
    #[error("no domain {0} here; `xl list` shows those that are")]
    NoSuchDomain(String),
    /// Another domain has that name already.
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
        /// The operation's name in libxl's terms.
        operation: &'static str,
        /// libxl's return code and its last error lines.
        reason: String,
    },
}
