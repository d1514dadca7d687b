//! Passes over memory, as they can be told from the stream.
//!
//! libxc sends each pass in ascending order of pfns (xg_sr_save.c, `send_dirty_pages`), so a
//! PAGE_DATA record whose first pfn is not above the last one of the record before begins a new
//! pass. A pass that touches only pfns above everything in the pass before cannot be told from its
//! continuation: a caller that knows better (from libxc's progress messages or its pre-copy policy)
//! says so with [`Rounds::begin`].

use crate::bytes::le64;
use crate::libxc::{PFN_MASK, PageData};

/// What a PAGE_DATA record holds, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// First pfn of the list.
    pub first_pfn: u64,
    /// Last pfn of the list.
    pub last_pfn: u64,
    /// pfns in the list, holes included.
    pub pfns: u32,
    /// Pages with contents.
    pub data_pages: u32,
}

impl Batch {
    /// Of a parsed record.
    pub fn of(record: &PageData<'_>) -> Self {
        Self::of_list(record.raw_pfns(), record.contents_count())
    }

    /// Of a record's list of pfns, not empty and checked, as it stands in the record.
    pub(crate) fn of_list(pfns: &[u8], data_pages: usize) -> Self {
        Self {
            first_pfn: le64(pfns, 0) & PFN_MASK,
            last_pfn: le64(pfns, pfns.len() - 8) & PFN_MASK,
            pfns: (pfns.len() / 8) as u32,
            data_pages: data_pages as u32,
        }
    }
}

/// What has been sent in one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Number of the pass, from 0.
    pub iteration: u32,
    /// PAGE_DATA records.
    pub records: u64,
    /// pfns, holes included.
    pub pfns: u64,
    /// Pages with contents.
    pub data_pages: u64,
}

/// Tells the passes apart. Its size does not depend on their number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rounds {
    round: Round,
    last_pfn: Option<u64>,
}

impl Rounds {
    /// Takes the next record of the stream. `Some`: it begins a new pass, and this is the one that
    /// it ends.
    pub fn record(&mut self, batch: &Batch) -> Option<Round> {
        let ended = self
            .last_pfn
            .is_some_and(|last| batch.first_pfn <= last)
            .then(|| self.begin())
            .flatten();
        self.last_pfn = Some(batch.last_pfn);
        self.round.records += 1;
        self.round.pfns += u64::from(batch.pfns);
        self.round.data_pages += u64::from(batch.data_pages);
        ended
    }

    /// Ends the pass, if any of it has been seen: the next record begins a new one.
    pub fn begin(&mut self) -> Option<Round> {
        self.last_pfn.take()?;
        let next = Round { iteration: self.round.iteration + 1, ..Round::default() };
        Some(std::mem::replace(&mut self.round, next))
    }

    /// The pass so far.
    pub fn current(&self) -> &Round {
        &self.round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(first_pfn: u64, last_pfn: u64) -> Batch {
        Batch { first_pfn, last_pfn, pfns: 4, data_pages: 3 }
    }

    #[test]
    fn a_pass_ends_where_pfns_go_back() {
        let mut rounds = Rounds::default();
        let ended = [(0, 9), (10, 19), (30, 35), (10, 12), (12, 50), (51, 51), (51, 51), (0, 1)]
            .map(|(first, last)| rounds.record(&batch(first, last)));
        let round = |iteration, records| {
            Some(Round { iteration, records, pfns: records * 4, data_pages: records * 3 })
        };
        assert_eq!(
            ended,
            [None, None, None, round(0, 3), round(1, 1), None, round(2, 2), round(3, 1)]
        );
        assert_eq!(Some(*rounds.current()), round(4, 1));
    }

    #[test]
    fn a_caller_that_knows_better_ends_a_pass() {
        let mut rounds = Rounds::default();
        assert_eq!(rounds.begin(), None);
        rounds.record(&batch(0, 9));
        assert_eq!(rounds.begin().map(|round| round.iteration), Some(0));
        assert_eq!(rounds.begin(), None);
        assert_eq!(rounds.record(&batch(20, 29)), None);
        assert_eq!((rounds.current().iteration, rounds.current().records), (1, 1));
    }
}
