//! Why a data path broke.

use std::sync::{Mutex, PoisonError};

/// Whose fault it is that a data path broke: who is asked for the reason behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// libxl's pipe ended early, or was not read.
    Libxl,
    /// A data connection, or what came over it.
    Peer,
    /// rxl itself.
    Here,
}

/// Why a data path broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Where.
    pub at: At,
    /// One line.
    pub what: String,
}

impl Broken {
    /// At libxl's end.
    pub fn libxl(what: impl Into<String>) -> Self {
        Self { at: At::Libxl, what: what.into() }
    }

    /// At the peer's end.
    pub fn peer(what: impl Into<String>) -> Self {
        Self { at: At::Peer, what: what.into() }
    }

    /// In rxl.
    pub fn here(what: impl Into<String>) -> Self {
        Self { at: At::Here, what: what.into() }
    }
}

/// Reports the end of a data path exactly once: its first failure, at once, or its success when all
/// is done.
pub(crate) struct Verdict<T>(Mutex<Option<Report<T>>>);

type Report<T> = Box<dyn FnOnce(Result<T, Broken>) + Send>;

impl<T> Verdict<T> {
    pub(crate) fn new(report: impl FnOnce(Result<T, Broken>) + Send + 'static) -> Self {
        Self(Mutex::new(Some(Box::new(report))))
    }

    pub(crate) fn give(&self, result: Result<T, Broken>) {
        let report = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(report) = report {
            report(result);
        }
    }
}
