//! What a reader is given, and what it gives back.

use crate::{libxc, libxl, xl};

/// The outermost stream, with which the bytes begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// xl's save header: a save file, or what follows the banner of `xl migrate-receive`.
    XlFile,
    /// The libxl stream's header: what `libxl_domain_suspend` writes.
    Libxl,
    /// The libxc stream's image header: what `xc_domain_save` writes.
    Libxc,
}

/// A step through the stream. Offsets are in bytes from the stream's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    XlHeader(xl::Header),
    /// A piece of xl's optional data, not empty; [`xl::OptionalData`] parses the whole.
    XlOptionalData(&'a [u8]),
    /// The optional data, which may have been empty, is complete.
    XlOptionalEnd,
    LibxlHeader(libxl::Header),
    /// The header of a libxl record.
    LibxlRecord {
        header: libxl::RecordHeader,
        /// Offset of the header in the stream.
        offset: u64,
    },
    ImageHeader(libxc::ImageHeader),
    DomainHeader(libxc::DomainHeader),
    /// The header of a libxc record.
    LibxcRecord {
        header: libxc::RecordHeader,
        /// Offset of the header in the stream.
        offset: u64,
    },
    /// A piece of the last record's body, not empty.
    Body(&'a [u8]),
    /// The last record's body and padding are complete.
    RecordEnd,
    /// The outermost stream is complete. Comes once; the reader leaves what follows in the input.
    End,
}
