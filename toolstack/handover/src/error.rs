//! Why a record could not be made, read or changed.

use std::io;
use std::path::PathBuf;

use rxl_core::error::{Exit, Failure};

use crate::OutOfOrder;

/// Why a record could not be made, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk or the file.
    #[error("{}: {error}", path.display())]
    Io {
        /// The record, or the journal's directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// Its beginning is no record's.
    #[error("{}: cannot be understood", .0.display())]
    Unreadable(PathBuf),
    /// The journal's directory is not there, so that nothing can be said of a migration.
    #[error("{} is not there: it may be on a file system that is not mounted yet", .0.display())]
    NotThere(PathBuf),
    /// Somebody else has decided otherwise.
    #[error(transparent)]
    OutOfOrder(#[from] OutOfOrder),
    /// A migration's id is 32 hexadecimal digits.
    #[error("'{0}' is no id of a migration")]
    NoId(String),
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self::new(Exit::Internal, format!("the journal: {error}")).caused_by(error)
    }
}
