//! Why a host did not do what was asked.

use std::error::Error;

/// What an operation of a host failed of.
type Cause = Box<dyn Error + Send + Sync>;

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
    NoXen(#[source] Cause),
    /// The operation failed: its name, what libxl returned and its last error lines.
    #[error("{operation} failed: {source}")]
    Failed {
        /// In libxl's terms, where libxl made it.
        operation: &'static str,
        /// What libxl said, or why rxl's own part failed.
        source: Cause,
    },
}

impl HostError {
    /// There is no Xen here that can be driven, for this reason.
    pub fn no_xen(cause: impl Into<Cause>) -> Self {
        Self::NoXen(cause.into())
    }

    /// An operation failed for this reason.
    pub fn failed(operation: &'static str, cause: impl Into<Cause>) -> Self {
        Self::Failed { operation, source: cause.into() }
    }
}
