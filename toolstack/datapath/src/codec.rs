//! One frame: stream bytes to wire bytes and back.

use std::io;
use std::sync::Arc;

use migrate_stream::frame::crc;
use migrate_stream::frame::pages::{self, PackError, UnpackError};
use migrate_stream::frame::{
    Codec, FrameError, FrameHeader, FrameKind, MAX_PACKED, TOTALS_LEN, Totals,
};
use zstd::bulk::{Compressor, Decompressor};

use crate::packing::Packing;

/// Why a part of a stream could not be made into a frame.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("zstd: {0}")]
    Zstd(#[source] Arc<io::Error>),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error("{0} bytes in one frame")]
    TooLong(usize),
    #[error(transparent)]
    Lengths(#[from] FrameError),
}

/// Why a frame from a peer or a file was refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("zstd: {0}")]
    Zstd(#[source] Arc<io::Error>),
    #[error(transparent)]
    Payload(#[from] FrameError),
    #[error("{actual} bytes after zstd, not {expected}")]
    PackedLength { actual: usize, expected: u32 },
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error("checksum mismatch: {rebuilt:08x} rebuilt, {sent:08x} sent")]
    Checksum { rebuilt: u32, sent: u32 },
    #[error("an end frame of the wrong length")]
    EndLength,
    #[error("the end frame: {0}")]
    End(#[source] FrameError),
}

/// A frame ready for the wire.
pub struct Encoded {
    /// Its header, bounds checked.
    pub header: FrameHeader,
    /// `wire_len` bytes.
    pub payload: Vec<u8>,
    /// Pages of zeroes that were left out.
    pub zero_pages: u64,
}

/// A worker's encoder.
pub struct Encoder {
    zstd: Option<Compressor<'static>>,
    packed: Vec<u8>,
}

impl Encoder {
    /// With its own zstd context.
    pub fn new(packing: Packing) -> Result<Self, EncodeError> {
        let zstd = packing.compress.then(|| Compressor::new(packing.level)).transpose();
        let zstd = zstd.map_err(|error| EncodeError::Zstd(Arc::new(error)))?;
        Ok(Self { zstd, packed: Vec::new() })
    }

    /// Packs and compresses the stream's bytes into `payload`.
    pub fn encode(
        &mut self,
        kind: FrameKind,
        sequence: u64,
        raw: &[u8],
        mut payload: Vec<u8>,
    ) -> Result<Encoded, EncodeError> {
        self.packed.clear();
        let (crc32, zero_pages) = match kind {
            FrameKind::Pages => {
                let stats = pages::pack(raw, &mut self.packed)?;
                (stats.crc32, stats.zero_pages.into())
            }
            FrameKind::Bytes | FrameKind::End => {
                self.packed.extend_from_slice(raw);
                (crc::hash(raw), 0)
            }
        };
        let codec = self.compress(&mut payload)?;
        let header = FrameHeader {
            kind,
            codec,
            sequence,
            decoded_len: length(raw)?,
            packed_len: length(&self.packed)?,
            wire_len: length(&payload)?,
            crc32,
            wire_crc32: crc::hash(&payload),
        };
        header.check_lengths()?;
        Ok(Encoded { header, payload, zero_pages })
    }

    /// Compresses what was packed, unless that makes it longer.
    fn compress(&mut self, payload: &mut Vec<u8>) -> Result<Codec, EncodeError> {
        if let Some(zstd) = &mut self.zstd {
            payload.clear();
            payload.reserve(zstd::zstd_safe::compress_bound(self.packed.len()));
            zstd.compress_to_buffer(&self.packed, payload)
                .map_err(|error| EncodeError::Zstd(Arc::new(error)))?;
            if payload.len() < self.packed.len() {
                return Ok(Codec::Zstd);
            }
        }
        payload.clear();
        payload.extend_from_slice(&self.packed);
        Ok(Codec::None)
    }
}

/// The frame that ends a connection's data.
pub fn end_frame(totals: &Totals) -> (FrameHeader, [u8; TOTALS_LEN]) {
    let payload = totals.to_bytes();
    let (length, crc32) = (TOTALS_LEN as u32, crc::hash(&payload));
    let header = FrameHeader {
        kind: FrameKind::End,
        codec: Codec::None,
        sequence: totals.frames,
        decoded_len: 0,
        packed_len: length,
        wire_len: length,
        crc32,
        wire_crc32: crc32,
    };
    (header, payload)
}

/// Reads an end frame's payload.
pub fn read_end(header: &FrameHeader, payload: &[u8]) -> Result<Totals, DecodeError> {
    let bytes: &[u8; TOTALS_LEN] = payload.try_into().map_err(|_| DecodeError::EndLength)?;
    header.check_payload(payload).map_err(DecodeError::End)?;
    Ok(Totals::parse(bytes))
}

/// A worker's decoder.
pub struct Decoder {
    zstd: Decompressor<'static>,
    packed: Vec<u8>,
}

impl Decoder {
    /// With its own zstd context.
    pub fn new() -> Result<Self, DecodeError> {
        let zstd = Decompressor::new().map_err(|error| DecodeError::Zstd(Arc::new(error)))?;
        Ok(Self { zstd, packed: Vec::new() })
    }

    /// Checks the payload, rebuilds the stream's bytes in `out`, which is empty, and checks those.
    ///
    /// The header was parsed, so its lengths are bounded; the payload may hold anything.
    pub fn decode(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        header.check_payload(payload)?;
        let packed = match header.codec {
            Codec::None => payload,
            Codec::Zstd => {
                self.decompress(header, payload)?;
                &self.packed
            }
        };
        let crc32 = match header.kind {
            FrameKind::Pages => pages::unpack(packed, header.decoded_len, out)?.crc32,
            FrameKind::Bytes | FrameKind::End => {
                out.extend_from_slice(packed);
                crc::hash(out)
            }
        };
        if crc32 != header.crc32 || out.len() != header.decoded_len as usize {
            return Err(DecodeError::Checksum { rebuilt: crc32, sent: header.crc32 });
        }
        Ok(())
    }

    fn decompress(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), DecodeError> {
        self.packed.clear();
        self.packed.reserve((header.packed_len as usize).min(MAX_PACKED as usize));
        self.zstd
            .decompress_to_buffer(payload, &mut self.packed)
            .map_err(|error| DecodeError::Zstd(Arc::new(error)))?;
        let (actual, expected) = (self.packed.len(), header.packed_len);
        if actual == expected as usize {
            return Ok(());
        }
        Err(DecodeError::PackedLength { actual, expected })
    }
}

fn length(bytes: &[u8]) -> Result<u32, EncodeError> {
    u32::try_from(bytes.len()).map_err(|_| EncodeError::TooLong(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packing() -> Packing {
        Packing { compress: true, level: 1, threads: 1 }
    }

    fn round_trip(raw: &[u8]) -> Encoded {
        let encoded =
            Encoder::new(packing()).unwrap().encode(FrameKind::Bytes, 7, raw, Vec::new()).unwrap();
        let mut out = Vec::new();
        Decoder::new().unwrap().decode(&encoded.header, &encoded.payload, &mut out).unwrap();
        assert_eq!(out, raw);
        encoded
    }

    #[test]
    fn what_compression_would_lengthen_is_sent_as_it_is() {
        assert_eq!(round_trip(b"abc").header.codec, Codec::None);
        assert_eq!(round_trip(&[7; 4096]).header.codec, Codec::Zstd);
    }

    #[test]
    fn every_flipped_bit_of_a_payload_is_noticed() {
        let raw: Vec<u8> = (0..2000u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        let encoded =
            Encoder::new(packing()).unwrap().encode(FrameKind::Bytes, 0, &raw, Vec::new()).unwrap();
        let mut decoder = Decoder::new().unwrap();
        for bit in 0..encoded.payload.len() * 8 {
            let mut payload = encoded.payload.clone();
            payload[bit / 8] ^= 1 << (bit % 8);
            let refused = decoder.decode(&encoded.header, &payload, &mut Vec::new()).unwrap_err();
            assert!(refused.to_string().contains("checksum mismatch"), "bit {bit}: {refused}");
        }
    }
}
