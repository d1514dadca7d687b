//! Which pages come and go while a guest's memory is read.
//!
//! Xen notes which pages are written to, not which ones a guest gives back and is given, as its
//! balloon does:
//! - A page that is given back is not noted, and since 4.22 no longer counts as dirty either
//!   (x86/mm/p2m.c: p2m_remove_entry).
//! - A page that is given is writable at once, and what the guest writes to it is not noted before
//!   the next CLEAN write-protects it. Xen notes the page itself since 4.22 only (p2m_add_page);
//!   until then it is lost, with what was written, and the digest agrees, as it is over what was
//!   sent.
//!
//! So the number of the guest's pages is looked at with each record, and between two of them, as a
//! record may wait on a slow link: what changes it between two looks without a trace stays unseen.
//! Where it grew, all pages are sent once more, from a CLEAN on; where it shrank, the pages that
//! were sent are asked for again.

use super::{PageKind, bitmap};

/// The first Xen that notes a page which a guest is given as dirty.
const NOTES_GIVEN_PAGES: (u32, u32) = (4, 22);

/// Whether a Xen notes that a guest is given a page, as if the page had been written to.
pub fn notes_given_pages(xen_version: (u32, u32)) -> bool {
    xen_version >= NOTES_GIVEN_PAGES
}

/// What happened to the number of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    None,
    /// Pages came or went. Those that came are among the dirty ones.
    Noted,
    /// Pages came, and Xen may not have noted what was written to them.
    Unnoted,
}

/// The guest's pages as they were seen last.
#[derive(Debug)]
pub struct Census {
    notes_given: bool,
    resident: u64,
    change: Change,
    /// Pages that the target has.
    sent: Vec<u64>,
}

impl Census {
    /// Of a guest with so many pages before its log-dirty mode is switched on.
    pub fn new(resident: u64, xen_version: (u32, u32)) -> Self {
        let notes_given = notes_given_pages(xen_version);
        Self { notes_given, resident, change: Change::None, sent: Vec::new() }
    }

    /// Notes how many pages the guest has now.
    pub fn look(&mut self, resident: u64) {
        let seen = match resident.cmp(&self.resident) {
            std::cmp::Ordering::Equal => Change::None,
            std::cmp::Ordering::Greater if !self.notes_given => Change::Unnoted,
            _ => Change::Noted,
        };
        self.resident = resident;
        self.change = self.change.max(seen);
    }

    /// Notes that pages have come, also where as many have gone.
    pub fn grew(&mut self) {
        let seen = if self.notes_given { Change::Noted } else { Change::Unnoted };
        self.change = self.change.max(seen);
    }

    /// What has changed since this was last asked.
    pub fn take_change(&mut self) -> Change {
        std::mem::replace(&mut self.change, Change::None)
    }

    /// Number of pages that the guest had when it was last looked.
    pub fn resident(&self) -> u64 {
        self.resident
    }

    /// Notes what the target is told of a page.
    pub fn told(&mut self, pfn: u64, kind: PageKind) {
        bitmap::put(&mut self.sent, pfn, kind == PageKind::Ram);
    }

    /// Whether the target need not be told of this page: it has none there, nor has the guest.
    pub fn is_known_hole(&self, pfn: u64, kind: PageKind) -> bool {
        kind == PageKind::Hole && !bitmap::get(&self.sent, pfn)
    }

    /// The next pages that the target has, from this number on, at most so many.
    pub fn sent_from(&self, from: u64, most: usize) -> Vec<u64> {
        let next = |pfn: u64| bitmap::next(&self.sent, pfn);
        std::iter::successors(next(from), |pfn| next(pfn + 1)).take(most).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_counts_for_more_than_what_went() {
        let mut census = Census::new(100, (4, 17));
        census.look(100);
        assert_eq!(census.take_change(), Change::None);
        census.look(90);
        assert_eq!(census.take_change(), Change::Noted);
        census.look(95);
        census.look(80);
        assert_eq!((census.take_change(), census.take_change()), (Change::Unnoted, Change::None));
        census.grew();
        assert_eq!((census.take_change(), census.resident()), (Change::Unnoted, 80));
    }

    #[test]
    fn a_xen_that_notes_given_pages_is_believed() {
        let mut census = Census::new(100, (4, 22));
        census.look(110);
        census.grew();
        assert_eq!(census.take_change(), Change::Noted);
    }

    #[test]
    fn the_target_is_told_of_pages_that_it_has() {
        let mut census = Census::new(3, (4, 17));
        for pfn in [1, 500, 70] {
            census.told(pfn, PageKind::Ram);
        }
        census.told(500, PageKind::Broken);
        assert_eq!((census.sent_from(0, 9), census.sent_from(2, 1)), (vec![1, 70], vec![70]));
        assert!(
            census.is_known_hole(500, PageKind::Hole) && census.is_known_hole(9, PageKind::Hole)
        );
        assert!(!census.is_known_hole(1, PageKind::Hole));
        assert!(!census.is_known_hole(9, PageKind::Ram));
    }
}
