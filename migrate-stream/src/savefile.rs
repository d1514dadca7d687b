//! rxl's own file of a saved domain: the domain's configuration, and its libxl stream in
//! [`crate::frame`]s.
//!
//! | offset | size | content |
//! | --- | --- | --- |
//! | 0 | 24 | the header, below |
//! | 24 | config length | the configuration: libxl's JSON, without a NUL |
//! | | | frames of kind *bytes* and *pages*, with sequences from 0 |
//! | | | the *end* frame; nothing follows it |
//!
//! Each frame holds the CRC-32 of the bytes that it stands for; the end frame holds the numbers of
//! frames and of bytes, and the digest.
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
//! So checksums cover all that is rebuilt from a file, and a file that was cut off lacks its end
//! frame.

use crate::fields::{Builder, Fields, crc_before};
use crate::frame::crc;

/// The first eight bytes of a file.
pub const MAGIC: [u8; 8] = *b"RXLSAVE1";

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 24;

/// The longest configuration, in bytes. That of a guest with a dozen devices has less than 10 KiB.
pub const MAX_CONFIG: u32 = 1 << 20;

const VERSION: u16 = 1;

/// Offset of the header's own checksum, which covers the bytes before it.
const CRC_AT: usize = HEADER_LEN - 4;

/// Why a header or its configuration was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveFileError {
    #[error("no rxl save file (its magic is missing)")]
    Magic,
    #[error("the header's CRC is {computed:08x}, it says {stored:08x}")]
    HeaderCrc { stored: u32, computed: u32 },
    #[error("version {0}, expected {VERSION}: saved by a later rxl")]
    Version(u16),
    #[error("unknown flags {0:#06x}")]
    Flags(u16),
    /// The configuration is empty, or longer than [`MAX_CONFIG`].
    #[error("a configuration of {0} bytes, expected 1 to {MAX_CONFIG}")]
    ConfigLength(u32),
    /// The configuration is not what was saved.
    #[error("the configuration's CRC is {computed:08x}, the header says {stored:08x}")]
    ConfigCrc { stored: u32, computed: u32 },
    #[error("the configuration is not UTF-8")]
    ConfigText,
}

/// A file's header, which says how long the configuration is, and its CRC-32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the configuration in bytes, 1 to [`MAX_CONFIG`].
    pub config_len: u32,
    config_crc32: u32,
}

impl Header {
    /// The header of a file with this configuration.
    pub fn new(config: &str) -> Result<Self, SaveFileError> {
        let config_len = u32::try_from(config.len()).unwrap_or(u32::MAX);
        check_config_length(config_len)?;
        Ok(Self { config_len, config_crc32: crc::hash(config.as_bytes()) })
    }

    /// Parses a header and checks every field. The length of one that passes may be allocated.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, SaveFileError> {
        let fields = Fields(bytes);
        if fields.array::<0, 8>() != MAGIC {
            return Err(SaveFileError::Magic);
        }
        let (stored, computed) = (fields.le32::<CRC_AT>(), crc_before::<CRC_AT, HEADER_LEN>(bytes));
        if stored != computed {
            return Err(SaveFileError::HeaderCrc { stored, computed });
        }
        let (version, flags) = (fields.le16::<8>(), fields.le16::<10>());
        if version != VERSION {
            return Err(SaveFileError::Version(version));
        }
        if flags != 0 {
            return Err(SaveFileError::Flags(flags));
        }
        let config_len = fields.le32::<12>();
        check_config_length(config_len)?;
        Ok(Self { config_len, config_crc32: fields.le32::<16>() })
    }

    /// The header's bytes, with its own checksum.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        Builder::new()
            .put::<0, 8>(MAGIC)
            .put::<8, 2>(VERSION.to_le_bytes())
            .put::<12, 4>(self.config_len.to_le_bytes())
            .put::<16, 4>(self.config_crc32.to_le_bytes())
            .seal::<CRC_AT>()
            .bytes()
    }

    /// Compares the configuration with its CRC-32 in the header, and returns its text.
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
