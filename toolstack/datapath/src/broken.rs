//! Why a data path broke.

use std::sync::{Mutex, PoisonError};

use rxl_core::worker::catch;

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

/// Runs one thread's part of a data path. A panic breaks the path like any failure, so that the
/// other threads are stopped and the session hears of it.
pub(crate) fn caught<T>(
    name: &'static str,
    work: impl FnOnce() -> Result<T, Broken>,
) -> Result<T, Broken> {
    catch(name, work).unwrap_or_else(|panicked| Err(Broken::here(panicked.to_string())))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_breaks_the_path() {
        let broken = caught("work", || -> Result<(), Broken> { panic!("no frame") }).unwrap_err();
        assert_eq!(broken, Broken::here("work panicked: no frame"));
    }
}
