//! Why the helper could not do its part.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::growth::GrowthError;
use rxl_core::json_lines::JsonLineError;
use rxl_xen::{ClaimError, Failure, LibraryError};

/// Why the helper could not do its part. Each displays as one line.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelperError {
    #[error("no session at {}: {source}", socket.display())]
    NoSession { socket: PathBuf, source: JsonLineError },
    #[error("the session is gone ({0})")]
    SessionGone(#[source] JsonLineError),
    #[error("the session said {0} at first")]
    OutOfTurn(String),
    #[error("the session has given the restore up")]
    GivenUp,
    #[error(transparent)]
    Library(#[from] LibraryError),
    #[error("libxl: {0}")]
    Libxl(#[source] io::Error),
    #[error("libxl is gone ({0})")]
    LibxlGone(#[source] io::Error),
    #[error("libxl cannot complete the CPU policy")]
    NoCpuPolicy,
    #[error("ended by libxl while the guest was being suspended")]
    EndedInSuspend,
    #[error("the stock helper cannot be started")]
    NoStockHelper,
    #[error("SIGTERM cannot be waited for: {}", .0.desc())]
    Signal(#[source] Errno),
    #[error(transparent)]
    Xen(#[from] Failure),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Growth(#[from] GrowthError),
    #[error("{name}={value}: {wanted}")]
    Variable { name: String, value: String, wanted: &'static str },
    #[error("{}: {source}", path.display())]
    Report { path: PathBuf, source: io::Error },
}
