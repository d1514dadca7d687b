//! What is wrong with a stream, and where.

use std::fmt;

use crate::libxc::{self, BodyError};
use crate::order::OrderError;
use crate::{libxl, xl};

/// The part of a stream in which an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    XlHeader,
    XlOptionalData,
    LibvirtHeader,
    LibvirtXml,
    LibxlHeader,
    /// The header of a libxl record, of which not all bytes have come.
    LibxlRecordHeader,
    /// A libxl record of this type, from its header to its padding.
    Libxl(libxl::RecordType),
    ImageHeader,
    DomainHeader,
    /// The header of a libxc record, of which not all bytes have come.
    LibxcRecordHeader,
    /// A libxc record of this type, from its header to its padding.
    Libxc(libxc::RecordType),
    /// Behind the last record.
    End,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::XlHeader => "xl save header",
            Self::XlOptionalData => "xl configuration",
            Self::LibvirtHeader => "libvirt save header",
            Self::LibvirtXml => "libvirt XML",
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

/// What is wrong with the part of the stream that a [`Place`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Xl(#[from] xl::XlError),
    #[error("{0}")]
    LibxlHeader(#[from] libxl::HeaderError),
    /// The image header or the domain header is malformed.
    #[error("{0}")]
    LibxcHeader(#[from] libxc::HeaderError),
    /// The record has a length that its type does not allow.
    #[error("{0}")]
    Body(#[from] BodyError),
    /// The record may not come here.
    #[error("{0}")]
    Order(#[from] OrderError),
    /// The record's type is not known. Only libxc's optional records may be ignored.
    #[error("not known and not optional")]
    UnknownRecord,
    #[error("padding is not zero")]
    Padding,
    /// The input ended before the stream did.
    #[error("the stream ends at byte {at}, {missing} bytes or more are missing")]
    Truncated {
        /// Length of the input in bytes.
        at: u64,
        /// Least number of bytes that are missing.
        missing: u64,
    },
}

/// Where a stream is malformed or truncated, and how. Its text is one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place} at byte {offset}: {problem}")]
pub struct StreamError {
    /// The header or record that is malformed.
    pub place: Place,
    /// Offset of that header or record in the stream, in bytes.
    pub offset: u64,
    /// What is wrong with it. It is no `source()`, because the message holds it.
    pub problem: Problem,
}
