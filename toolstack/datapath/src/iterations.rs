//! The iterations over a guest's memory, counted from two sides: what libxl says about each
//! iteration, and what its stream contains.
//!
//! libxl's progress names an iteration and its dirty count before the iteration's first byte, but
//! on another channel, so it may come a little late. The stream has the pages, but no mark between
//! two iterations. Page numbers ascend within an iteration (xg_sr_save.c:send_dirty_pages walks a
//! bitmap), so a fall means a new iteration; where one iteration happens to end below the start of
//! the next, the count that libxl gave tells them apart.

use std::time::Instant;

use rxl_core::notes::NoteKind;

/// Most iterations that are kept apart. libxl's stock policy makes six; what comes after the last
/// is added to it.
const MAX_ITERATIONS: usize = 1000;

/// One iteration over a guest's memory, as far as it has been made.
#[derive(Clone, Debug, PartialEq)]
pub struct Iteration {
    /// Counts from 0.
    pub number: u32,
    /// libxl's count of page numbers for the iteration: in the first one all there could be, then
    /// the dirty ones.
    pub dirty: Option<u64>,
    /// Whether it was made while the guest was suspended.
    pub suspended: bool,
    /// Number of pfns in the stream, those without contents (holes) included.
    pub pfns: u64,
    /// Number of pages with contents.
    pub pages: u64,
    /// Number of pages among them that are all zero.
    pub zero_pages: u64,
    /// Bytes of libxl's stream that it took.
    pub raw_bytes: u64,
    /// Bytes that went over the wire for them.
    pub wire_bytes: u64,
    /// When its first batch was read from libxl.
    pub began: Instant,
    /// When its last batch was read from libxl, or was restored by the target.
    pub ended: Instant,
}

/// An iteration as libxl announced it.
#[derive(Clone, Copy, Debug)]
struct Announced {
    total: u64,
    suspended: bool,
}

/// Counts iterations as notes and batches come in.
#[derive(Debug, Default)]
pub struct Iterations {
    announced: Vec<Announced>,
    suspended: bool,
    seen: Vec<Iteration>,
    last_pfn: u64,
}

impl Iterations {
    /// Takes a note of libxl's into account: its progress announces iterations.
    pub fn note(&mut self, note: &NoteKind) {
        let NoteKind::Progress { what, done, total } = note else { return };
        if what == "Domain now suspended" {
            self.suspended = true;
        } else if what.starts_with("Frames")
            && *done == 0
            && *total > 0
            && self.announced.len() < MAX_ITERATIONS
        {
            self.announced.push(Announced { total: *total, suspended: self.suspended });
        }
    }

    /// Begins an iteration of `total` pages, for a save that tells its iterations itself. Returns
    /// the iteration's index.
    pub fn begin(&mut self, total: u64, suspended: bool, now: Instant) -> usize {
        self.suspended |= suspended;
        if self.seen.len() < MAX_ITERATIONS {
            self.announced.push(Announced { total, suspended });
            self.push(now);
        }
        self.seen.len().saturating_sub(1)
    }

    /// Adds a batch of `pfns` page numbers to the iteration of this index, which it returns.
    pub fn batch_of(&mut self, index: usize, pfns: u64, now: Instant) -> usize {
        if let Some(iteration) = self.seen.get_mut(index) {
            iteration.pfns += pfns;
            iteration.ended = now;
        }
        index
    }

    /// Notes that the target has restored the iteration that was begun last.
    pub fn settled(&mut self, now: Instant) {
        if let Some(iteration) = self.seen.last_mut() {
            iteration.ended = now;
        }
    }

    /// Adds a batch that was read from libxl: its first and last pfn, and how many it names.
    /// Returns the index of the iteration to which it belongs.
    pub fn batch(&mut self, first: u64, last: u64, pfns: u64, now: Instant) -> usize {
        if self.starts_anew(first) && self.seen.len() < MAX_ITERATIONS {
            self.push(now);
        }
        self.last_pfn = last;
        self.batch_of(self.seen.len().saturating_sub(1), pfns, now)
    }

    /// Adds what packing and compressing a batch has shown to the iteration of this index.
    pub fn packed(
        &mut self,
        index: usize,
        pages: u64,
        zero_pages: u64,
        raw_bytes: u64,
        wire_bytes: u64,
    ) {
        if let Some(iteration) = self.seen.get_mut(index) {
            iteration.pages += pages;
            iteration.zero_pages += zero_pages;
            iteration.raw_bytes += raw_bytes;
            iteration.wire_bytes += wire_bytes;
        }
    }

    /// Returns the iterations so far, with libxl's figures where the two sides agree.
    pub fn list(&self) -> Vec<Iteration> {
        let mut iterations = self.seen.clone();
        for (iteration, announced) in iterations.iter_mut().zip(&self.announced) {
            iteration.dirty = Some(announced.total);
            iteration.suspended = announced.suspended;
        }
        iterations
    }

    /// Returns the iteration under way, and libxl's count of pfns for it.
    pub fn current(&self) -> Option<(Iteration, Option<u64>)> {
        let iteration = self.seen.last()?.clone();
        let total = self.announced.get(self.seen.len() - 1).map(|announced| announced.total);
        Some((iteration, total))
    }

    /// Number of pfns that libxl will still send in the iteration under way, or in the next one
    /// when that is complete. None while that is not known, and once the guest is suspended.
    pub fn left_in_live_iteration(&self) -> Option<u64> {
        if self.suspended {
            return None;
        }
        let begun = self.seen.last().map_or(0, |iteration| iteration.pfns);
        let current = self.announced.get(self.seen.len().saturating_sub(1))?.total;
        if begun < current {
            return Some(current - begun);
        }
        self.announced.get(self.seen.len()).map(|next| next.total)
    }

    fn push(&mut self, now: Instant) {
        self.seen.push(Iteration {
            number: u32::try_from(self.seen.len()).unwrap_or(u32::MAX),
            dirty: None,
            suspended: false,
            pfns: 0,
            pages: 0,
            zero_pages: 0,
            raw_bytes: 0,
            wire_bytes: 0,
            began: now,
            ended: now,
        });
    }

    fn starts_anew(&self, first: u64) -> bool {
        let Some(current) = self.seen.last() else { return true };
        let complete =
            self.announced.get(self.seen.len() - 1).is_some_and(|a| current.pfns >= a.total);
        complete || first <= self.last_pfn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(iterations: &mut Iterations, total: u64) {
        iterations.note(&NoteKind::Progress { what: "Frames iteration 0".into(), done: 0, total });
    }

    #[test]
    fn a_fall_of_the_page_number_is_a_new_pass() {
        let mut iterations = Iterations::default();
        let now = Instant::now();
        assert_eq!(iterations.batch(0, 1023, 1024, now), 0);
        assert_eq!(iterations.batch(1024, 2047, 1024, now), 0);
        assert_eq!(iterations.batch(5, 9, 3, now), 1);
        assert_eq!(iterations.list().iter().map(|r| r.pfns).collect::<Vec<_>>(), [2048, 3]);
    }

    #[test]
    fn the_announced_count_tells_ascending_passes_apart() {
        let mut iterations = Iterations::default();
        let now = Instant::now();
        for total in [10, 2, 3] {
            announce(&mut iterations, total);
        }
        iterations.batch(0, 9, 10, now);
        iterations.batch(3, 4, 2, now);
        iterations.note(&NoteKind::Progress {
            what: "Domain now suspended".into(),
            done: 0,
            total: 0,
        });
        announce(&mut iterations, 3);
        assert_eq!(iterations.batch(7, 9, 3, now), 2);
        assert_eq!(
            iterations.list().iter().map(|r| r.dirty).collect::<Vec<_>>(),
            [Some(10), Some(2), Some(3)]
        );
    }

    #[test]
    fn the_pass_after_the_suspend_is_marked() {
        let mut iterations = Iterations::default();
        announce(&mut iterations, 4);
        iterations.note(&NoteKind::Progress {
            what: "Domain now suspended".into(),
            done: 0,
            total: 0,
        });
        announce(&mut iterations, 1);
        let now = Instant::now();
        iterations.batch(0, 3, 4, now);
        iterations.batch(2, 2, 1, now);
        assert_eq!(
            iterations.list().iter().map(|r| r.suspended).collect::<Vec<_>>(),
            [false, true]
        );
    }
}
