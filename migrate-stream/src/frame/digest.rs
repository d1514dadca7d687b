//! The digest of a whole stream, and the totals that the end frame carries.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::bounds::TOTALS_LEN;
use super::header::FrameHeader;
use crate::fields::{Builder, Fields};

/// SHA-256 over (u64 sequence, u32 decoded length, u32 CRC-32), little-endian, of all frames in the
/// stream's order.
///
/// Equal digests at both ends mean that no frame was lost, doubled, reordered or cut off at the
/// end. That a frame's content is what was sent follows from its CRC, which the receiver compares
/// with that of the bytes that it has rebuilt. The digest guards against faults, not against
/// somebody who alters frames: the transport guards against that.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    hash: Sha256,
    frames: u64,
    bytes: u64,
}

impl Digest {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next frame in the stream's order. The end frame is not part of the digest.
    pub fn frame(&mut self, header: &FrameHeader) {
        self.hash.update(header.sequence.to_le_bytes());
        self.hash.update(header.decoded_len.to_le_bytes());
        self.hash.update(header.crc32.to_le_bytes());
        self.frames += 1;
        self.bytes += u64::from(header.decoded_len);
    }

    /// The totals of the frames taken so far.
    pub fn totals(&self) -> Totals {
        let digest = DigestValue(self.hash.clone().finalize().into());
        Totals { frames: self.frames, bytes: self.bytes, digest }
    }
}

/// The value of a [`Digest`]: a SHA-256, shown in hexadecimal.
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

/// What was sent in all, as the payload of an end frame: u64 frames, u64 bytes of the stream, 32
/// bytes of digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Number of frames before the end frame.
    pub frames: u64,
    /// Length of the libxl stream in bytes.
    pub bytes: u64,
    /// The frames' [`Digest`].
    pub digest: DigestValue,
}

impl Totals {
    /// Parses an end frame's payload.
    pub fn parse(bytes: &[u8; TOTALS_LEN]) -> Self {
        let fields = Fields(bytes);
        Self {
            frames: fields.le64::<0>(),
            bytes: fields.le64::<8>(),
            digest: DigestValue(fields.array::<16, 32>()),
        }
    }

    /// The end frame's payload.
    pub fn to_bytes(&self) -> [u8; TOTALS_LEN] {
        Builder::new()
            .put::<0, 8>(self.frames.to_le_bytes())
            .put::<8, 8>(self.bytes.to_le_bytes())
            .put::<16, 32>(self.digest.0)
            .bytes()
    }
}
