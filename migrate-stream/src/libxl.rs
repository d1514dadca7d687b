//! The libxl stream, version 2 (Xen's docs/specs/libxl-migration-stream.pandoc and
//! libxl_sr_stream_format.h).
//!
//! The stream begins with a header of 16 bytes, **big-endian**: u64 `LibxlFmt`, u32 version 2, u32
//! options (bit 0 big-endian, bit 1 converted from the legacy format). Records follow,
//! **little-endian**: u32 type, u32 length, the body, and zeroes up to a multiple of 8 that the
//! length does not count. The libxc stream, as it is, follows the header of LIBXC_CONTEXT, whose
//! length is 0.

use std::fmt;

use crate::fields::{Builder, Fields};
use crate::libxc::BodyError;

/// `LibxlFmt`, with which a stream begins.
pub const IDENT: u64 = 0x4c69_6278_6c46_6d74;

/// The only version that the specification defines.
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
    #[error("version {0}, expected {VERSION}")]
    Version(u32),
    #[error("big-endian records, which are not supported")]
    BigEndian,
    /// Option bits that the specification reserves are set.
    #[error("reserved options {0:#x}")]
    Options(u32),
}

/// The stream's header, of which only the options can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether the stream was converted from the legacy format, that of Xen before 4.6.
    pub legacy: bool,
}

impl Header {
    /// Parses a header and checks every field.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, HeaderError> {
        let fields = Fields(bytes);
        let (ident, version, options) =
            (fields.be64::<0>(), fields.be32::<8>(), fields.be32::<12>());
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

    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let options = if self.legacy { OPTION_LEGACY } else { 0 };
        Builder::new()
            .put::<0, 8>(IDENT.to_be_bytes())
            .put::<8, 4>(VERSION.to_be_bytes())
            .put::<12, 4>(options.to_be_bytes())
            .bytes()
    }
}

/// A record's type, by the specification's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordType {
    /// Ends the stream. Its body is empty.
    End,
    /// Says that the libxc stream follows. Its body is empty.
    LibxcContext,
    /// Keys and values for a device model's xenstore directory.
    EmulatorXenstoreData,
    /// A device model's saved state.
    EmulatorContext,
    /// Ends a checkpoint (Remus, COLO). Its body is empty.
    CheckpointEnd,
    /// Controls a checkpoint (COLO).
    CheckpointState,
    /// Any other value. libxl refuses all of them, even those with bit 31 ("optional").
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

/// A record's header: what its body is, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the body is.
    pub record_type: RecordType,
    /// Length of the body in bytes, without padding. libxl has no bound on it.
    pub length: u32,
}

impl RecordHeader {
    /// Parses a header of any type and length; [`RecordHeader::check_length`] judges the length.
    pub fn parse(bytes: &[u8; RECORD_HEADER_LEN]) -> Self {
        let fields = Fields(bytes);
        Self { record_type: fields.le32::<0>().into(), length: fields.le32::<4>() }
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

    pub fn to_bytes(&self) -> [u8; RECORD_HEADER_LEN] {
        Builder::new()
            .put::<0, 4>(u32::from(self.record_type).to_le_bytes())
            .put::<4, 4>(self.length.to_le_bytes())
            .bytes()
    }
}

/// The device model that an emulator record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmulatorId {
    /// The record does not tell: so in streams converted from the legacy format.
    Unknown,
    /// qemu-xen-traditional, Xen's old fork of QEMU.
    QemuTraditional,
    /// QEMU as its own project releases it.
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
    /// The device model whose data it is.
    pub id: EmulatorId,
    /// Tells the domain's emulators apart, where it has several.
    pub index: u32,
    /// What follows the sub-header: xenstore keys and values, or the saved state.
    pub data: &'a [u8],
}

impl<'a> Emulator<'a> {
    /// Parses a whole body.
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        let Some((header, data)) = body.split_first_chunk::<EMULATOR_HEADER_LEN>() else {
            return Err(BodyError::TooShort { length: body.len(), least: EMULATOR_HEADER_LEN });
        };
        let header = Fields(header);
        let id = EmulatorId::parse(header.le32::<0>())?;
        Ok(Self { id, index: header.le32::<4>(), data })
    }

    /// The data of EMULATOR_XENSTORE_DATA as (key, value) pairs, without their NULs. Keys are
    /// relative to the device model's directory in xenstore. Fails when the data is not an even
    /// number of NUL-terminated strings.
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
