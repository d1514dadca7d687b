//! The header that xl puts before a libxl stream, in a save file and on a migration's wire (Xen's
//! tools/xl/xl.h, `struct save_file_header`).
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 32 | magic, `Xen saved domain, xl format\n \0 \r` |
//! | 32 | 4 | byte order mark, 0x01020304 in the saver's order |
//! | 36 | 4 | mandatory flags: 1 the configuration is JSON, 2 the stream is libxl's version 2 |
//! | 40 | 4 | optional flags (xl writes 0 and never looks at them) |
//! | 44 | 4 | length of the optional data that follows, in bytes |
//!
//! Integers are in the saver's byte order; only little-endian savers are read. Optional data whose
//! length is not 0 is a u32 configuration length, that many bytes of configuration (JSON with its
//! closing NUL), and a tail that readers skip.
//!
//! On a migration's wire the two sides exchange fixed messages around it, each once (xl.h:
//! `migrate_receiver_banner` and its like):
//!
//! 1. the receiver sends [`BANNER`];
//! 2. the sender sends the header, the optional data and the libxl stream;
//! 3. the receiver sends [`READY`];
//! 4. the sender sends [`GO`];
//! 5. the receiver sends [`REPORT`] and a status byte;
//! 6. after a status that is not 0, the receiver destroys its copy and sends [`GO`].

use crate::fields::{Builder, Fields};

/// The first 32 bytes of a header.
pub const MAGIC: [u8; 32] = *b"Xen saved domain, xl format\n \0 \r";

/// Length of a header in bytes.
pub const HEADER_LEN: usize = 48;

/// The receiver's first message: it waits for a header. It ends without a NUL.
pub const BANNER: &[u8; 54] = b"xl migration receiver ready, send binary domain data.\n";

/// The receiver's message that it has a paused copy of the domain.
pub const READY: &[u8; 34] = b"domain received, ready to unpause\0";

/// From the sender: the receiver's copy is the domain from now on. From the receiver, after a
/// failure: the sender's is the domain again.
pub const GO: &[u8; 44] = b"domain is yours, you are cleared to unpause\0";

/// The receiver's message before its status byte, which is 0 when the domain runs, or is paused as
/// it was asked to be.
pub const REPORT: &[u8; 39] = b"my copy unpause results are as follows\0";

/// The longest optional data that is accepted, in bytes. xl has no bound; a domain's JSON takes a
/// few KiB.
pub const MAX_OPTIONAL_DATA: u32 = 16 << 20;

/// Mandatory flag: the configuration is JSON (`XL_MANDATORY_FLAG_JSON`).
pub const FLAG_JSON: u32 = 1;

/// Mandatory flag: the stream is libxl's, version 2 (`XL_MANDATORY_FLAG_STREAMv2`).
pub const FLAG_STREAM_V2: u32 = 2;

const BYTE_ORDER: u32 = 0x0102_0304;

/// Why an xl header or its optional data was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XlError {
    #[error("no xl save header (its magic is missing)")]
    Magic,
    /// The byte order mark is a big-endian saver's.
    #[error("saved by a big-endian host, which is not supported")]
    BigEndian,
    #[error("byte order mark {0:#010x}, expected 0x01020304")]
    ByteOrder(u32),
    /// Mandatory flags other than [`FLAG_JSON`] and [`FLAG_STREAM_V2`] are set.
    #[error("unknown mandatory flags {0:#x}")]
    MandatoryFlags(u32),
    /// The stream is of the legacy format, before Xen 4.6.
    #[error("the stream is in the legacy format (flag 2 is not set)")]
    Legacy,
    /// The optional data is longer than [`MAX_OPTIONAL_DATA`].
    #[error("optional data of {0} bytes, at most {MAX_OPTIONAL_DATA} are accepted")]
    TooLong(u32),
    /// The optional data ends before the configuration it announces.
    #[error("optional data of {have} bytes, too short for {need}")]
    Truncated {
        /// Length of the optional data in bytes.
        have: usize,
        /// The least length that it would need, in bytes.
        need: u64,
    },
    /// The configuration has no NUL at its end, or another one before it.
    #[error("the configuration is not a NUL-terminated string")]
    NotTerminated,
    #[error("the configuration is not UTF-8")]
    NotUtf8,
}

/// xl's save header, of which only flags and length can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`FLAG_STREAM_V2`], and [`FLAG_JSON`] when the configuration is JSON.
    pub mandatory_flags: u32,
    /// Kept as they arrived: xl does not check them.
    pub optional_flags: u32,
    /// Length in bytes of the data after the header, at most [`MAX_OPTIONAL_DATA`].
    pub optional_data_len: u32,
}

impl Header {
    /// Parses a header and checks every field but the optional flags.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, XlError> {
        let fields = Fields(bytes);
        if fields.array::<0, 32>() != MAGIC {
            return Err(XlError::Magic);
        }
        match fields.le32::<32>() {
            BYTE_ORDER => {}
            mark if mark == BYTE_ORDER.swap_bytes() => return Err(XlError::BigEndian),
            mark => return Err(XlError::ByteOrder(mark)),
        }
        let header = Self {
            mandatory_flags: fields.le32::<36>(),
            optional_flags: fields.le32::<40>(),
            optional_data_len: fields.le32::<44>(),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), XlError> {
        let unknown = self.mandatory_flags & !(FLAG_JSON | FLAG_STREAM_V2);
        if unknown != 0 {
            return Err(XlError::MandatoryFlags(unknown));
        }
        if self.mandatory_flags & FLAG_STREAM_V2 == 0 {
            return Err(XlError::Legacy);
        }
        if self.optional_data_len > MAX_OPTIONAL_DATA {
            return Err(XlError::TooLong(self.optional_data_len));
        }
        Ok(())
    }

    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        Builder::new()
            .put::<0, 32>(MAGIC)
            .put::<32, 4>(BYTE_ORDER.to_le_bytes())
            .put::<36, 4>(self.mandatory_flags.to_le_bytes())
            .put::<40, 4>(self.optional_flags.to_le_bytes())
            .put::<44, 4>(self.optional_data_len.to_le_bytes())
            .bytes()
    }
}

/// The optional data of a header whose `optional_data_len` is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionalData<'a> {
    config: &'a [u8],
    /// The bytes after the configuration. xl writes none and skips those that it reads.
    pub tail: &'a [u8],
}

impl<'a> OptionalData<'a> {
    /// Parses the whole optional data: at least the 4 bytes of the configuration's length.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, XlError> {
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
            return Err(XlError::Truncated { have: bytes.len(), need: 4 });
        };
        let length = u32::from_le_bytes(*length);
        let Some((config, tail)) = rest.split_at_checked(length as usize) else {
            return Err(XlError::Truncated { have: bytes.len(), need: 4 + u64::from(length) });
        };
        if !config.is_empty() && config.iter().position(|&b| b == 0) != Some(config.len() - 1) {
            return Err(XlError::NotTerminated);
        }
        Ok(Self { config, tail })
    }

    /// The configuration's text without its NUL; `None` when the configuration is empty.
    pub fn json(&self) -> Result<Option<&'a str>, XlError> {
        let Some((_nul, text)) = self.config.split_last() else {
            return Ok(None);
        };
        std::str::from_utf8(text).map(Some).map_err(|_| XlError::NotUtf8)
    }

    /// Appends the data's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.config.len() as u32).to_le_bytes());
        out.extend_from_slice(self.config);
        out.extend_from_slice(self.tail);
    }
}
