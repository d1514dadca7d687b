//! Frame headers and their bounds.

use super::digest::TOTALS_LEN;
use super::{crc, pages};
use crate::bytes::{le16, le32, le64};

/// Length of a frame header in bytes.
pub const FRAME_HEADER_LEN: usize = 40;

/// Bytes of it that its own checksum covers.
const COVERED: usize = FRAME_HEADER_LEN - 4;

/// The most bytes of the libxl stream that a frame may stand for: a PAGE_DATA record of 1024 pages,
/// the most that libxc writes (8 + 8 + 1024 × 8 + 1024 × 4096), and some.
pub const MAX_DECODED: u32 = (4 << 20) + (64 << 10);

/// The most bytes that a frame may have before the codec: packing can add a little.
pub const MAX_PACKED: u32 = MAX_DECODED + pages::MAX_OVERHEAD;

const MAGIC: u32 = u32::from_le_bytes(*b"RXLF");

/// Why a frame header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No frame begins here.
    #[error("frame magic {0:#010x}, expected \"RXLF\"")]
    Magic(u32),
    /// The header's own checksum does not match.
    #[error("frame header's CRC is {computed:08x}, it says {stored:08x}")]
    HeaderCrc {
        /// In the header.
        stored: u32,
        /// Of its bytes.
        computed: u32,
    },
    /// The payload is not what was sent.
    #[error("checksum mismatch: the payload's CRC is {computed:08x}, the header says {stored:08x}")]
    PayloadCrc {
        /// In the header.
        stored: u32,
        /// Of the payload.
        computed: u32,
    },
    /// An unknown kind.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// An unknown codec.
    #[error("unknown frame codec {0}")]
    Codec(u8),
    /// Flags are set.
    #[error("unknown frame flags {0:#06x}")]
    Flags(u16),
    /// A length is outside its bounds.
    #[error("frame's {field} length is {length}, expected {least} to {most}")]
    Length {
        /// `decoded`, `packed` or `wire`.
        field: &'static str,
        /// What it says.
        length: u32,
        /// The least it may be.
        least: u32,
        /// The most it may be.
        most: u32,
    },
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Bytes of the stream, as they are.
    Bytes,
    /// One PAGE_DATA record, packed ([`pages`]).
    Pages,
    /// The end of all data: [`super::Totals`].
    End,
}

/// How the payload is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// One zstd frame.
    Zstd,
}

/// A frame's header. Lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame holds.
    pub kind: FrameKind,
    /// How its payload is compressed.
    pub codec: Codec,
    /// Its place among all frames of the migration.
    pub sequence: u64,
    /// Bytes of the stream that it stands for; 0 in an end frame.
    pub decoded_len: u32,
    /// Bytes before the codec.
    pub packed_len: u32,
    /// Bytes of payload.
    pub wire_len: u32,
    /// CRC-32 of the decoded bytes; of the payload in an end frame.
    pub crc32: u32,
    /// CRC-32 of the payload as it travels. Compressed bytes have bits that mean nothing, and
    /// damaged ones are best not shown to a decoder.
    pub wire_crc32: u32,
}

impl FrameHeader {
    /// Parses and checks a header: when it is good, its lengths may be allocated.
    pub fn parse(bytes: &[u8; FRAME_HEADER_LEN]) -> Result<Self, FrameError> {
        check_integrity(bytes)?;
        let kind = match bytes[4] {
            0 => FrameKind::Bytes,
            1 => FrameKind::Pages,
            2 => FrameKind::End,
            other => return Err(FrameError::Kind(other)),
        };
        let codec = match bytes[5] {
            0 => Codec::None,
            1 => Codec::Zstd,
            other => return Err(FrameError::Codec(other)),
        };
        if le16(bytes, 6) != 0 {
            return Err(FrameError::Flags(le16(bytes, 6)));
        }
        let header = Self {
            kind,
            codec,
            sequence: le64(bytes, 8),
            decoded_len: le32(bytes, 16),
            packed_len: le32(bytes, 20),
            wire_len: le32(bytes, 24),
            crc32: le32(bytes, 28),
            wire_crc32: le32(bytes, 32),
        };
        header.check_lengths()?;
        Ok(header)
    }

    /// Compares the lengths with their bounds, as `parse` does. A sender that cannot meet the
    /// bounds of a *pages* frame sends the record in frames of kind *bytes*; one whose codec loses
    /// sends the packed bytes as they are.
    pub fn check_lengths(&self) -> Result<(), FrameError> {
        let decoded = self.decoded_len;
        let ((least, most), (packed_least, packed_most)) = match self.kind {
            FrameKind::Bytes => ((1, MAX_DECODED), (decoded, decoded)),
            FrameKind::Pages => (
                (pages::LEAST_RECORD_LEN, MAX_DECODED),
                (1, decoded.saturating_add(pages::MAX_OVERHEAD)),
            ),
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

    /// The header's bytes, checksum included.
    pub fn to_bytes(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut bytes = [0; FRAME_HEADER_LEN];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = match self.kind {
            FrameKind::Bytes => 0,
            FrameKind::Pages => 1,
            FrameKind::End => 2,
        };
        bytes[5] = match self.codec {
            Codec::None => 0,
            Codec::Zstd => 1,
        };
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.decoded_len.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.packed_len.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.wire_len.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.crc32.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.wire_crc32.to_le_bytes());
        let crc = crc::hash(&bytes[..COVERED]);
        bytes[COVERED..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Compares a payload with the header's checksum of it.
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), FrameError> {
        let (stored, computed) = (self.wire_crc32, crc::hash(payload));
        if stored == computed { Ok(()) } else { Err(FrameError::PayloadCrc { stored, computed }) }
    }
}

fn check_integrity(bytes: &[u8; FRAME_HEADER_LEN]) -> Result<(), FrameError> {
    if le32(bytes, 0) != MAGIC {
        return Err(FrameError::Magic(le32(bytes, 0)));
    }
    let (stored, computed) = (le32(bytes, COVERED), crc::hash(&bytes[..COVERED]));
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
