//! Why a stream could not be loaded.

use migrate_stream::libxc::{BodyError, RecordType};
use migrate_stream::libxl;
use migrate_stream::reader::StreamError;

use crate::Cause;

/// Why no guest could be made from a stream. Displays as one line.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("bytes after the stream's end")]
    Tail,
    #[error("the stream of a PV guest, for a domain that is none")]
    PvGuest,
    #[error("record {0:?}, which no PVH guest has")]
    LibxlRecord(libxl::RecordType),
    #[error("record {0:?}, which rxl's own restore does not know")]
    Record(RecordType),
    #[error("{0:?} before STATIC_DATA_END")]
    TooEarly(RecordType),
    #[error("{record_type:?} of {length} bytes in pieces")]
    TooLong {
        record_type: RecordType,
        /// Length of the whole body in bytes, as its header says.
        length: u32,
    },
    #[error("{record_type:?}: {error}")]
    Body {
        record_type: RecordType,
        #[source]
        error: BodyError,
    },
    #[error("xenstore's and the console's page are both {0:#x}")]
    SameSpecialPages(u64),
    #[error("PAGE_DATA of {count} page numbers, at most {most} are expected")]
    TooManyPages { count: usize, most: usize },
    #[error("page {0:#x} is a PV guest's page table")]
    PageTable(u64),
    #[error("parameter {index} is {value:#x}, it was announced as {announced:#x}")]
    Parameter { index: u64, value: u64, announced: u64 },
    #[error("the stream ends without the guest's state")]
    NoState,
    /// Xen has refused something of the guest that is built.
    #[error(transparent)]
    Guest(Cause),
    /// libxl could not be told to go on.
    #[error(transparent)]
    Release(Cause),
}

impl LoadError {
    pub(super) fn guest(error: impl Into<Cause>) -> Self {
        Self::Guest(error.into())
    }
}
