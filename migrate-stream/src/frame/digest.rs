//! The digest of a whole stream, and the totals that the end frame carries.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::header::FrameHeader;
use crate::bytes::{array, le64};

/// Length of an end frame's payload in bytes.
pub const TOTALS_LEN: usize = 48;

/// SHA-256 over (u64 sequence, u32 decoded length, u32 CRC-32), little-endian, of all frames in the
/// stream's order.
///
/// Equal digests at both ends mean that no frame was lost, doubled, reordered or cut off at the
/// end; that each frame's content is what was sent is told by its CRC, which the receiver checks
/// against the bytes that it has rebuilt. This guards against faults, not against someone who
/// alters frames: that is the transport's work.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    hash: Sha256,
    frames: u64,
    bytes: u64,
}

impl Digest {
    /// Of no frames yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next frame in the stream's order (not the end frame).
    pub fn frame(&mut self, header: &FrameHeader) {
        self.hash.update(header.sequence.to_le_bytes());
        self.hash.update(header.decoded_len.to_le_bytes());
        self.hash.update(header.crc32.to_le_bytes());
        self.frames += 1;
        self.bytes += u64::from(header.decoded_len);
    }

    /// The totals so far.
    pub fn totals(&self) -> Totals {
        let digest = DigestValue(self.hash.clone().finalize().into());
        Totals { frames: self.frames, bytes: self.bytes, digest }
    }
}

/// A digest's value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DigestValue(pub [u8; 32]);

impl fmt::Display for DigestValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DigestValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DigestValue({self})")
    }
}

/// What was sent in all: an end frame's payload, u64 frames, u64 bytes of the stream, 32 bytes of
/// digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Frames before the end frame.
    pub frames: u64,
    /// Bytes of the libxl stream.
    pub bytes: u64,
    /// [`Digest`] of the frames.
    pub digest: DigestValue,
}

impl Totals {
    /// Parses a payload.
    pub fn parse(bytes: &[u8; TOTALS_LEN]) -> Self {
        Self {
            frames: le64(bytes, 0),
            bytes: le64(bytes, 8),
            digest: DigestValue(array(bytes, 16)),
        }
    }

    /// The payload's bytes.
    pub fn to_bytes(&self) -> [u8; TOTALS_LEN] {
        let mut bytes = [0; TOTALS_LEN];
        bytes[..8].copy_from_slice(&self.frames.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[16..].copy_from_slice(&self.digest.0);
        bytes
    }
}
