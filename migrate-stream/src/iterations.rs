//! Iterations of pre-copy, as far as the stream shows where one ends.
//!
//! libxc sends each iteration in ascending order of pfns (xg_sr_save.c, `send_dirty_pages`), so a
//! PAGE_DATA record whose first pfn is not above the last pfn of the record before it begins a new
//! iteration. An iteration whose pfns all lie above those of the iteration before looks like that
//! one's continuation: a caller that knows better (from libxc's progress messages or its own
//! pre-copy policy) calls [`Iterations::begin`].

use crate::libxc::{PFN_MASK, PageData};

/// What a PAGE_DATA record adds to its iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    pub first_pfn: u64,
    pub last_pfn: u64,
    /// Number of pfns that the record names, holes included.
    pub pfns: u32,
    /// Number of pages whose contents are in the record.
    pub data_pages: u32,
}

impl Batch {
    /// Counts a parsed record.
    pub fn of(record: &PageData<'_>) -> Self {
        Self::of_list(record.raw_pfns(), record.contents_count())
    }

    /// Counts a record by its list of pfns, which has been checked and is not empty, as it stands
    /// in the record.
    pub(crate) fn of_list(pfns: &[[u8; 8]], data_pages: usize) -> Self {
        let pfn = |entry: Option<&[u8; 8]>| {
            entry.map_or(0, |entry| u64::from_le_bytes(*entry) & PFN_MASK)
        };
        Self {
            first_pfn: pfn(pfns.first()),
            last_pfn: pfn(pfns.last()),
            pfns: pfns.len() as u32,
            data_pages: data_pages as u32,
        }
    }
}

/// What one iteration has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Iteration {
    /// Counts the iterations of a migration from 0.
    pub number: u32,
    /// Number of PAGE_DATA records.
    pub records: u64,
    /// Number of pfns that the records name, holes included.
    pub pfns: u64,
    /// Number of pages whose contents were sent.
    pub data_pages: u64,
}

/// Tells the iterations apart and counts the one under way. Its size does not grow with their
/// number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Iterations {
    current: Iteration,
    last_pfn: Option<u64>,
}

impl Iterations {
    /// Takes the stream's next record. Returns the iteration that the record ends by beginning a
    /// new one.
    pub fn record(&mut self, batch: &Batch) -> Option<Iteration> {
        let ended = self
            .last_pfn
            .is_some_and(|last| batch.first_pfn <= last)
            .then(|| self.begin())
            .flatten();
        self.last_pfn = Some(batch.last_pfn);
        self.current.records += 1;
        self.current.pfns += u64::from(batch.pfns);
        self.current.data_pages += u64::from(batch.data_pages);
        ended
    }

    /// Ends the iteration under way and returns it: the next record begins a new one. Does nothing
    /// when no record of the iteration has been seen.
    pub fn begin(&mut self) -> Option<Iteration> {
        self.last_pfn.take()?;
        let next = Iteration { number: self.current.number + 1, ..Iteration::default() };
        Some(std::mem::replace(&mut self.current, next))
    }

    /// The iteration under way.
    pub fn current(&self) -> &Iteration {
        &self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(first_pfn: u64, last_pfn: u64) -> Batch {
        Batch { first_pfn, last_pfn, pfns: 4, data_pages: 3 }
    }

    #[test]
    fn an_iteration_ends_where_pfns_go_back() {
        let mut iterations = Iterations::default();
        let ended = [(0, 9), (10, 19), (30, 35), (10, 12), (12, 50), (51, 51), (51, 51), (0, 1)]
            .map(|(first, last)| iterations.record(&batch(first, last)));
        let iteration = |number, records| {
            Some(Iteration { number, records, pfns: records * 4, data_pages: records * 3 })
        };
        assert_eq!(
            ended,
            [
                None,
                None,
                None,
                iteration(0, 3),
                iteration(1, 1),
                None,
                iteration(2, 2),
                iteration(3, 1)
            ]
        );
        assert_eq!(Some(*iterations.current()), iteration(4, 1));
    }

    #[test]
    fn a_caller_that_knows_better_ends_an_iteration() {
        let mut iterations = Iterations::default();
        assert_eq!(iterations.begin(), None);
        iterations.record(&batch(0, 9));
        assert_eq!(iterations.begin().map(|iteration| iteration.number), Some(0));
        assert_eq!(iterations.begin(), None);
        assert_eq!(iterations.record(&batch(20, 29)), None);
        assert_eq!((iterations.current().number, iterations.current().records), (1, 1));
    }
}
