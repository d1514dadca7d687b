//! Why a data path broke, and whose fault that is.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use migrate_stream::frame::FrameError;
use migrate_stream::libxc::BodyError;
use migrate_stream::reader::StreamError;

use crate::backlog::BacklogError;
use crate::codec::{DecodeError, EncodeError};
use rxl_core::worker::{Panicked, catch};

/// Whose fault it is that a data path broke: who is asked for the reason behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// libxl's pipe ended early, was not read, or held a malformed stream.
    Libxl,
    /// A data connection failed, or something wrong came over it.
    Peer,
    /// rxl itself failed on this host.
    Here,
}

/// An error of another crate, shared by the threads that tell it.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Why a data path broke. Displays as one line.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Broken {
    #[error("libxl's stream: {0}")]
    LibxlRead(#[source] Arc<io::Error>),
    #[error("libxl stopped reading its stream: {0}")]
    LibxlWrite(#[source] Arc<io::Error>),
    #[error(transparent)]
    LibxlStream(#[from] StreamError),
    #[error("PAGE_DATA before {offset}: {error}")]
    LibxlPages {
        /// Offset of the record's end in libxl's stream, in bytes.
        offset: u64,
        #[source]
        error: BodyError,
    },
    #[error("libxl wrote more after its stream's end at {offset}")]
    LibxlTail {
        /// Length of the complete stream, in bytes.
        offset: u64,
    },
    #[error("libxl's stream was cut")]
    LibxlCut,
    #[error(transparent)]
    Libxl(Cause),

    #[error("data connection: {0}")]
    Connection(#[source] Arc<io::Error>),
    #[error("a data connection was cut")]
    ConnectionCut,
    /// The one connection to a peer that knows no frames.
    #[error("the connection: {0}")]
    PlainConnection(#[source] Arc<io::Error>),
    #[error("data connection: {0}")]
    FrameHeader(#[source] FrameError),
    #[error("frame {sequence}: {error}")]
    Frame {
        sequence: u64,
        #[source]
        error: DecodeError,
    },
    #[error("frame {sequence} came twice")]
    FrameTwice { sequence: u64 },
    #[error("frames are missing")]
    FramesMissing,
    #[error(transparent)]
    EndFrame(DecodeError),
    #[error("two data connections end with different totals")]
    Totals,
    #[error(transparent)]
    Peer(Cause),

    #[error(transparent)]
    Backlog(#[from] BacklogError),

    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A decoder could not be made.
    #[error(transparent)]
    Decoder(DecodeError),
    #[error("rxl's own stream: {0}")]
    OwnStream(#[source] StreamError),
    #[error("the data path was given up")]
    GivenUp,
    #[error(transparent)]
    Panicked(#[from] Panicked),
    #[error(transparent)]
    Here(Cause),
}

impl Broken {
    /// An error of another crate that libxl is to be asked about.
    pub fn libxl(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Libxl(Arc::from(error.into()))
    }

    /// An error of another crate that the peer is to be asked about.
    pub fn peer(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Peer(Arc::from(error.into()))
    }

    /// An error of another crate that nobody else knows more of.
    pub fn here(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Here(Arc::from(error.into()))
    }

    /// Whose fault it is.
    pub fn at(&self) -> At {
        match self {
            Self::LibxlRead(_)
            | Self::LibxlWrite(_)
            | Self::LibxlStream(_)
            | Self::LibxlPages { .. }
            | Self::LibxlTail { .. }
            | Self::LibxlCut
            | Self::Libxl(_) => At::Libxl,
            Self::Connection(_)
            | Self::ConnectionCut
            | Self::PlainConnection(_)
            | Self::FrameHeader(_)
            | Self::Frame { .. }
            | Self::FrameTwice { .. }
            | Self::FramesMissing
            | Self::EndFrame(_)
            | Self::Totals
            | Self::Peer(_)
            | Self::Backlog(BacklogError::Stalled { .. }) => At::Peer,
            Self::Backlog(BacklogError::GivenUp { .. })
            | Self::Encode(_)
            | Self::Decoder(_)
            | Self::OwnStream(_)
            | Self::GivenUp
            | Self::Panicked(_)
            | Self::Here(_) => At::Here,
        }
    }
}

/// Runs one thread's part of a data path. A panic breaks the path like any failure, so that the
/// other threads are stopped and the session hears of it.
pub(crate) fn caught<T>(
    name: &'static str,
    work: impl FnOnce() -> Result<T, Broken>,
) -> Result<T, Broken> {
    catch(name, work)?
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
        assert_eq!((broken.at(), broken.to_string()), (At::Here, "work panicked: no frame".into()));
    }

    #[test]
    fn an_error_keeps_its_line_and_its_source() {
        let refused = || io::Error::other("refused");
        let broken = Broken::Connection(Arc::new(refused()));
        assert_eq!(broken.to_string(), "data connection: refused");
        assert_eq!(broken.source().unwrap().to_string(), "refused");
        assert_eq!(broken.at(), At::Peer);
        assert_eq!(Broken::libxl("no pages").to_string(), "no pages");
    }
}
