//! What is wrong with a stream, and where.

use std::fmt;

use crate::libxc::{self, BodyError};
use crate::order::OrderError;
use crate::{libxl, xl};

/// The part of a stream that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// xl's save header.
    XlHeader,
    /// xl's optional data.
    XlOptionalData,
    /// The libxl stream's header.
    LibxlHeader,
    /// The header of a libxl record, not complete.
    LibxlRecordHeader,
    /// A libxl record.
    Libxl(libxl::RecordType),
    /// The libxc stream's image header.
    ImageHeader,
    /// The libxc stream's domain header.
    DomainHeader,
    /// The header of a libxc record, not complete.
    LibxcRecordHeader,
    /// A libxc record.
    Libxc(libxc::RecordType),
    /// After the last record.
    End,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::XlHeader => "xl save header",
            Self::XlOptionalData => "xl configuration",
            Self::LibxlHeader => "libxl stream header",
            Self::LibxlRecordHeader => "libxl record header",
            Self::Libxl(record_type) => return write!(f, "libxl record {record_type}"),
            Self::ImageHeader => "libxc image header",
            Self::DomainHeader => "libxc domain header",
            Self::LibxcRecordHeader => "libxc record header",
            Self::Libxc(record_type) => return write!(f, "libxc record {record_type}"),
            Self::End => "end of the stream",
        })
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// With xl's header.
    #[error("{0}")]
    Xl(#[from] xl::XlError),
    /// With the libxl stream's header.
    #[error("{0}")]
    LibxlHeader(#[from] libxl::HeaderError),
    /// With the libxc stream's image or domain header.
    #[error("{0}")]
    LibxcHeader(#[from] libxc::HeaderError),
    /// With a record's length.
    #[error("{0}")]
    Body(#[from] BodyError),
    /// With a record's place.
    #[error("{0}")]
    Order(#[from] OrderError),
    /// The record is mandatory (or libxl's) and not known.
    #[error("not known and not optional")]
    UnknownRecord,
    /// Padding must be zero.
    #[error("padding is not zero")]
    Padding,
    /// The input ended.
    #[error("the stream ends at byte {at}, {missing} bytes or more are missing")]
    Truncated {
        /// Length of the input.
        at: u64,
        /// Bytes that are certainly missing.
        missing: u64,
    },
}

/// A malformed or truncated stream: where, and what is wrong. One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place} at byte {offset}: {problem}")]
pub struct StreamError {
    /// In which header or record.
    pub place: Place,
    /// Where that begins, in bytes from the stream's first.
    pub offset: u64,
    /// What is wrong with it. Not a source: the message holds it.
    pub problem: Problem,
}
