//! Cuts libxl's stream into frames as it comes: one for each PAGE_DATA record, one for each stretch between two of them.

use std::io::Read;
use std::time::Instant;

use migrate_stream::frame::{FrameKind, MAX_DECODED};
use migrate_stream::libxc::{self, PageData};
use migrate_stream::reader::{Event, Start, StreamReader};
use migrate_stream::rounds::Batch;

use crate::data::Buffers;

/// A stretch of plain bytes is cut at this length.
const MAX_BYTES: usize = 256 << 10;

/// A part of the stream, as a frame will carry it.
pub struct Part {
    /// Bytes or pages.
    pub kind: FrameKind,
    /// The stream's own bytes.
    pub raw: Vec<u8>,
    /// What the pages are.
    pub batch: Option<Batch>,
    /// When its last byte was read.
    pub read_at: Instant,
}

/// Reads a stream and gives out its parts.
pub struct Splitter<'a, R> {
    input: R,
    reader: StreamReader,
    buffers: &'a Buffers,
    part: Vec<u8>,
    /// `part` holds the header of a PAGE_DATA record, and nothing else.
    at_pages: bool,
}

impl<'a, R: Read> Splitter<'a, R> {
    /// At the beginning of what `libxl_domain_suspend` writes.
    pub fn new(input: R, buffers: &'a Buffers) -> Self {
        Self { input, reader: StreamReader::new(Start::Libxl), buffers, part: buffers.take(), at_pages: false }
    }

    /// The input, for what follows an error.
    pub fn into_input(self) -> R {
        self.input
    }

    /// The next part; none at the stream's proper end. `before_pages` hears how many pfns a PAGE_DATA record has before its
    /// pages are read, and may hold them up.
    pub fn next(&mut self, before_pages: impl Fn(u64) -> Result<(), String>) -> Result<Option<Part>, String> {
        while !self.reader.is_complete() {
            if self.at_pages {
                return self.read_pages(before_pages).map(Some);
            }
            let from = self.part.len();
            self.at_pages = self.step()?;
            if self.at_pages && from > 0 {
                return Ok(Some(self.cut_before(from)));
            }
            if self.part.len() >= MAX_BYTES {
                return Ok(Some(self.cut(FrameKind::Bytes, None)));
            }
        }
        self.last_part()
    }

    /// Reads what the reader wants next and lets it judge. True when that was the header of a PAGE_DATA record that fits
    /// into one frame.
    fn step(&mut self) -> Result<bool, String> {
        let from = self.part.len();
        self.fill(self.reader.wanted().min(MAX_BYTES as u64))?;
        let mut input = &self.part[from..];
        let mut pages = false;
        while let Some(event) = self.reader.next(&mut input).map_err(|e| e.to_string())? {
            if let Event::LibxcRecord { header, .. } = event {
                let fits = header.length <= MAX_DECODED - libxc::RECORD_HEADER_LEN as u32;
                pages = header.record_type == libxc::RecordType::PageData && fits;
            }
        }
        Ok(pages)
    }

    /// Gives out the bytes before a PAGE_DATA header, which begins the next part.
    fn cut_before(&mut self, header: usize) -> Part {
        let mut next = self.buffers.take();
        next.extend_from_slice(&self.part[header..]);
        self.part.truncate(header);
        let raw = std::mem::replace(&mut self.part, next);
        Part { kind: FrameKind::Bytes, raw, batch: None, read_at: Instant::now() }
    }

    /// Reads the body of the PAGE_DATA record whose header `part` holds.
    fn read_pages(&mut self, before_pages: impl Fn(u64) -> Result<(), String>) -> Result<Part, String> {
        let from = self.part.len();
        let body = self.reader.wanted();
        // A body too short for its count is left for the parser to refuse.
        let head = body.min(PageData::HEADER_LEN as u64);
        self.fill(head)?;
        before_pages(self.part[from..].first_chunk().map_or(0, |count| u32::from_le_bytes(*count).into()))?;
        self.fill(body - head)?;
        let mut input = &self.part[from..];
        while self.reader.next(&mut input).map_err(|e| e.to_string())?.is_some() {}
        let offset = self.reader.offset() - self.part.len() as u64;
        let body = PageData::parse(&self.part[libxc::RECORD_HEADER_LEN..]);
        let body = body.map_err(|e| format!("PAGE_DATA at {offset}: {e}"))?;
        let batch = Batch::of(&body);
        self.at_pages = false;
        Ok(self.cut(FrameKind::Pages, Some(batch)))
    }

    fn cut(&mut self, kind: FrameKind, batch: Option<Batch>) -> Part {
        let raw = std::mem::replace(&mut self.part, self.buffers.take());
        Part { kind, raw, batch, read_at: Instant::now() }
    }

    fn last_part(&mut self) -> Result<Option<Part>, String> {
        if !self.part.is_empty() {
            return Ok(Some(self.cut(FrameKind::Bytes, None)));
        }
        match self.input.read(&mut [0; 1]) {
            Ok(0) => Ok(None),
            Ok(_) => Err(format!("libxl wrote more after its stream's end at {}", self.reader.offset())),
            Err(error) => Err(format!("libxl's stream: {error}")),
        }
    }

    /// Appends exactly so many bytes of the stream.
    fn fill(&mut self, wanted: u64) -> Result<(), String> {
        let got = self.input.by_ref().take(wanted).read_to_end(&mut self.part);
        match got.map_err(|e| format!("libxl's stream: {e}"))? {
            got if got as u64 == wanted => Ok(()),
            got => {
                let mut rest = &self.part[self.part.len() - got..];
                while self.reader.next(&mut rest).map_err(|e| e.to_string())?.is_some() {}
                Err(self.reader.finish().err().map_or_else(|| "libxl's stream was cut".into(), |e| e.to_string()))
            }
        }
    }
}
