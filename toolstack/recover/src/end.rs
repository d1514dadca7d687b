//! How a record ended, in words.

use std::fmt;

use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_handover::JournalError;

/// What became of a domain, as this host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The record had ended before.
    Before,
    /// The domain runs here, as it did before the migration.
    RunsOn(String),
    /// The domain runs here: it has arrived.
    Arrived(String),
    /// The domain belongs to the other host, and the copy here is destroyed.
    Released(String),
    /// The copy here was not to run, and is destroyed.
    Discarded(String),
    /// The host lost its power meanwhile: the domain was booted from its disk.
    Booted(String),
    /// Nothing is left here to decide about.
    NothingLeft(String),
    /// It cannot be decided now.
    Waits(String),
    /// rxl cannot decide it: what the other side speaks has no question for it.
    Person {
        /// What is known.
        what: String,
        /// What the person can do.
        next: String,
    },
}

impl End {
    /// The line that tells it, without what a person can do. Empty where there is nothing to tell.
    pub fn line(&self) -> &str {
        match self {
            Self::Before => "",
            Self::RunsOn(line)
            | Self::Arrived(line)
            | Self::Released(line)
            | Self::Discarded(line)
            | Self::Booted(line)
            | Self::NothingLeft(line)
            | Self::Waits(line) => line,
            Self::Person { what, .. } => what,
        }
    }

    /// Whether somebody has to look at it again.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Waits(_) | Self::Person { .. })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.line())?;
        match self {
            Self::Person { next, .. } => write!(f, "; {next}"),
            _ => Ok(()),
        }
    }
}

/// Why a record could not be settled.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The record could not be read or changed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The host could not do to the domain what is to be done.
    #[error("{0}")]
    Host(#[from] HostError),
    /// Others change the record whenever it is looked at.
    #[error("the record changes all the time")]
    Restless,
}

impl From<RecoverError> for Failure {
    fn from(error: RecoverError) -> Self {
        Self::new(Exit::Undecided, error.to_string()).caused_by(error)
    }
}
