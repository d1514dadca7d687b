//! The errors of operations on a host.

use std::error::Error;

/// The error that made an operation of a host fail.
type Cause = Box<dyn Error + Send + Sync>;

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
    /// This host has not the memory that a domain will take, or cannot keep it free.
    #[error("{0}")]
    NoMemory(#[source] Cause),
    /// The operation was aborted as asked.
    #[error("{0} was aborted")]
    Aborted(&'static str),
    /// Xen or its toolstack is not there, not reachable or not the one that rxl was built for.
    #[error("{0}")]
    NoXen(#[source] Cause),
    /// The operation failed: its name, what libxl returned and its last error lines.
    #[error("{operation} failed: {source}")]
    Failed {
        /// The operation's name, in libxl's terms if libxl ran it.
        operation: &'static str,
        /// What libxl said, or why rxl's own part failed.
        source: Cause,
    },
}

impl HostError {
    /// The error of a host without a Xen that rxl can drive.
    pub fn no_xen(cause: impl Into<Cause>) -> Self {
        Self::NoXen(cause.into())
    }

    /// The error of a host without the memory, for this reason.
    pub fn no_memory(cause: impl Into<Cause>) -> Self {
        Self::NoMemory(cause.into())
    }

    /// The error of an operation that failed for this reason.
    pub fn failed(operation: &'static str, cause: impl Into<Cause>) -> Self {
        Self::Failed { operation, source: cause.into() }
    }
}
