//! The counts of a source's data path: iterations, and bytes before and after compression.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backlog::Backlog;
use crate::iterations::Iterations;
use crate::split::{Counted, Part};
use rxl_core::notes::NoteKind;

/// Counts of a source's data path, readable from any thread while it runs.
#[derive(Debug, Default)]
pub struct Meter {
    iterations: Mutex<Iterations>,
    /// How many frames the target's libxl has taken.
    pub backlog: Backlog,
    stream_bytes: AtomicU64,
    wire_bytes: AtomicU64,
}

/// Length of a part of the stream, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// In libxl's stream.
    pub stream: u64,
    /// On the wire, frame headers not included.
    pub wire: u64,
}

impl Meter {
    /// Locks the iterations over memory so far. Hold the guard briefly: workers wait for it.
    pub fn iterations(&self) -> MutexGuard<'_, Iterations> {
        self.iterations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of bytes read from libxl or fed.
    pub fn stream_bytes(&self) -> u64 {
        self.stream_bytes.load(Ordering::Relaxed)
    }

    /// Number of bytes written to the data connections, frame headers included.
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes.load(Ordering::Relaxed)
    }

    /// Takes a note of libxl's into account.
    pub fn note(&self, note: &NoteKind) {
        self.iterations().note(note);
    }

    /// Adds the records of a part to their iterations, and returns the indices of those.
    pub(crate) fn iterations_of(&self, part: &Part) -> Vec<usize> {
        let mut iterations = self.iterations();
        let mut of = |counted: &Counted| {
            let (batch, pfns) = (counted.batch, counted.batch.pfns.into());
            match part.iteration {
                Some(index) => iterations.batch_of(index, pfns, part.read_at),
                None => iterations.batch(batch.first_pfn, batch.last_pfn, pfns, part.read_at),
            }
        };
        part.batches.iter().map(&mut of).collect()
    }

    /// Adds the records of a part to their iterations, by index. Records share the part's bytes on
    /// the wire by their length. `zero_pages` are those that were not counted when it was read.
    pub(crate) fn packed(
        &self,
        batches: &[Counted],
        indices: &[usize],
        zero_pages: u64,
        sizes: Sizes,
    ) {
        let mut iterations = self.iterations();
        for (counted, index) in batches.iter().zip(indices) {
            let share = sizes.wire * counted.raw_len / sizes.stream.max(1);
            let zero = counted.zero_pages + zero_pages;
            iterations.packed(
                *index,
                counted.batch.data_pages.into(),
                zero,
                counted.raw_len,
                share,
            );
        }
    }

    pub(crate) fn read(&self, bytes: u64) {
        self.stream_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn written(&self, bytes: u64) {
        self.wire_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
