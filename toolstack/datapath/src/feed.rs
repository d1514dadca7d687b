//! Pages for the data path that do not come through libxl's pipe.
//!
//! A walker inside rxl ([`rxl_precopy::save_memory`]) makes the libxc stream itself. libxl's pipe
//! then holds what comes before it, a header and LIBXC_CONTEXT, and what comes after it; the feed
//! goes in between. What is sent is read by the same parser as libxl's own stream on its way, so
//! that nothing malformed leaves.

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use migrate_stream::frame::FrameKind;
use migrate_stream::iterations::Batch;
use migrate_stream::libxc::{PageData, RECORD_HEADER_LEN};

use crate::broken::Broken;
use crate::buffers::Buffers;
use crate::meter::Meter;
use crate::split::{Counted, Part, Splitter};

/// Parts on their way to the data path: one while the walker makes the next.
const UNDER_WAY: usize = 1;

/// The frame before the first that is fed: what libxl writes before the libxc stream.
const FRAMES_BEFORE: u64 = 1;

/// The walker's end.
pub struct Feed {
    parts: Sender<Part>,
    buffers: Arc<Buffers>,
    meter: Arc<Meter>,
    frames: u64,
    pages: u64,
    iteration: Option<usize>,
}

/// The data path's end.
pub struct Fed {
    pub(super) parts: Receiver<Part>,
    pub(super) buffers: Arc<Buffers>,
}

/// A feed for one save. While it exists the data path waits for it; dropped, the data path goes on
/// with libxl's pipe.
pub fn feed(meter: Arc<Meter>) -> (Feed, Fed) {
    let (sender, parts) = bounded(UNDER_WAY);
    let buffers = Arc::new(Buffers::default());
    (
        Feed {
            parts: sender,
            buffers: buffers.clone(),
            meter,
            frames: 0,
            pages: 0,
            iteration: None,
        },
        Fed { parts, buffers },
    )
}

/// Takes a stream part by part, in order.
pub(super) trait Taker {
    /// A PAGE_DATA record of so many pfns is about to be read from libxl's pipe; that may be held
    /// up.
    fn hold(&self, pfns: u64) -> Result<(), String>;
    /// The next part.
    fn put(&mut self, part: Part) -> Result<(), Broken>;
}

/// Gives all of a stream: what libxl wrote, with what was fed in its place.
pub(super) fn take_all<R: Read>(
    splitter: &mut Splitter<'_, R>,
    fed: &Receiver<Part>,
    taker: &mut impl Taker,
) -> Result<(), Broken> {
    taker.put(splitter.before_libxc().map_err(Broken::libxl)?)?;
    for part in fed {
        splitter.fed(&part.raw).map_err(|e| Broken::here(format!("rxl's own stream: {e}")))?;
        taker.put(part)?;
    }
    while let Some(part) = splitter.next(|pfns| taker.hold(pfns)).map_err(Broken::libxl)? {
        taker.put(part)?;
    }
    Ok(())
}

impl Feed {
    /// An empty buffer for the next part.
    pub fn buffer(&self) -> Vec<u8> {
        self.buffers.take()
    }

    /// An iteration over so many pages begins.
    pub fn begin_iteration(&mut self, pages: u64, suspended: bool) {
        self.iteration = Some(self.meter.iterations().begin(pages, suspended, Instant::now()));
    }

    /// Records other than PAGE_DATA.
    pub fn bytes(&mut self, raw: Vec<u8>) -> Result<(), String> {
        self.send(Part {
            kind: FrameKind::Bytes,
            raw,
            batches: Vec::new(),
            iteration: None,
            read_at: Instant::now(),
        })
    }

    /// One whole PAGE_DATA record of the iteration that was begun last.
    pub fn pages(&mut self, raw: Vec<u8>) -> Result<(), String> {
        let record = PageData::parse(&raw[RECORD_HEADER_LEN..]).map_err(|e| e.to_string())?;
        let batch = Batch::of(&record);
        self.pages += u64::from(batch.data_pages);
        let batches = vec![Counted { batch, raw_len: raw.len() as u64, zero_pages: 0 }];
        self.send(Part {
            kind: FrameKind::Pages,
            raw,
            batches,
            iteration: self.iteration,
            read_at: Instant::now(),
        })
    }

    /// Pages with contents so far.
    pub fn pages_fed(&self) -> u64 {
        self.pages
    }

    /// Waits until the target's libxl has taken all that was fed: see [`crate::backlog`].
    pub fn settle(&self) -> Result<(), String> {
        self.meter.backlog.wait(FRAMES_BEFORE + self.frames)?;
        self.meter.iterations().settled(Instant::now());
        Ok(())
    }

    fn send(&mut self, part: Part) -> Result<(), String> {
        self.frames += 1;
        self.parts.send(part).map_err(|_| "the data path was given up".into())
    }
}
