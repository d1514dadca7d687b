//! Cuts libxl's stream into frames as it comes: one for each PAGE_DATA record with pages in it, one
//! for each stretch of other bytes between two of them.

use std::io::{BufReader, Read};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use migrate_stream::frame::pages::is_zero;
use migrate_stream::frame::{FrameKind, MAX_DECODED};
use migrate_stream::iterations::Batch;
use migrate_stream::libxc::{self, PageData};
use migrate_stream::libxl;
use migrate_stream::reader::{Event, Start, StreamError, StreamReader};

use crate::broken::Broken;
use crate::buffers::{Buffer, Buffers};

/// A stretch of bytes is cut when it has this length, in bytes.
const MAX_BYTES: usize = 256 << 10;

/// PAGE_DATA records up to this length, in bytes, travel together in a stretch of bytes. A PVH
/// guest's first iteration has a thousand records that name nothing but holes; each as a frame of
/// its own would cost more than it carries.
const SMALL_RECORD: u64 = 32 << 10;

/// Number of bytes read at once where records are small.
const READ_AHEAD: usize = 64 << 10;

/// A part of the stream, as a frame will carry it.
pub struct Part {
    pub kind: FrameKind,
    /// Its bytes as they are in the stream.
    pub raw: Buffer,
    /// The PAGE_DATA records in it: one in a part of kind pages, any number of small ones in one of
    /// kind bytes.
    pub batches: Vec<Counted>,
    /// Index of the iteration that they belong to, where the save tells it and it need not be
    /// found by the page numbers.
    pub iteration: Option<usize>,
    /// When its last byte was read.
    pub read_at: Instant,
}

/// A PAGE_DATA record in a part.
pub struct Counted {
    pub batch: Batch,
    /// Length of the record in the stream, in bytes.
    pub raw_len: u64,
    /// Number of pages of zeroes in a small record; those of a large one are counted when it is
    /// packed, and are 0 here.
    pub zero_pages: u64,
}

/// Reads a stream and gives out its parts.
pub struct Splitter<'a, R> {
    input: BufReader<R>,
    reader: StreamReader,
    buffers: &'a Arc<Buffers>,
    /// The next part: its first `filled` bytes, and then what the buffer held before.
    part: Buffer,
    filled: usize,
    batches: Vec<Counted>,
    /// Where in `part` the header of a PAGE_DATA record begins, when that is all that was read of
    /// it.
    pages_at: Option<usize>,
}

impl<'a, R: Read> Splitter<'a, R> {
    /// A splitter at the beginning of what `libxl_domain_suspend` writes.
    pub fn new(input: R, buffers: &'a Arc<Buffers>) -> Self {
        Self {
            input: BufReader::with_capacity(READ_AHEAD, input),
            reader: StreamReader::new(Start::Libxl),
            buffers,
            part: buffers.take_stale(),
            filled: 0,
            batches: Vec::new(),
            pages_at: None,
        }
    }

    /// Returns the input, from which the rest can be read after an error.
    pub fn into_input(self) -> R {
        self.input.into_inner()
    }

    /// Reads what libxl writes before the libxc stream, as one part.
    pub fn before_libxc(&mut self) -> Result<Part, Broken> {
        while self.filled < libxl::HEADER_LEN + libxl::RECORD_HEADER_LEN {
            self.step()?;
        }
        Ok(self.cut(FrameKind::Bytes))
    }

    /// Parses records that belong here in the stream and come from elsewhere.
    pub fn fed(&mut self, records: &[u8]) -> Result<(), StreamError> {
        let mut input = records;
        while self.reader.next(&mut input)?.is_some() {}
        Ok(())
    }

    /// Reads the next part; none at the stream's proper end. `before_pages` is called with the
    /// number of pfns in a PAGE_DATA record before its pages are read, and may wait.
    pub fn next(
        &mut self,
        before_pages: impl Fn(u64) -> Result<(), Broken>,
    ) -> Result<Option<Part>, Broken> {
        while !self.reader.is_complete() {
            if let Some(header) = self.pages_at {
                let small = self.reader.wanted() <= SMALL_RECORD;
                if !small && header > 0 {
                    return Ok(Some(self.cut_before(header)));
                }
                self.read_pages(header, &before_pages)?;
                if !small {
                    return Ok(Some(self.cut(FrameKind::Pages)));
                }
            } else {
                self.pages_at = self.step()?;
            }
            if self.filled >= MAX_BYTES && self.pages_at.is_none() {
                return Ok(Some(self.cut(FrameKind::Bytes)));
            }
        }
        self.last_part()
    }

    /// Reads what the parser wants next, and parses it. Where that was the header of a PAGE_DATA
    /// record that fits into one frame, returns the offset in `part` at which it begins.
    fn step(&mut self) -> Result<Option<usize>, Broken> {
        let from = self.filled;
        self.fill(self.reader.wanted().min(MAX_BYTES as u64))?;
        let mut input = self.part.get(from..self.filled).unwrap_or_default();
        let mut pages = None;
        while let Some(event) = self.reader.next(&mut input)? {
            if let Event::LibxcRecord { header, .. } = event {
                let fits = header.length <= MAX_DECODED - libxc::RECORD_HEADER_LEN as u32;
                pages = (fits && header.record_type == libxc::RecordType::PageData).then_some(from);
            }
        }
        Ok(pages)
    }

    /// Cuts before a PAGE_DATA header, with which the next part begins.
    fn cut_before(&mut self, header: usize) -> Part {
        let next = self.part.get(header..self.filled).unwrap_or_default().to_vec();
        self.filled = header;
        let part = self.cut(FrameKind::Bytes);
        self.part.grow(next.len());
        self.part.iter_mut().zip(&next).for_each(|(to, from)| *to = *from);
        self.filled = next.len();
        self.pages_at = Some(0);
        part
    }

    /// Reads the body of the PAGE_DATA record whose header begins at `header`.
    fn read_pages(
        &mut self,
        header: usize,
        before_pages: &impl Fn(u64) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let from = self.filled;
        let wanted = self.reader.wanted();
        // A body too short for its count is left for the parser to refuse.
        let head = wanted.min(PageData::HEADER_LEN as u64);
        self.fill(head)?;
        let count = self.part.get(from..self.filled).unwrap_or_default().first_chunk();
        before_pages(count.map_or(0, |count| u32::from_le_bytes(*count).into()))?;
        self.fill(wanted - head)?;
        let body = self.part.get(from..self.filled).unwrap_or_default();
        let mut input = body;
        while self.reader.next(&mut input)?.is_some() {}
        let body = PageData::parse(body)
            .map_err(|error| Broken::LibxlPages { offset: self.reader.offset(), error })?;
        let small = wanted <= SMALL_RECORD;
        let zero_pages = if small { count_zero_pages(&body) } else { 0 };
        let raw_len = (self.filled - header) as u64;
        self.batches.push(Counted { batch: Batch::of(&body), raw_len, zero_pages });
        self.pages_at = None;
        Ok(())
    }

    fn cut(&mut self, kind: FrameKind) -> Part {
        let mut raw = std::mem::replace(&mut self.part, self.buffers.take_stale());
        raw.truncate(std::mem::take(&mut self.filled));
        Part {
            kind,
            raw,
            batches: std::mem::take(&mut self.batches),
            iteration: None,
            read_at: Instant::now(),
        }
    }

    fn last_part(&mut self) -> Result<Option<Part>, Broken> {
        if self.filled > 0 {
            return Ok(Some(self.cut(FrameKind::Bytes)));
        }
        match self.input.read(&mut [0; 1]) {
            Ok(0) => Ok(None),
            Ok(_) => Err(Broken::LibxlTail { offset: self.reader.offset() }),
            Err(error) => Err(Broken::LibxlRead(Arc::new(error))),
        }
    }

    /// Appends exactly `wanted` bytes of the stream to the part. Callers ask for no more than a
    /// frame may hold.
    fn fill(&mut self, wanted: u64) -> Result<(), Broken> {
        let from = self.filled;
        let end = from + usize::try_from(wanted).unwrap_or(usize::MAX);
        self.part.grow(end);
        let mut got = from;
        while got < end {
            match self.input.read(self.part.get_mut(got..end).unwrap_or_default()) {
                Ok(0) => return Err(self.truncated(from..got)),
                Ok(more) => got += more,
                Err(error) => return Err(Broken::LibxlRead(Arc::new(error))),
            }
        }
        self.filled = end;
        Ok(())
    }

    /// Tells where the stream was cut, as the parser finds it with the last bytes.
    fn truncated(&mut self, last: Range<usize>) -> Broken {
        let mut rest = self.part.get(last).unwrap_or_default();
        while matches!(self.reader.next(&mut rest), Ok(Some(_))) {}
        self.reader.finish().err().map_or(Broken::LibxlCut, Broken::LibxlStream)
    }
}

/// Counts the pages of zeroes in a part of kind pages.
pub fn count_zero_pages_of(part: &Part) -> u64 {
    let body = part.raw.get(libxc::RECORD_HEADER_LEN..).and_then(|body| PageData::parse(body).ok());
    body.map_or(0, |record| count_zero_pages(&record))
}

fn count_zero_pages(record: &PageData<'_>) -> u64 {
    record.contents().chunks_exact(libxc::PAGE_SIZE).filter(|page| is_zero(page)).count() as u64
}
