//! Pages for the data path that do not come through libxl's pipe.
//!
//! When rxl reads a guest's memory itself (crate rxl-precopy, save_memory), it makes the libxc
//! stream too. libxl's pipe then holds what comes before that stream, a header and LIBXC_CONTEXT,
//! and what comes after it; the feed goes in between. It is read by the same parser as libxl's own
//! stream on its way, so that nothing malformed leaves.

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use migrate_stream::frame::FrameKind;
use migrate_stream::iterations::Batch;
use migrate_stream::libxc::{BodyError, PageData, RECORD_HEADER_LEN};

use crate::backlog::BacklogError;
use crate::broken::Broken;
use crate::buffers::{Buffer, Buffers};
use crate::meter::Meter;
use crate::split::{Counted, Part, Splitter};

/// Parts on their way to the data path: one, while the next is being made.
const UNDER_WAY: usize = 1;

/// The frame before the first that is fed: what libxl writes before the libxc stream.
const FRAMES_BEFORE: u64 = 1;

/// The end into which a save puts its records.
pub struct Feed {
    parts: Sender<Part>,
    buffers: Arc<Buffers>,
    meter: Arc<Meter>,
    frames: u64,
    pages: u64,
    iteration: Option<usize>,
}

/// The end from which the data path takes them.
pub struct Fed {
    pub(super) parts: Receiver<Part>,
    pub(super) buffers: Arc<Buffers>,
}

/// Why a save could not feed the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    #[error("the data path was given up")]
    GivenUp,
    #[error(transparent)]
    Record(#[from] BodyError),
    #[error(transparent)]
    Backlog(#[from] BacklogError),
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
    fn hold(&self, pfns: u64) -> Result<(), Broken>;
    /// Takes the next part.
    fn put(&mut self, part: Part) -> Result<(), Broken>;
}

/// Gives all of a stream: what libxl wrote, with what was fed in its place.
pub(super) fn take_all<R: Read>(
    splitter: &mut Splitter<'_, R>,
    fed: &Receiver<Part>,
    taker: &mut impl Taker,
) -> Result<(), Broken> {
    taker.put(splitter.before_libxc()?)?;
    for part in fed {
        splitter.fed(&part.raw).map_err(Broken::OwnStream)?;
        taker.put(part)?;
    }
    while let Some(part) = splitter.next(|pfns| taker.hold(pfns))? {
        taker.put(part)?;
    }
    Ok(())
}

impl Feed {
    /// An empty buffer for the next part.
    pub fn buffer(&self) -> Buffer {
        self.buffers.take()
    }

    /// Begins an iteration over this many pages.
    pub fn begin_iteration(&mut self, pages: u64, suspended: bool) {
        self.iteration = Some(self.meter.iterations().begin(pages, suspended, Instant::now()));
    }

    /// Sends records other than PAGE_DATA.
    pub fn bytes(&mut self, raw: Buffer) -> Result<(), FeedError> {
        self.send(Part {
            kind: FrameKind::Bytes,
            raw,
            batches: Vec::new(),
            iteration: None,
            read_at: Instant::now(),
        })
    }

    /// Sends one whole PAGE_DATA record of the iteration that was begun last.
    pub fn pages(&mut self, raw: Buffer) -> Result<(), FeedError> {
        let record = PageData::parse(raw.get(RECORD_HEADER_LEN..).unwrap_or_default())?;
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

    /// Number of pages with contents that were sent so far.
    pub fn pages_fed(&self) -> u64 {
        self.pages
    }

    /// Waits until the target's libxl has taken all that was fed: see [`crate::backlog`].
    pub fn settle(&self) -> Result<(), FeedError> {
        self.meter.backlog.wait(FRAMES_BEFORE + self.frames)?;
        self.meter.iterations().settled(Instant::now());
        Ok(())
    }

    fn send(&mut self, part: Part) -> Result<(), FeedError> {
        self.frames += 1;
        self.parts.send(part).map_err(|_| FeedError::GivenUp)
    }
}
