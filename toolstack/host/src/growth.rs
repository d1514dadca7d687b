//! Memory that a domain is given while libxc reads its own: libxc misses it.
//!
//! libxc's bitmap ends at the highest page number that there was at the start
//! (xg_sr_save_x86_hvm.c: x86_hvm_setup), and Xen does not always note new pages below: see
//! docs/decisions/0031-balloon.md. rxl's own walker sends such pages; with libxc's the save fails,
//! and the domain runs on.

use rxl_precopy::save_memory::notes_given_pages;
use rxl_xen as xen;
use rxl_xen::{Extent, Failure, Library, MemoryWatch};

/// Looks at a domain while libxc reads it.
pub(crate) struct Growth {
    library: Library,
    domid: u32,
    seen: Seen,
    watch: MemoryWatch,
}

/// Why a save by libxc is not to be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrowthError {
    #[error(
        "the domain was given memory while libxc read it, which may miss that; \
         `--walker rxl` does not"
    )]
    Grown,
    #[error(transparent)]
    Xen(#[from] Failure),
}

impl Growth {
    /// Of a domain whose log-dirty mode is still off.
    pub(crate) fn of(library: Library, domid: u32) -> Result<Self, GrowthError> {
        let notes_given = notes_given_pages(xen::release());
        let seen = Seen::new(xen::extent(library, domid)?, notes_given);
        Ok(Self { library, domid, seen, watch: MemoryWatch::start(library, domid)? })
    }

    /// Fails when the domain has grown, now or at any look before.
    pub(crate) fn look(&mut self) -> Result<(), GrowthError> {
        let extent = xen::extent(self.library, self.domid)?;
        if self.seen.grows(extent, self.watch.take_growth()) {
            Err(GrowthError::Grown)
        } else {
            Ok(())
        }
    }
}

struct Seen {
    /// Xen notes pages that a guest is given.
    notes_given: bool,
    last: Extent,
    grown: bool,
}

impl Seen {
    fn new(first: Extent, notes_given: bool) -> Self {
        Self { notes_given, last: first, grown: false }
    }

    /// `meanwhile` tells whether pages came since the last look. A PV guest's new pages are noted,
    /// and libxc watches over its page numbers.
    fn grows(&mut self, now: Extent, meanwhile: bool) -> bool {
        let above = now.pfns > self.last.pfns;
        let unnoted = (meanwhile || now.pages > self.last.pages) && !self.notes_given;
        self.grown |= !now.pv && (above || unnoted);
        self.last = now;
        self.grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(pfns: u64, pages: u64) -> Extent {
        Extent { pfns, pages, pv: false }
    }

    #[test]
    fn what_was_given_is_not_forgotten() {
        for notes_given in [false, true] {
            let mut seen = Seen::new(extent(100, 50), notes_given);
            let mut grows = |pfns, pages| seen.grows(extent(pfns, pages), false);
            assert!(!grows(100, 50) && !grows(100, 40));
            assert_eq!(grows(100, 50), !notes_given, "down, and up again");
            assert_eq!(grows(100, 40), !notes_given);
            assert!(grows(101, 40) && grows(101, 40));
        }
    }

    #[test]
    fn down_and_up_between_two_looks_is_growth() {
        let mut seen = Seen::new(extent(100, 50), false);
        assert!(seen.grows(extent(100, 50), true) && seen.grows(extent(100, 50), false));
    }

    #[test]
    fn a_pv_guest_is_libxcs_to_watch() {
        let pv = |pages| Extent { pv: true, ..extent(100, pages) };
        assert!(!Seen::new(pv(1), false).grows(pv(2), true));
    }
}
