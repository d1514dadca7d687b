//! The header that libvirt's driver for libxl puts before a libxl stream in a file of `virsh save`
//! (libvirt's src/libxl/libxl_conf.h: `libxlSavefileHeader`).
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 16 | magic, `libvirt-xml\n \0 \r` |
//! | 16 | 4 | version: 2 where a libxl stream follows, 1 before Xen 4.6 |
//! | 20 | 4 | length of the XML that follows, in bytes, with its closing NUL |
//! | 24 | 40 | unused, 0 |
//!
//! Integers are in the saver's byte order; only little-endian savers are read.

use crate::fields::{Builder, Fields};

/// The first 16 bytes of a header.
pub const MAGIC: [u8; 16] = *b"libvirt-xml\n \0 \r";

/// Length of a header in bytes.
pub const HEADER_LEN: usize = 64;

/// The longest XML that is accepted, in bytes. libvirt has no bound; a domain's takes a few KiB.
pub const MAX_XML: u32 = 16 << 20;

/// The version behind whose XML a libxl stream follows.
const VERSION: u32 = 2;

/// Why a header, or the XML behind it, was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LibvirtError {
    #[error("no libvirt save header (its magic is missing)")]
    Magic,
    /// The stream is of the legacy format, before Xen 4.6.
    #[error("the stream is in the legacy format (version 1)")]
    Legacy,
    #[error("version {0}, expected 2")]
    Version(u32),
    /// The XML is longer than [`MAX_XML`].
    #[error("XML of {0} bytes, at most {MAX_XML} are accepted")]
    TooLong(u32),
    #[error("the XML does not end with its only NUL")]
    NotTerminated,
    #[error("the XML is not UTF-8")]
    NotUtf8,
}

/// A header that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the XML in bytes, with its NUL.
    pub xml_len: u32,
}

impl Header {
    /// Parses a header and checks every field but the unused ones.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, LibvirtError> {
        let fields = Fields(bytes);
        if fields.array::<0, 16>() != MAGIC {
            return Err(LibvirtError::Magic);
        }
        match (fields.le32::<16>(), fields.le32::<20>()) {
            (1, _) => Err(LibvirtError::Legacy),
            (VERSION, xml_len) if xml_len > MAX_XML => Err(LibvirtError::TooLong(xml_len)),
            (VERSION, xml_len) => Ok(Self { xml_len }),
            (version, _) => Err(LibvirtError::Version(version)),
        }
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let magic = Builder::new().put::<0, 16>(MAGIC);
        magic.put::<16, 4>(VERSION.to_le_bytes()).put::<20, 4>(self.xml_len.to_le_bytes()).bytes()
    }
}

/// The XML's text without its NUL.
pub fn xml(bytes: &[u8]) -> Result<&str, LibvirtError> {
    let text = bytes.strip_suffix(&[0]).filter(|text| !text.contains(&0));
    std::str::from_utf8(text.ok_or(LibvirtError::NotTerminated)?).map_err(|_| LibvirtError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let header = Header { xml_len: 7 };
        assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
        assert_eq!(xml(b"<a/>\0"), Ok("<a/>"));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let bytes = |version: u32, length: u32| {
            let mut bytes = Header { xml_len: length }.to_bytes();
            bytes[16..20].copy_from_slice(&version.to_le_bytes());
            bytes
        };
        assert_eq!(Header::parse(&[0; 64]), Err(LibvirtError::Magic));
        assert_eq!(Header::parse(&bytes(1, 5)), Err(LibvirtError::Legacy));
        assert_eq!(Header::parse(&bytes(3, 5)), Err(LibvirtError::Version(3)));
        assert_eq!(Header::parse(&bytes(2, u32::MAX)), Err(LibvirtError::TooLong(u32::MAX)));
        for bad in [b"<a/>".as_slice(), b"<a\0/>\0", b""] {
            assert_eq!(xml(bad), Err(LibvirtError::NotTerminated), "{bad:?}");
        }
        assert_eq!(xml(b"\xff\0"), Err(LibvirtError::NotUtf8));
    }
}
