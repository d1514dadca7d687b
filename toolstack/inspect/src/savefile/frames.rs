//! Reads the frames of rxl's save file back into the libxl stream. Nothing of a frame is used
//! before its checksums were compared.

use std::io::{self, Read};

use migrate_stream::frame::{Digest, FRAME_HEADER_LEN, FrameHeader, FrameKind};

use super::damage::{Damage, DamageKind};
use rxl_datapath::codec::{Decoder, read_end};

/// Reads as the bytes of the libxl stream. Each is covered by a CRC that matched. The end of the
/// stream is reported only if the digest over all frames matched, too. Errors hold a [`Damage`].
/// Memory: three buffers of a frame.
pub struct Frames<R> {
    input: R,
    offset: u64,
    decoder: Decoder,
    digest: Digest,
    sequence: u64,
    payload: Vec<u8>,
    /// The bytes of the frame that is being read from.
    raw: Vec<u8>,
    /// Number of these that have been read.
    given: usize,
    ended: bool,
}

impl<R: Read> Frames<R> {
    /// A reader of the frames in `input`, whose first byte has this offset in the file.
    pub fn new(input: R, offset: u64) -> io::Result<Self> {
        Ok(Self {
            input,
            offset,
            decoder: Decoder::new().map_err(io::Error::other)?,
            digest: Digest::new(),
            sequence: 0,
            payload: Vec::new(),
            raw: Vec::new(),
            given: 0,
            ended: false,
        })
    }

    /// The digest over all frames that have been read, in hexadecimal.
    pub fn digest(&self) -> String {
        self.digest.totals().digest.to_string()
    }

    /// Reads the next frame and rebuilds its bytes. After the end frame there are none.
    fn next(&mut self) -> Result<(), DamageKind> {
        let mut header = [0; FRAME_HEADER_LEN];
        self.fill(&mut header)?;
        let header = FrameHeader::parse(&header).map_err(DamageKind::FrameHeader)?;
        if header.sequence != self.sequence {
            let (found, expected) = (header.sequence, self.sequence);
            return Err(DamageKind::Sequence { found, expected });
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(header.wire_len as usize, 0);
        let filled = self.fill(&mut payload);
        self.payload = payload;
        filled?;
        self.raw.clear();
        self.given = 0;
        if header.kind == FrameKind::End {
            return self.end(&header);
        }
        let decoded = self.decoder.decode(&header, &mut self.payload, &mut self.raw);
        let sequence = header.sequence;
        decoded.map_err(|source| DamageKind::Frame { sequence, source })?;
        self.digest.frame(&header);
        self.sequence += 1;
        Ok(())
    }

    /// Compares the end frame's digest with that of all frames.
    fn end(&mut self, header: &FrameHeader) -> Result<(), DamageKind> {
        let saved = read_end(header, &self.payload).map_err(DamageKind::EndFrame)?;
        let found = self.digest.totals();
        if saved != found {
            return Err(DamageKind::Digest { found: found.digest, saved: saved.digest });
        }
        if self.input.read(&mut [0]).map_err(DamageKind::Read)? > 0 {
            return Err(DamageKind::Trailing);
        }
        self.ended = true;
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), DamageKind> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => DamageKind::NoEndFrame,
            _ => DamageKind::Read(error),
        })?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.given == self.raw.len() && !self.ended && !into.is_empty() {
            let began = self.offset;
            let damage = |kind: DamageKind| -> Damage { kind.at(began) };
            let next = self.next().map_err(damage);
            next.map_err(|damage| io::Error::new(io::ErrorKind::InvalidData, damage))?;
        }
        let length = self.raw.get(self.given..).unwrap_or_default().read(into)?;
        self.given += length;
        Ok(length)
    }
}
