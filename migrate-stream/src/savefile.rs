//! rxl's own file of a saved domain: the domain's configuration and its libxl stream, the latter in
//! [`crate::frame`]s.
//!
//! | offset | size | |
//! | --- | --- | --- |
//! | 0 | 24 | the header, below |
//! | 24 | config length | libxl's JSON, without a NUL |
//! | | | frames of kind *bytes* and *pages*, sequences from 0, each with the CRC-32 of what it stands for |
//! | | | the *end* frame: number of frames, of bytes, and the digest; nothing follows it |
//!
//! The header, **little-endian**:
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic, `RXLSAVE1` |
//! | 8 | 2 | version, 1 |
//! | 10 | 2 | flags, 0 |
//! | 12 | 4 | length of the configuration, 1 to 1 MiB |
//! | 16 | 4 | CRC-32 of the configuration |
//! | 20 | 4 | CRC-32 of the 20 bytes above |
//!
//! So all that is rebuilt from a file is covered by checksums, and a file that was cut off lacks
//! its end frame.

use crate::bytes::{array, le16, le32};
use crate::frame::crc;

/// What a file begins with.
pub const MAGIC: [u8; 8] = *b"RXLSAVE1";

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 24;

/// The longest configuration, in bytes. Those of guests with a dozen devices have less than 10 KiB.
pub const MAX_CONFIG: u32 = 1 << 20;

const VERSION: u16 = 1;

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveFileError {
    /// The first eight bytes are something else.
    #[error("no rxl save file (its magic is missing)")]
    Magic,
    /// The header's own checksum does not match.
    #[error("the header's CRC is {computed:08x}, it says {stored:08x}")]
    HeaderCrc {
        /// In the header.
        stored: u32,
        /// Of its bytes.
        computed: u32,
    },
    /// Not this version.
    #[error("version {0}, expected {VERSION}: saved by a later rxl")]
    Version(u16),
    /// Flags are set.
    #[error("unknown flags {0:#06x}")]
    Flags(u16),
    /// The configuration's length is out of bounds.
    #[error("a configuration of {0} bytes, expected 1 to {MAX_CONFIG}")]
    ConfigLength(u32),
    /// The configuration is not what was saved.
    #[error("the configuration's CRC is {computed:08x}, the header says {stored:08x}")]
    ConfigCrc {
        /// In the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The configuration is not UTF-8.
    #[error("the configuration is not UTF-8")]
    ConfigText,
}

/// A file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of configuration after it, at most [`MAX_CONFIG`].
    pub config_len: u32,
    config_crc32: u32,
}

impl Header {
    /// For a file with this configuration.
    pub fn new(config: &str) -> Result<Self, SaveFileError> {
        let config_len = u32::try_from(config.len()).unwrap_or(u32::MAX);
        check_config_length(config_len)?;
        Ok(Self { config_len, config_crc32: crc::hash(config.as_bytes()) })
    }

    /// Parses and checks a header: when it is good, its length may be allocated.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, SaveFileError> {
        if array::<8>(bytes, 0) != MAGIC {
            return Err(SaveFileError::Magic);
        }
        let (stored, computed) = (le32(bytes, 20), crc::hash(&bytes[..20]));
        if stored != computed {
            return Err(SaveFileError::HeaderCrc { stored, computed });
        }
        if le16(bytes, 8) != VERSION {
            return Err(SaveFileError::Version(le16(bytes, 8)));
        }
        if le16(bytes, 10) != 0 {
            return Err(SaveFileError::Flags(le16(bytes, 10)));
        }
        check_config_length(le32(bytes, 12))?;
        Ok(Self { config_len: le32(bytes, 12), config_crc32: le32(bytes, 16) })
    }

    /// The header's bytes, checksum included.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.config_len.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.config_crc32.to_le_bytes());
        let crc = crc::hash(&bytes[..20]);
        bytes[20..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Compares the configuration with the header, and gives its text.
    pub fn config<'a>(&self, bytes: &'a [u8]) -> Result<&'a str, SaveFileError> {
        let (stored, computed) = (self.config_crc32, crc::hash(bytes));
        if stored != computed {
            return Err(SaveFileError::ConfigCrc { stored, computed });
        }
        std::str::from_utf8(bytes).map_err(|_| SaveFileError::ConfigText)
    }
}

fn check_config_length(length: u32) -> Result<(), SaveFileError> {
    if (1..=MAX_CONFIG).contains(&length) {
        Ok(())
    } else {
        Err(SaveFileError::ConfigLength(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was() {
        let header = Header::new("{}").unwrap();
        assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
        assert_eq!(header.config(b"{}"), Ok("{}"));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let header = Header::new("{\"a\":1}").unwrap();
        for bit in 0..HEADER_LEN * 8 {
            let mut bytes = header.to_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::parse(&bytes).is_err(), "bit {bit}");
        }
        assert!(matches!(header.config(b"{\"a\":2}"), Err(SaveFileError::ConfigCrc { .. })));
    }

    #[test]
    fn another_version_and_wrong_lengths_are_told() {
        let sealed = |change: fn(&mut [u8; HEADER_LEN])| {
            let mut bytes = Header::new("{}").unwrap().to_bytes();
            change(&mut bytes);
            let crc = crc::hash(&bytes[..20]);
            bytes[20..].copy_from_slice(&crc.to_le_bytes());
            Header::parse(&bytes)
        };
        assert_eq!(sealed(|bytes| bytes[8] = 2), Err(SaveFileError::Version(2)));
        assert_eq!(sealed(|bytes| bytes[11] = 1), Err(SaveFileError::Flags(0x100)));
        assert_eq!(sealed(|bytes| bytes[12] = 0), Err(SaveFileError::ConfigLength(0)));
        assert_eq!(sealed(|bytes| bytes[15] = 1), Err(SaveFileError::ConfigLength((1 << 24) + 2)));
        assert_eq!(Header::new(""), Err(SaveFileError::ConfigLength(0)));
    }
}
