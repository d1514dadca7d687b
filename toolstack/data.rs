//! The data path: libxl's stream from the source's pipe to the target's, over frames.
//!
//! ```text
//!  source                                                    target
//!  libxl -> pipe -> split -> [workers] -> in order ->N       N-> readers -> [workers] -> in order -> pipe -> libxl
//!                   records  leave out    connections        |              decompress   digest
//!                            zero pages,                  frames            rebuild,
//!                            compress                                       check CRC
//! ```
//! A frame is one PAGE_DATA record, or a stretch of other bytes, in which small PAGE_DATA records
//! travel too. On each side a [`window::Window`] keeps the frames in order and bounds how many are
//! under way, so memory does not depend on the guest's size: at most [`Packing::window`] frames of
//! 4 MiB, each in two forms, besides one buffer a worker.
//!
//! What the target's libxl reads is what the source's wrote, byte for byte. Each frame's CRC-32 is
//! of the decoded bytes and is compared with the bytes that were rebuilt; the digest over all
//! frames tells that none is missing or out of place.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::data::backlog::Backlog;
use crate::data::split::{Counted, Part};
use crate::host::NoteKind;
use crate::io::Guarded;
use crate::rounds::Rounds;

pub mod backlog;
pub(crate) mod codec;
pub mod feed;
pub mod plain;
pub mod receive;
pub mod send;
mod split;
pub mod window;

/// Most compression threads: more would need more memory than rxl allows itself, and outrun libxl's
/// single one anyway.
pub const MAX_THREADS: usize = 4;

/// How pages are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Compress with zstd.
    pub compress: bool,
    /// zstd's level.
    pub level: i32,
    /// Worker threads, 1 to [`MAX_THREADS`].
    pub threads: usize,
}

impl Packing {
    /// As many threads as there are processors, up to [`MAX_THREADS`].
    pub fn default_threads() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
    }

    /// Frames under way at once: one in each worker, one being read, one being written.
    pub fn window(&self) -> usize {
        self.threads.clamp(1, MAX_THREADS) + 2
    }

    /// For the report.
    pub fn codec_name(&self) -> &'static str {
        if self.compress { "zstd" } else { "none" }
    }
}

/// What the source's data path counts as it goes, readable at any time.
#[derive(Debug, Default)]
pub struct Meter {
    rounds: Mutex<Rounds>,
    /// How far the target has come.
    pub backlog: Backlog,
    stream_bytes: AtomicU64,
    wire_bytes: AtomicU64,
}

impl Meter {
    /// Passes over memory so far.
    pub fn rounds(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes read from libxl.
    pub fn stream_bytes(&self) -> u64 {
        self.stream_bytes.load(Ordering::Relaxed)
    }

    /// Bytes written to the data connections, frame headers included.
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes.load(Ordering::Relaxed)
    }

    /// Takes what libxl tells into account.
    pub fn note(&self, note: &NoteKind) {
        self.rounds().note(note);
    }

    /// Finds the pass of each record in a part.
    fn passes_of(&self, part: &Part) -> Vec<usize> {
        let mut rounds = self.rounds();
        let mut of = |counted: &Counted| {
            let (batch, pfns) = (counted.batch, counted.batch.pfns.into());
            match part.pass {
                Some(pass) => rounds.batch_of(pass, pfns, part.read_at),
                None => rounds.batch(batch.first_pfn, batch.last_pfn, pfns, part.read_at),
            }
        };
        part.batches.iter().map(&mut of).collect()
    }

    /// Adds a part, sent as so many bytes, to its passes: records that share it share its bytes by
    /// their length. `zero_pages` are those that were not counted when it was read.
    fn packed(&self, part: &Part, passes: &[usize], zero_pages: u64, wire_bytes: u64) {
        let mut rounds = self.rounds();
        for (counted, round) in part.batches.iter().zip(passes) {
            let share = wire_bytes * counted.raw_len / (part.raw.len() as u64).max(1);
            let zero = counted.zero_pages + zero_pages;
            rounds.packed(*round, counted.batch.data_pages.into(), zero, counted.raw_len, share);
        }
    }

    fn read(&self, bytes: u64) {
        self.stream_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn written(&self, bytes: u64) {
        self.wire_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Whose fault it is that a data path broke: who is asked for the reason behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// libxl's pipe ended early, or was not read.
    Libxl,
    /// A data connection, or what came over it.
    Peer,
    /// rxl itself.
    Here,
}

/// Why a data path broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Where.
    pub at: At,
    /// One line.
    pub what: String,
}

impl Broken {
    /// At libxl's end.
    pub fn libxl(what: impl Into<String>) -> Self {
        Self { at: At::Libxl, what: what.into() }
    }

    /// At the peer's end.
    pub fn peer(what: impl Into<String>) -> Self {
        Self { at: At::Peer, what: what.into() }
    }

    /// In rxl.
    pub fn here(what: impl Into<String>) -> Self {
        Self { at: At::Here, what: what.into() }
    }
}

/// Reports the end of a data path exactly once: its first failure, at once, or its success when all
/// is done.
struct Verdict<T>(Mutex<Option<Report<T>>>);

type Report<T> = Box<dyn FnOnce(Result<T, Broken>) + Send>;

impl<T> Verdict<T> {
    fn new(report: impl FnOnce(Result<T, Broken>) + Send + 'static) -> Self {
        Self(Mutex::new(Some(Box::new(report))))
    }

    fn give(&self, result: Result<T, Broken>) {
        let report = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(report) = report {
            report(result);
        }
    }
}

/// Used buffers, kept for the next frames: fresh ones of this size would be mapped and zeroed by
/// the kernel each time.
#[derive(Default)]
struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        let mut buffer =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    fn give(&self, buffer: Vec<u8>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Reads a stream to its end and forgets it.
pub(crate) fn drain(mut stream: Guarded) {
    let mut scrap = vec![0; 64 << 10];
    while matches!(stream.read(&mut scrap), Ok(n) if n > 0) {}
}
