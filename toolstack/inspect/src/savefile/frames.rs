//! Reads the frames of rxl's save file back into the libxl stream, and believes none of them before
//! it is checked.

use std::io::{self, Read};

use migrate_stream::frame::{Digest, FRAME_HEADER_LEN, FrameHeader, FrameKind};

use rxl_datapath::codec::{Decoder, read_end};

/// What is wrong with a file, and where. One line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged at byte {offset} of the file: {what}")]
pub struct Damage {
    /// First byte of the header or frame in which it is, from the file's first.
    pub offset: u64,
    /// What.
    pub what: String,
}

/// Gives the bytes of the libxl stream. Each is covered by a CRC that was right; the end of the
/// file is given as such only when the digest over all frames is right, too. Errors hold a
/// [`Damage`]. Memory: three buffers of a frame.
pub struct Frames<R> {
    input: R,
    offset: u64,
    decoder: Decoder,
    digest: Digest,
    sequence: u64,
    payload: Vec<u8>,
    raw: Vec<u8>,
    given: usize,
    ended: bool,
}

impl<R: Read> Frames<R> {
    /// At the first frame, which is at this offset of the file.
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

    /// The digest over all frames so far, in hexadecimal.
    pub fn digest(&self) -> String {
        self.digest.totals().digest.to_string()
    }

    /// Rebuilds the next frame's bytes, none at the proper end.
    fn next(&mut self) -> Result<(), Damage> {
        let began = self.offset;
        let damage = |what: String| Damage { offset: began, what };
        let mut header = [0; FRAME_HEADER_LEN];
        self.fill(&mut header).map_err(damage)?;
        let header = FrameHeader::parse(&header).map_err(|e| damage(e.to_string()))?;
        if header.sequence != self.sequence {
            return Err(damage(format!(
                "frame {} where frame {} should be",
                header.sequence, self.sequence
            )));
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(header.wire_len as usize, 0);
        let filled = self.fill(&mut payload);
        self.payload = payload;
        filled.map_err(damage)?;
        self.raw.clear();
        self.given = 0;
        if header.kind == FrameKind::End {
            return self.end(&header).map_err(damage);
        }
        self.decoder.decode(&header, &self.payload, &mut self.raw).map_err(damage)?;
        self.digest.frame(&header);
        self.sequence += 1;
        Ok(())
    }

    fn end(&mut self, header: &FrameHeader) -> Result<(), String> {
        let (saved, found) = (read_end(header, &self.payload)?, self.digest.totals());
        if saved != found {
            return Err(format!(
                "digest mismatch: {} over all frames, {} when it was saved",
                found.digest, saved.digest
            ));
        }
        if self.input.read(&mut [0]).map_err(|e| e.to_string())? > 0 {
            return Err("more bytes follow the end frame".into());
        }
        self.ended = true;
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                "the file was cut off: its end frame is missing".to_owned()
            }
            _ => error.to_string(),
        })?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.given == self.raw.len() && !self.ended && !into.is_empty() {
            self.next().map_err(|damage| io::Error::new(io::ErrorKind::InvalidData, damage))?;
        }
        let left = &self.raw[self.given..];
        let length = left.len().min(into.len());
        into[..length].copy_from_slice(&left[..length]);
        self.given += length;
        Ok(length)
    }
}
