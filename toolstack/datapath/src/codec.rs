//! One frame: stream bytes to wire bytes and back.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use migrate_stream::frame::crc::{self, Crc32};
use migrate_stream::frame::pages::{self, PackError, Scattered, UnpackError};
use migrate_stream::frame::{
    Codec, FrameError, FrameHeader, FrameKind, MAX_PACKED, TOTALS_LEN, Totals,
};
use zstd::bulk::{Compressor, Decompressor};

use crate::buffers::{Buffer, Buffers};
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
    /// Header of the frame, its lengths within the format's bounds.
    pub header: FrameHeader,
    /// What follows the header: `wire_len` bytes.
    pub payload: Payload,
    /// Number of pages that are all zero and were left out.
    pub zero_pages: u64,
}

/// What a frame has behind its header: a head, then parts of one buffer. Pages that are sent as
/// they are stay where the guest's memory or libxl's pipe was read into.
pub struct Payload {
    head: Vec<u8>,
    body: Buffer,
    /// Parts of `body` that are sent, in order.
    runs: Vec<Range<usize>>,
}

impl Payload {
    fn whole(body: Buffer) -> Self {
        let all = 0..body.len();
        Self { head: Vec::new(), runs: vec![all], body }
    }

    /// The bytes to be sent, in pieces.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let runs = self.runs.iter().filter_map(|run| self.body.get(run.clone()));
        std::iter::once(self.head.as_slice()).chain(runs)
    }

    fn length(&self) -> usize {
        self.pieces().map(<[u8]>::len).sum()
    }

    fn crc32(&self) -> u32 {
        let mut crc = Crc32::new();
        self.pieces().for_each(|piece| crc.update(piece));
        crc.value()
    }
}

/// A part of a stream as a frame's payload, and what its header says about it.
struct Packed {
    codec: Codec,
    /// Length before zstd, in bytes.
    packed_len: usize,
    payload: Payload,
    /// CRC-32 of the stream's bytes.
    crc32: u32,
    zero_pages: u64,
}

/// Makes frames, one worker's.
pub struct Encoder {
    zstd: Option<Compressor<'static>>,
    buffers: Arc<Buffers>,
}

impl Encoder {
    /// An encoder with a zstd context of its own. Payloads are made in `buffers`.
    pub(crate) fn new(packing: Packing, buffers: Arc<Buffers>) -> Result<Self, EncodeError> {
        let zstd = packing.compress.then(|| Compressor::new(packing.level)).transpose();
        let zstd = zstd.map_err(|error| EncodeError::Zstd(Arc::new(error)))?;
        Ok(Self { zstd, buffers })
    }

    /// Packs and compresses a part of the stream.
    pub(crate) fn encode(
        &mut self,
        kind: FrameKind,
        sequence: u64,
        raw: Buffer,
    ) -> Result<Encoded, EncodeError> {
        let decoded_len = length(raw.len())?;
        let Packed { codec, packed_len, payload, crc32, zero_pages } = match kind {
            FrameKind::Pages => self.pages(raw)?,
            FrameKind::Bytes | FrameKind::End => self.bytes(raw)?,
        };
        let is_raw = kind != FrameKind::Pages && codec == Codec::None;
        let header = FrameHeader {
            kind,
            codec,
            sequence,
            decoded_len,
            packed_len: length(packed_len)?,
            wire_len: length(payload.length())?,
            crc32,
            wire_crc32: if is_raw { crc32 } else { payload.crc32() },
        };
        header.check_lengths()?;
        Ok(Encoded { header, payload, zero_pages })
    }

    /// Packs a PAGE_DATA record. Without zstd no page is copied.
    fn pages(&mut self, raw: Buffer) -> Result<Packed, EncodeError> {
        if self.zstd.is_none() {
            let Scattered { head, runs, stats } = pages::scatter(&raw)?;
            let payload = Payload { head, body: raw, runs };
            return Ok(Packed {
                codec: Codec::None,
                packed_len: payload.length(),
                payload,
                crc32: stats.crc32,
                zero_pages: stats.zero_pages.into(),
            });
        }
        let mut packed = self.buffers.take();
        let stats = pages::pack(&raw, &mut packed)?;
        // Another part can be read into it while zstd works.
        drop(raw);
        let packed = self.compress(packed, stats.crc32)?;
        Ok(Packed { zero_pages: stats.zero_pages.into(), ..packed })
    }

    fn bytes(&mut self, raw: Buffer) -> Result<Packed, EncodeError> {
        let crc32 = crc::hash(&raw);
        self.compress(raw, crc32)
    }

    /// Compresses what was packed, unless that makes it longer.
    fn compress(&mut self, packed: Buffer, crc32: u32) -> Result<Packed, EncodeError> {
        let packed_len = packed.len();
        let (codec, payload) = match &mut self.zstd {
            None => (Codec::None, packed),
            Some(zstd) => {
                let mut compressed = self.buffers.take();
                compressed.reserve(zstd::zstd_safe::compress_bound(packed_len));
                zstd.compress_to_buffer(&packed, &mut *compressed)
                    .map_err(|error| EncodeError::Zstd(Arc::new(error)))?;
                let shorter = compressed.len() < packed_len;
                if shorter { (Codec::Zstd, compressed) } else { (Codec::None, packed) }
            }
        };
        let payload = Payload::whole(payload);
        Ok(Packed { codec, packed_len, payload, crc32, zero_pages: 0 })
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

/// Rebuilds a stream's bytes from frames, one worker's.
pub struct Decoder {
    zstd: Decompressor<'static>,
    packed: Vec<u8>,
}

impl Decoder {
    /// A decoder with a zstd context of its own.
    pub fn new() -> Result<Self, DecodeError> {
        let zstd = Decompressor::new().map_err(|error| DecodeError::Zstd(Arc::new(error)))?;
        Ok(Self { zstd, packed: Vec::new() })
    }

    /// Checks the payload, rebuilds the stream's bytes in `out`, which is empty, and checks those.
    /// What `payload` holds afterwards is not specified, as it may have become `out`.
    ///
    /// The header was parsed, so its lengths are bounded; the payload may hold anything.
    pub fn decode(
        &mut self,
        header: &FrameHeader,
        payload: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        header.check_payload(payload)?;
        let crc32 = match (header.kind, header.codec) {
            (FrameKind::Pages, Codec::None) => {
                pages::unpack(payload, header.decoded_len, out)?.crc32
            }
            (FrameKind::Pages, Codec::Zstd) => {
                decompress(&mut self.zstd, header, payload, &mut self.packed)?;
                pages::unpack(&self.packed, header.decoded_len, out)?.crc32
            }
            (FrameKind::Bytes | FrameKind::End, Codec::None) => {
                std::mem::swap(payload, out);
                // Of the same bytes, and found right above.
                header.wire_crc32
            }
            (FrameKind::Bytes | FrameKind::End, Codec::Zstd) => {
                decompress(&mut self.zstd, header, payload, out)?;
                crc::hash(out)
            }
        };
        if crc32 != header.crc32 || out.len() != header.decoded_len as usize {
            return Err(DecodeError::Checksum { rebuilt: crc32, sent: header.crc32 });
        }
        Ok(())
    }
}

/// Decompresses a payload into `packed`, whose contents are replaced.
fn decompress(
    zstd: &mut Decompressor<'static>,
    header: &FrameHeader,
    payload: &[u8],
    packed: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    packed.clear();
    packed.reserve((header.packed_len as usize).min(MAX_PACKED as usize));
    zstd.decompress_to_buffer(payload, packed)
        .map_err(|error| DecodeError::Zstd(Arc::new(error)))?;
    let (actual, expected) = (packed.len(), header.packed_len);
    if actual == expected as usize {
        return Ok(());
    }
    Err(DecodeError::PackedLength { actual, expected })
}

fn length(bytes: usize) -> Result<u32, EncodeError> {
    u32::try_from(bytes).map_err(|_| EncodeError::TooLong(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use migrate_stream::libxc::{PAGE_SIZE, Page, PageEntry, PageType};
    use migrate_stream::writer;

    /// A frame of these bytes, and what is on the wire behind its header.
    fn encoded(compress: bool, kind: FrameKind, raw: &[u8]) -> (Encoded, Vec<u8>) {
        let packing = Packing { compress, level: 1, threads: 1 };
        let buffers = Arc::new(Buffers::default());
        let mut buffer = buffers.take();
        buffer.extend_from_slice(raw);
        let encoded = Encoder::new(packing, buffers).unwrap().encode(kind, 7, buffer).unwrap();
        let payload = encoded.payload.pieces().flatten().copied().collect();
        (encoded, payload)
    }

    fn round_trip(compress: bool, kind: FrameKind, raw: &[u8]) -> FrameHeader {
        let (encoded, mut payload) = encoded(compress, kind, raw);
        assert_eq!(payload.len(), encoded.header.wire_len as usize);
        let mut out = Vec::new();
        Decoder::new().unwrap().decode(&encoded.header, &mut payload, &mut out).unwrap();
        assert_eq!(out, raw);
        encoded.header
    }

    #[test]
    fn what_compression_would_lengthen_is_sent_as_it_is() {
        assert_eq!(round_trip(true, FrameKind::Bytes, b"abc").codec, Codec::None);
        assert_eq!(round_trip(true, FrameKind::Bytes, &[7; 4096]).codec, Codec::Zstd);
        assert_eq!(round_trip(false, FrameKind::Bytes, &[7; 4096]).codec, Codec::None);
    }

    #[test]
    fn pages_travel_with_and_without_zstd() {
        let noise: Vec<u8> = (1..=2048_u32)
            .flat_map(|n| n.wrapping_mul(n).wrapping_mul(0x9e37_79b1).to_le_bytes())
            .collect();
        let (noise, _) = noise.as_chunks::<PAGE_SIZE>();
        let (zero, text) = ([0; PAGE_SIZE], [b'x'; PAGE_SIZE]);
        for contents in [[&zero, &noise[0], &noise[1], &zero], [&zero, &text, &zero, &text]] {
            let pages: Vec<_> = contents
                .into_iter()
                .zip(5..)
                .map(|(contents, pfn)| Page {
                    entry: PageEntry { pfn, page_type: PageType::NoTab },
                    contents: Some(contents),
                })
                .collect();
            let mut raw = Vec::new();
            writer::page_data(&mut raw, &pages).unwrap();
            for compress in [true, false] {
                let header = round_trip(compress, FrameKind::Pages, &raw);
                assert!((header.packed_len as usize) < raw.len() - PAGE_SIZE);
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_payload_is_noticed() {
        let raw: Vec<u8> = (0..2000u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        for compress in [true, false] {
            let (encoded, sent) = encoded(compress, FrameKind::Bytes, &raw);
            let mut decoder = Decoder::new().unwrap();
            for bit in 0..sent.len() * 8 {
                let mut payload = sent.clone();
                payload[bit / 8] ^= 1 << (bit % 8);
                let decoded = decoder.decode(&encoded.header, &mut payload, &mut Vec::new());
                let refused = decoded.unwrap_err().to_string();
                assert!(refused.contains("checksum mismatch"), "bit {bit}: {refused}");
            }
        }
    }
}
