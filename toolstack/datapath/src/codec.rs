//! One frame: stream bytes to wire bytes and back.

use migrate_stream::frame::crc;
use migrate_stream::frame::{Codec, FrameHeader, FrameKind, MAX_PACKED, TOTALS_LEN, Totals, pages};
use zstd::bulk::{Compressor, Decompressor};

use crate::packing::Packing;

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
    pub fn new(packing: Packing) -> Result<Self, String> {
        let zstd = packing.compress.then(|| Compressor::new(packing.level)).transpose();
        Ok(Self { zstd: zstd.map_err(|e| format!("zstd: {e}"))?, packed: Vec::new() })
    }

    /// Packs and compresses the stream's bytes into `payload`.
    pub fn encode(
        &mut self,
        kind: FrameKind,
        sequence: u64,
        raw: &[u8],
        mut payload: Vec<u8>,
    ) -> Result<Encoded, String> {
        self.packed.clear();
        let (crc32, zero_pages) = match kind {
            FrameKind::Pages => {
                let stats = pages::pack(raw, &mut self.packed).map_err(|e| e.to_string())?;
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
        header.check_lengths().map_err(|e| e.to_string())?;
        Ok(Encoded { header, payload, zero_pages })
    }

    /// Compresses what was packed, unless that makes it longer.
    fn compress(&mut self, payload: &mut Vec<u8>) -> Result<Codec, String> {
        if let Some(zstd) = &mut self.zstd {
            payload.clear();
            payload.reserve(zstd::zstd_safe::compress_bound(self.packed.len()));
            zstd.compress_to_buffer(&self.packed, payload).map_err(|e| format!("zstd: {e}"))?;
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
pub fn read_end(header: &FrameHeader, payload: &[u8]) -> Result<Totals, String> {
    let bytes: &[u8; TOTALS_LEN] =
        payload.try_into().map_err(|_| "an end frame of the wrong length".to_owned())?;
    header.check_payload(payload).map_err(|e| format!("the end frame: {e}"))?;
    Ok(Totals::parse(bytes))
}

/// A worker's decoder.
pub struct Decoder {
    zstd: Decompressor<'static>,
    packed: Vec<u8>,
}

impl Decoder {
    /// With its own zstd context.
    pub fn new() -> Result<Self, String> {
        Ok(Self {
            zstd: Decompressor::new().map_err(|e| format!("zstd: {e}"))?,
            packed: Vec::new(),
        })
    }

    /// Checks the payload, rebuilds the stream's bytes in `out`, which is empty, and checks those.
    ///
    /// The header was parsed, so its lengths are bounded; the payload may hold anything.
    pub fn decode(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let in_frame = |what: String| format!("frame {}: {what}", header.sequence);
        header.check_payload(payload).map_err(|e| in_frame(e.to_string()))?;
        let packed = match header.codec {
            Codec::None => payload,
            Codec::Zstd => {
                self.decompress(header, payload).map_err(in_frame)?;
                &self.packed
            }
        };
        let crc32 = match header.kind {
            FrameKind::Pages => {
                pages::unpack(packed, header.decoded_len, out)
                    .map_err(|e| in_frame(e.to_string()))?
                    .crc32
            }
            FrameKind::Bytes | FrameKind::End => {
                out.extend_from_slice(packed);
                crc::hash(out)
            }
        };
        if crc32 != header.crc32 || out.len() != header.decoded_len as usize {
            let what = format!("checksum mismatch: {crc32:08x} rebuilt, {:08x} sent", header.crc32);
            return Err(in_frame(what));
        }
        Ok(())
    }

    fn decompress(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), String> {
        self.packed.clear();
        self.packed.reserve((header.packed_len as usize).min(MAX_PACKED as usize));
        self.zstd
            .decompress_to_buffer(payload, &mut self.packed)
            .map_err(|e| format!("zstd: {e}"))?;
        if self.packed.len() == header.packed_len as usize {
            return Ok(());
        }
        Err(format!("{} bytes after zstd, not {}", self.packed.len(), header.packed_len))
    }
}

fn length(bytes: &[u8]) -> Result<u32, String> {
    u32::try_from(bytes.len()).map_err(|_| format!("{} bytes in one frame", bytes.len()))
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
            assert!(refused.contains("checksum mismatch"), "bit {bit}: {refused}");
        }
    }
}
