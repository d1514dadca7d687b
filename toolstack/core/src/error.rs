//! Failures as the user meets them: one line that says what, where and what to do next, and an exit
//! code of its own.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::host_error::HostError;
use crate::text::one_line;

/// How `rxl` ends. The numbers are part of the interface: scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Success = 0,
    /// rxl itself failed before anything happened to the domain: a file, a socket, a thread.
    Internal = 1,
    /// The command line was wrong (clap's code).
    Usage = 2,
    /// This host has no Xen that rxl can drive, or the caller is not root.
    NoXen = 3,
    /// This host has no domain of that name or domid.
    NoSuchDomain = 4,
    /// The domain is not in a state in which it can be migrated.
    DomainState = 5,
    /// This kind of guest cannot be migrated that way here.
    GuestUnsupported = 6,
    /// A migration of this domain, or of its MPI job, is already running.
    Busy = 7,
    /// The target could not be reached.
    Unreachable = 8,
    /// The target was reached, and has no rxl, or one that speaks another protocol.
    NoPeer = 9,
    /// The target refused: no memory, a name that is taken, another Xen.
    Refused = 10,
    /// The migration failed before it was committed. The domain runs on at the source.
    FailedSourceRuns = 11,
    /// Cancelled as asked. The domain runs on at the source.
    Cancelled = 12,
    /// The other host cannot be reached now, so it is not decided where the domain runs. Nothing is
    /// lost; `rxl recover` goes on by itself.
    Undecided = 13,
    /// The domain moved and runs at the target, or is saved, but something after it failed (a
    /// report that could not be written).
    MovedWithWarnings = 14,
    /// A stream or a saved domain that was to be looked at breaks a rule of its format, or ends
    /// early.
    BadStream = 15,
}

impl Exit {
    /// All codes with their meanings. `--help` and the man pages print this table, and a test
    /// compares the one in README.md with it.
    pub const TABLE: &[(Exit, &'static str)] = &[
        (Exit::Success, "done"),
        (Exit::Internal, "rxl failed before anything happened to the domain"),
        (Exit::Usage, "wrong command line"),
        (Exit::NoXen, "no Xen here that rxl can drive, or not root"),
        (Exit::NoSuchDomain, "no such domain"),
        (Exit::DomainState, "the domain is paused, dying, or otherwise not to be migrated now"),
        (Exit::GuestUnsupported, "this kind of guest cannot be migrated that way here"),
        (Exit::Busy, "a migration of this domain, or of its MPI job, is already running"),
        (Exit::Unreachable, "the target cannot be reached"),
        (Exit::NoPeer, "no rxl on the target, or one that speaks another protocol"),
        (Exit::Refused, "the target refused"),
        (
            Exit::FailedSourceRuns,
            "failed before it was committed; the domain runs on at the source",
        ),
        (Exit::Cancelled, "cancelled; the domain runs on at the source"),
        (
            Exit::Undecided,
            "the other host cannot be reached now; `rxl recover` decides once it can",
        ),
        (
            Exit::MovedWithWarnings,
            "the domain runs at the target or is saved, but something after that failed",
        ),
        (Exit::BadStream, "the stream or saved domain is damaged"),
    ];

    /// The process's exit status.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// A failure as the user sees it. Displays as one line: what, where, and what to do next.
///
/// Errors of every crate are converted to it where a command returns. Two failures are equal when
/// the user would see the same; the source is for logs.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The exit code that rxl ends with.
    pub exit: Exit,
    /// What went wrong, and where. One line.
    pub what: String,
    /// What the user can do next, when rxl knows.
    pub next: Option<String>,
    /// The error that this failure was made from, where there is one. Its text is part of `what`.
    pub source: Option<Arc<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure without advice.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: one_line(&what.into()), next: None, source: None }
    }

    /// Keeps the error that led to this failure, for logs. The line for the user stays the same.
    #[must_use]
    pub fn caused_by(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Puts the place or the operation in front of the text.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.what = format!("{context}: {}", self.what);
        self
    }

    /// The same failure with another exit code.
    #[must_use]
    pub fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// An I/O error on this host before anything has happened to the domain.
    pub fn internal(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(Exit::Internal, format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.next {
            Some(next) => write!(f, "; {next}"),
            None => Ok(()),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn Error + 'static))
    }
}

impl PartialEq for Failure {
    fn eq(&self, other: &Self) -> bool {
        (self.exit, &self.what, &self.next) == (other.exit, &other.what, &other.next)
    }
}

impl Eq for Failure {}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let exit = match &error {
            HostError::NoSuchDomain(_) => Exit::NoSuchDomain,
            HostError::NameTaken(_) | HostError::NoMemory(_) => Exit::Refused,
            HostError::Aborted(_) => Exit::Cancelled,
            HostError::NoXen(_) => Exit::NoXen,
            HostError::Failed { .. } => Exit::FailedSourceRuns,
        };
        Self::new(exit, error.to_string()).caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_all_in_the_table() {
        let codes: Vec<u8> = Exit::TABLE.iter().map(|(exit, _)| exit.code()).collect();
        assert_eq!(codes, (0..=15).collect::<Vec<u8>>());
    }

    #[test]
    fn a_source_is_kept_and_does_not_change_the_line() {
        let error = HostError::failed("save", "disk full");
        let failure = Failure::from(error).context("dom3").next("free some space");
        assert_eq!(failure.to_string(), "dom3: save failed: disk full; free some space");
        assert_eq!(
            failure.source().map(ToString::to_string).as_deref(),
            Some("save failed: disk full")
        );
        assert_eq!(Failure { source: None, ..failure.clone() }, failure);
    }

    #[test]
    fn hostile_text_stays_on_one_line() {
        assert_eq!(one_line("a\nb\x1b[31m\r\n"), "a b [31m");
        assert_eq!(one_line(&"x".repeat(5000)).len(), 1000);
    }
}
