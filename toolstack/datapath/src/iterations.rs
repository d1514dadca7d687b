//! The passes over a guest's memory, counted from two sides: what libxl says about each pass, and
//! what its stream contains.
//!
//! libxl's progress names a pass and its dirty count before the pass's first byte, but on another
//! channel, so it may come a little late. The stream has the pages, but no mark between two passes.
//! Page numbers ascend within a pass (xg_sr_save.c:send_dirty_pages walks a bitmap), so a fall
//! means a new pass; where one pass happens to end below the start of the next, the count that
//! libxl gave tells them apart.

use std::time::Instant;

use rxl_core::notes::NoteKind;

/// Most passes that are kept apart. libxl's stock policy makes six; what comes after the last is
/// added to it.
const MAX_ROUNDS: usize = 1000;

/// One pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// Its number, from 0.
    pub iteration: u32,
    /// libxl's count of page numbers for the pass: in the first one all there could be, then the
    /// dirty ones.
    pub dirty: Option<u64>,
    /// It was made while the guest stood still.
    pub suspended: bool,
    /// Page numbers in the stream, those without contents (holes) included.
    pub pfns: u64,
    /// Pages with contents.
    pub pages: u64,
    /// Pages of zeroes among them.
    pub zero_pages: u64,
    /// Bytes of libxl's stream.
    pub raw_bytes: u64,
    /// Bytes that went over the wire for them.
    pub wire_bytes: u64,
    /// When its first batch was read from libxl.
    pub began: Instant,
    /// When its last batch was.
    pub ended: Instant,
}

/// A pass as libxl announced it.
#[derive(Clone, Copy, Debug)]
struct Announced {
    total: u64,
    suspended: bool,
}

/// Counts passes as notes and batches come in.
#[derive(Debug, Default)]
pub struct Rounds {
    announced: Vec<Announced>,
    suspended: bool,
    seen: Vec<Round>,
    last_pfn: u64,
}

impl Rounds {
    /// Takes what libxl says into account.
    pub fn note(&mut self, note: &NoteKind) {
        let NoteKind::Progress { what, done, total } = note else { return };
        if what == "Domain now suspended" {
            self.suspended = true;
        } else if what.starts_with("Frames")
            && *done == 0
            && *total > 0
            && self.announced.len() < MAX_ROUNDS
        {
            self.announced.push(Announced { total: *total, suspended: self.suspended });
        }
    }

    /// A pass begins, as its maker says: of so many pages. Returns its index.
    pub fn begin(&mut self, total: u64, suspended: bool, now: Instant) -> usize {
        self.suspended |= suspended;
        if self.seen.len() < MAX_ROUNDS {
            self.announced.push(Announced { total, suspended });
            self.push(now);
        }
        self.seen.len() - 1
    }

    /// A batch of this pass was made.
    pub fn batch_of(&mut self, index: usize, pfns: u64, now: Instant) -> usize {
        if let Some(round) = self.seen.get_mut(index) {
            round.pfns += pfns;
            round.ended = now;
        }
        index
    }

    /// The target has restored the pass that was begun last.
    pub fn settled(&mut self, now: Instant) {
        if let Some(round) = self.seen.last_mut() {
            round.ended = now;
        }
    }

    /// A batch was read: its first and last page number and how many it names. Returns the index of
    /// its pass.
    pub fn batch(&mut self, first: u64, last: u64, pfns: u64, now: Instant) -> usize {
        if self.starts_anew(first) && self.seen.len() < MAX_ROUNDS {
            self.push(now);
        }
        self.last_pfn = last;
        let index = self.seen.len() - 1;
        self.seen[index].pfns += pfns;
        self.seen[index].ended = now;
        index
    }

    /// A batch of this pass was packed and compressed.
    pub fn packed(
        &mut self,
        index: usize,
        pages: u64,
        zero_pages: u64,
        raw_bytes: u64,
        wire_bytes: u64,
    ) {
        if let Some(round) = self.seen.get_mut(index) {
            round.pages += pages;
            round.zero_pages += zero_pages;
            round.raw_bytes += raw_bytes;
            round.wire_bytes += wire_bytes;
        }
    }

    /// The passes so far, with libxl's figures where the two sides agree.
    pub fn list(&self) -> Vec<Round> {
        let mut rounds = self.seen.clone();
        for (round, announced) in rounds.iter_mut().zip(&self.announced) {
            round.dirty = Some(announced.total);
            round.suspended = announced.suspended;
        }
        rounds
    }

    /// The pass under way, and libxl's count for it.
    pub fn current(&self) -> Option<(Round, Option<u64>)> {
        let round = self.seen.last()?.clone();
        let total = self.announced.get(self.seen.len() - 1).map(|announced| announced.total);
        Some((round, total))
    }

    /// Page numbers that libxl will still send in the pass under way, or in the next one when that
    /// is complete. None while that is not known, and once the guest stands still.
    pub fn left_in_live_pass(&self) -> Option<u64> {
        if self.suspended {
            return None;
        }
        let begun = self.seen.last().map_or(0, |round| round.pfns);
        let current = self.announced.get(self.seen.len().saturating_sub(1))?.total;
        if begun < current {
            return Some(current - begun);
        }
        self.announced.get(self.seen.len()).map(|next| next.total)
    }

    fn push(&mut self, now: Instant) {
        self.seen.push(Round {
            iteration: u32::try_from(self.seen.len()).unwrap_or(u32::MAX),
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

    fn announce(rounds: &mut Rounds, total: u64) {
        rounds.note(&NoteKind::Progress { what: "Frames iteration 0".into(), done: 0, total });
    }

    #[test]
    fn a_fall_of_the_page_number_is_a_new_pass() {
        let mut rounds = Rounds::default();
        let now = Instant::now();
        assert_eq!(rounds.batch(0, 1023, 1024, now), 0);
        assert_eq!(rounds.batch(1024, 2047, 1024, now), 0);
        assert_eq!(rounds.batch(5, 9, 3, now), 1);
        assert_eq!(rounds.list().iter().map(|r| r.pfns).collect::<Vec<_>>(), [2048, 3]);
    }

    #[test]
    fn the_announced_count_tells_ascending_passes_apart() {
        let mut rounds = Rounds::default();
        let now = Instant::now();
        for total in [10, 2, 3] {
            announce(&mut rounds, total);
        }
        rounds.batch(0, 9, 10, now);
        rounds.batch(3, 4, 2, now);
        rounds.note(&NoteKind::Progress { what: "Domain now suspended".into(), done: 0, total: 0 });
        announce(&mut rounds, 3);
        assert_eq!(rounds.batch(7, 9, 3, now), 2);
        assert_eq!(
            rounds.list().iter().map(|r| r.dirty).collect::<Vec<_>>(),
            [Some(10), Some(2), Some(3)]
        );
    }

    #[test]
    fn the_pass_after_the_suspend_is_marked() {
        let mut rounds = Rounds::default();
        announce(&mut rounds, 4);
        rounds.note(&NoteKind::Progress { what: "Domain now suspended".into(), done: 0, total: 0 });
        announce(&mut rounds, 1);
        let now = Instant::now();
        rounds.batch(0, 3, 4, now);
        rounds.batch(2, 2, 1, now);
        assert_eq!(rounds.list().iter().map(|r| r.suspended).collect::<Vec<_>>(), [false, true]);
    }
}
