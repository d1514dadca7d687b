//! The libxl stream, version 2 (Xen's docs/specs/libxl-migration-stream.pandoc and
//! libxl_sr_stream_format.h).
//!
//! A header of 16 bytes, **big-endian**: u64 `LibxlFmt`, u32 version 2, u32 options (bit 0
//! big-endian, bit 1 converted from the legacy format). Then records, **little-endian**: u32 type,
//! u32 length, the body, zeroes up to a multiple of 8 (the length does not count them). After the
//! header of LIBXC_CONTEXT, whose length is 0, comes the libxc stream as it is.

use std::fmt;

use crate::bytes::{be32, be64, le32};
use crate::libxc::BodyError;

/// `LibxlFmt`, what a stream begins with.
pub const IDENT: u64 = 0x4c69_6278_6c46_6d74;

/// The only version there is.
pub const VERSION: u32 = 2;

/// Length of the stream's header in bytes.
pub const HEADER_LEN: usize = 16;

/// Length of a record's header in bytes.
pub const RECORD_HEADER_LEN: usize = 8;

/// Length of the sub-header of the emulator records in bytes.
pub const EMULATOR_HEADER_LEN: usize = 8;

const OPTION_BIG_ENDIAN: u32 = 1;
const OPTION_LEGACY: u32 = 2;

/// Why a libxl stream header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The first eight bytes are not [`IDENT`].
    #[error("ident {0:#018x}, expected \"LibxlFmt\"")]
    Ident(u64),
    /// Not [`VERSION`].
    #[error("version {0}, expected {VERSION}")]
    Version(u32),
    /// The records are big-endian.
    #[error("big-endian records, which are not supported")]
    BigEndian,
    /// Reserved option bits are set.
    #[error("reserved options {0:#x}")]
    Options(u32),
}

/// The stream's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The stream was converted from the legacy format.
    pub legacy: bool,
}

impl Header {
    /// Parses and checks a header.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, HeaderError> {
        let (ident, version, options) = (be64(bytes, 0), be32(bytes, 8), be32(bytes, 12));
        if ident != IDENT {
            return Err(HeaderError::Ident(ident));
        }
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        if options & OPTION_BIG_ENDIAN != 0 {
            return Err(HeaderError::BigEndian);
        }
        if options & !OPTION_LEGACY != 0 {
            return Err(HeaderError::Options(options & !OPTION_LEGACY));
        }
        Ok(Self { legacy: options & OPTION_LEGACY != 0 })
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let options = if self.legacy { OPTION_LEGACY } else { 0 };
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&IDENT.to_be_bytes());
        bytes[8..12].copy_from_slice(&VERSION.to_be_bytes());
        bytes[12..].copy_from_slice(&options.to_be_bytes());
        bytes
    }
}

/// A record's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordType {
    /// The last record. Empty.
    End,
    /// The libxc stream follows. Empty.
    LibxcContext,
    /// Keys and values for a device model's xenstore directory.
    EmulatorXenstoreData,
    /// A device model's saved state.
    EmulatorContext,
    /// End of a checkpoint (Remus, COLO). Empty.
    CheckpointEnd,
    /// Control of a checkpoint (COLO).
    CheckpointState,
    /// Any other value. libxl refuses all of them, those with bit 31 ("optional") too.
    Unknown(u32),
}

impl From<u32> for RecordType {
    fn from(value: u32) -> Self {
        match value {
            0 => Self::End,
            1 => Self::LibxcContext,
            2 => Self::EmulatorXenstoreData,
            3 => Self::EmulatorContext,
            4 => Self::CheckpointEnd,
            5 => Self::CheckpointState,
            other => Self::Unknown(other),
        }
    }
}

impl From<RecordType> for u32 {
    fn from(value: RecordType) -> Self {
        match value {
            RecordType::End => 0,
            RecordType::LibxcContext => 1,
            RecordType::EmulatorXenstoreData => 2,
            RecordType::EmulatorContext => 3,
            RecordType::CheckpointEnd => 4,
            RecordType::CheckpointState => 5,
            RecordType::Unknown(other) => other,
        }
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::End => "END",
            Self::LibxcContext => "LIBXC_CONTEXT",
            Self::EmulatorXenstoreData => "EMULATOR_XENSTORE_DATA",
            Self::EmulatorContext => "EMULATOR_CONTEXT",
            Self::CheckpointEnd => "CHECKPOINT_END",
            Self::CheckpointState => "CHECKPOINT_STATE",
            Self::Unknown(value) => return write!(f, "of type {value:#010x}"),
        })
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the body is.
    pub record_type: RecordType,
    /// Length of the body in bytes, without padding. libxl has no bound on it.
    pub length: u32,
}

impl RecordHeader {
    /// Parses a header; any type and length.
    pub fn parse(bytes: &[u8; RECORD_HEADER_LEN]) -> Self {
        Self { record_type: le32(bytes, 0).into(), length: le32(bytes, 4) }
    }

    /// Compares the length with what the type allows.
    pub fn check_length(&self) -> Result<(), BodyError> {
        let length = self.length as usize;
        match self.record_type {
            RecordType::End | RecordType::LibxcContext | RecordType::CheckpointEnd
                if length != 0 =>
            {
                Err(BodyError::Length { length, expected: 0 })
            }
            RecordType::EmulatorXenstoreData | RecordType::EmulatorContext
                if length < EMULATOR_HEADER_LEN =>
            {
                Err(BodyError::TooShort { length, least: EMULATOR_HEADER_LEN })
            }
            _ => Ok(()),
        }
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; RECORD_HEADER_LEN] {
        let mut bytes = [0; RECORD_HEADER_LEN];
        bytes[..4].copy_from_slice(&u32::from(self.record_type).to_le_bytes());
        bytes[4..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }
}

/// Which device model an emulator record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmulatorId {
    /// Not known (streams converted from the legacy format).
    Unknown,
    /// qemu-xen-traditional.
    QemuTraditional,
    /// QEMU.
    QemuUpstream,
}

impl EmulatorId {
    fn parse(value: u32) -> Result<Self, BodyError> {
        match value {
            0 => Ok(Self::Unknown),
            1 => Ok(Self::QemuTraditional),
            2 => Ok(Self::QemuUpstream),
            _ => Err(BodyError::Value { field: "emulator_id", value: value.into() }),
        }
    }

    fn value(self) -> u32 {
        match self {
            Self::Unknown => 0,
            Self::QemuTraditional => 1,
            Self::QemuUpstream => 2,
        }
    }
}

/// The body of EMULATOR_XENSTORE_DATA and EMULATOR_CONTEXT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emulator<'a> {
    /// Whose it is.
    pub id: EmulatorId,
    /// Which of the domain's emulators.
    pub index: u32,
    /// The record's own data.
    pub data: &'a [u8],
}

impl<'a> Emulator<'a> {
    /// Parses a body, whole.
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        let Some((header, data)) = body.split_first_chunk::<EMULATOR_HEADER_LEN>() else {
            return Err(BodyError::TooShort { length: body.len(), least: EMULATOR_HEADER_LEN });
        };
        Ok(Self { id: EmulatorId::parse(le32(header, 0))?, index: le32(header, 4), data })
    }

    /// The data of EMULATOR_XENSTORE_DATA as (key, value) pairs, without their NULs. Keys are
    /// relative to the device model's directory. An error when the data is not an even number of
    /// NUL-terminated strings.
    pub fn xenstore_pairs(
        &self,
    ) -> Result<impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a>, BodyError> {
        if self.data.last().is_some_and(|&last| last != 0) {
            return Err(BodyError::NotTerminated);
        }
        let strings = self.data.iter().filter(|&&byte| byte == 0).count();
        if strings % 2 != 0 {
            return Err(BodyError::OddStrings { strings });
        }
        let mut rest = self.data.split(|&byte| byte == 0);
        Ok((0..strings / 2).filter_map(move |_| Some((rest.next()?, rest.next()?))))
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.value().to_le_bytes());
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(self.data);
    }
}
