//! The header of a frame: what follows it, how it is packed, and what it is checked by.

use super::bounds::{LEAST_RECORD_LEN, MAX_DECODED, MAX_OVERHEAD, TOTALS_LEN};
use super::crc;
use crate::fields::{Builder, Fields, crc_before};

/// Length of a frame header in bytes.
pub const FRAME_HEADER_LEN: usize = 40;

/// Offset of the header's own checksum, which covers the bytes before it.
const CRC_AT: usize = FRAME_HEADER_LEN - 4;

const MAGIC: u32 = u32::from_le_bytes(*b"RXLF");

/// Why a frame header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame magic {0:#010x}, expected \"RXLF\"")]
    Magic(u32),
    /// The header's own checksum does not match.
    #[error("frame header's CRC is {computed:08x}, it says {stored:08x}")]
    HeaderCrc { stored: u32, computed: u32 },
    /// The payload that arrived is not the one that was sent.
    #[error("checksum mismatch: the payload's CRC is {computed:08x}, the header says {stored:08x}")]
    PayloadCrc { stored: u32, computed: u32 },
    #[error("unknown frame kind {0}")]
    Kind(u8),
    #[error("unknown frame codec {0}")]
    Codec(u8),
    #[error("unknown frame flags {0:#06x}")]
    Flags(u16),
    /// A length is outside of the bounds that the kind, the codec and the other lengths set.
    #[error("frame's {field} length is {length}, expected {least} to {most}")]
    Length {
        /// Which length: `decoded`, `packed` or `wire`.
        field: &'static str,
        length: u32,
        least: u32,
        most: u32,
    },
}

/// The content of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Bytes of the libxl stream, as they are.
    Bytes,
    /// One PAGE_DATA record in packed form ([`super::pages`]).
    Pages,
    /// The end of all data, with the [`super::Totals`].
    End,
}

/// The compression of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// The payload is the packed bytes.
    None,
    /// The payload is one zstd frame.
    Zstd,
}

/// A frame's header, with all lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: FrameKind,
    pub codec: Codec,
    /// The frame's place among all frames of the migration, from 0.
    pub sequence: u64,
    /// Length of the part of the libxl stream that the frame stands for; 0 in an end frame.
    pub decoded_len: u32,
    /// Length before compression.
    pub packed_len: u32,
    /// Length of the payload, after compression.
    pub wire_len: u32,
    /// CRC-32 of the decoded bytes; of the payload in an end frame.
    pub crc32: u32,
    /// CRC-32 of the payload as it travels. [`FrameHeader::crc32`] does not replace it: compressed
    /// bytes have bits that mean nothing, and damaged bytes must not reach a decoder.
    pub wire_crc32: u32,
}

impl FrameHeader {
    /// Parses a header and checks every field. The lengths of one that passes may be allocated.
    pub fn parse(bytes: &[u8; FRAME_HEADER_LEN]) -> Result<Self, FrameError> {
        check_integrity(bytes)?;
        let fields = Fields(bytes);
        let [kind, codec] = fields.array::<4, 2>();
        let kind = match kind {
            0 => FrameKind::Bytes,
            1 => FrameKind::Pages,
            2 => FrameKind::End,
            other => return Err(FrameError::Kind(other)),
        };
        let codec = match codec {
            0 => Codec::None,
            1 => Codec::Zstd,
            other => return Err(FrameError::Codec(other)),
        };
        let flags = fields.le16::<6>();
        if flags != 0 {
            return Err(FrameError::Flags(flags));
        }
        let header = Self {
            kind,
            codec,
            sequence: fields.le64::<8>(),
            decoded_len: fields.le32::<16>(),
            packed_len: fields.le32::<20>(),
            wire_len: fields.le32::<24>(),
            crc32: fields.le32::<28>(),
            wire_crc32: fields.le32::<32>(),
        };
        header.check_lengths()?;
        Ok(header)
    }

    /// Compares the lengths with their bounds, as [`FrameHeader::parse`] does. A sender that cannot
    /// meet the bounds of a *pages* frame sends the record in frames of kind *bytes*. A sender
    /// whose codec makes the bytes longer sends the packed bytes as they are.
    pub fn check_lengths(&self) -> Result<(), FrameError> {
        let decoded = self.decoded_len;
        let ((least, most), (packed_least, packed_most)) = match self.kind {
            FrameKind::Bytes => ((1, MAX_DECODED), (decoded, decoded)),
            FrameKind::Pages => {
                ((LEAST_RECORD_LEN, MAX_DECODED), (1, decoded.saturating_add(MAX_OVERHEAD)))
            }
            FrameKind::End => ((0, 0), (TOTALS_LEN as u32, TOTALS_LEN as u32)),
        };
        within("decoded", decoded, least, most)?;
        within("packed", self.packed_len, packed_least, packed_most)?;
        let wire_least = match self.codec {
            Codec::None => self.packed_len,
            Codec::Zstd => 1,
        };
        within("wire", self.wire_len, wire_least, self.packed_len)
    }

    /// The header's bytes, with its own checksum.
    pub fn to_bytes(&self) -> [u8; FRAME_HEADER_LEN] {
        let kind = match self.kind {
            FrameKind::Bytes => 0,
            FrameKind::Pages => 1,
            FrameKind::End => 2,
        };
        let codec = match self.codec {
            Codec::None => 0,
            Codec::Zstd => 1,
        };
        Builder::new()
            .put::<0, 4>(MAGIC.to_le_bytes())
            .put::<4, 2>([kind, codec])
            .put::<8, 8>(self.sequence.to_le_bytes())
            .put::<16, 4>(self.decoded_len.to_le_bytes())
            .put::<20, 4>(self.packed_len.to_le_bytes())
            .put::<24, 4>(self.wire_len.to_le_bytes())
            .put::<28, 4>(self.crc32.to_le_bytes())
            .put::<32, 4>(self.wire_crc32.to_le_bytes())
            .seal::<CRC_AT>()
            .bytes()
    }

    /// Compares a payload with the header's checksum of it.
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), FrameError> {
        let (stored, computed) = (self.wire_crc32, crc::hash(payload));
        if stored == computed { Ok(()) } else { Err(FrameError::PayloadCrc { stored, computed }) }
    }
}

fn check_integrity(bytes: &[u8; FRAME_HEADER_LEN]) -> Result<(), FrameError> {
    let fields = Fields(bytes);
    let magic = fields.le32::<0>();
    if magic != MAGIC {
        return Err(FrameError::Magic(magic));
    }
    let (stored, computed) =
        (fields.le32::<CRC_AT>(), crc_before::<CRC_AT, FRAME_HEADER_LEN>(bytes));
    if stored != computed {
        return Err(FrameError::HeaderCrc { stored, computed });
    }
    Ok(())
}

fn within(field: &'static str, length: u32, least: u32, most: u32) -> Result<(), FrameError> {
    if (least..=most).contains(&length) {
        return Ok(());
    }
    Err(FrameError::Length { field, length, least, most })
}
