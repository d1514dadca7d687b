//! A synthetic guest as [`rxl_precopy::save_memory`] meets one: with holes, pages that vanish, and
//! a bitmap of what is dirty.

use migrate_stream::libxc::{HvmParam, TscInfo};

use super::page::page;
use super::{Guest, MemoryHost};
use rxl_core::domain::{DomId, RunState};
use rxl_precopy::save_memory::{Memory, PageKind};

/// Behind so many page numbers there is something; behind as many more nothing.
const HOLES: u64 = 2;

/// Every so often a page is given back by its guest between the question for its type and its
/// mapping.
const VANISHING: u64 = 5_003;

pub(super) struct Walked {
    host: MemoryHost,
    domid: DomId,
    guest: Guest,
    generation: usize,
    dirty: Vec<u64>,
}

impl Walked {
    pub(super) fn new(host: MemoryHost, domid: DomId, guest: Guest) -> Self {
        let words = usize::try_from((guest.pages * HOLES).div_ceil(64)).unwrap_or(0);
        Self { host, domid, guest, generation: 0, dirty: vec![0; words] }
    }

    /// Pages dirtied in the iteration that has ended.
    fn next_count(&self) -> u64 {
        let counts = &self.guest.dirty;
        let index = if self.guest.endless {
            self.generation % counts.len().max(1)
        } else {
            self.generation
        };
        counts.get(index).or(counts.last()).copied().unwrap_or(0)
    }

    fn has_vanished(&self, pfn: u64) -> bool {
        self.generation > 0 && pfn % VANISHING == VANISHING - 1
    }
}

impl Memory for Walked {
    type Error = String;

    fn pfns(&mut self) -> Result<u64, String> {
        Ok(self.guest.pages * HOLES)
    }

    fn resident(&mut self) -> Result<u64, String> {
        Ok(self.guest.pages)
    }

    fn start_log_dirty(&mut self) -> Result<(), String> {
        self.host.change(self.domid, |kept| kept.log_dirty = true).map_err(|e| e.to_string())
    }

    fn stop_log_dirty(&mut self) -> Result<(), String> {
        self.host.change(self.domid, |kept| kept.log_dirty = false).map_err(|e| e.to_string())
    }

    fn collect_dirty(&mut self, _last: bool) -> Result<(), String> {
        if self.host.faults().save_after_iterations == Some(self.generation + 1) {
            return Err("as asked".into());
        }
        self.dirty.fill(0);
        let count = self.next_count();
        let stride = self.guest.pages.checked_div(count).unwrap_or(1).max(1);
        for pfn in (0..count).map(|n| n * stride) {
            if let Some(word) = self.dirty.get_mut((pfn / 64) as usize) {
                *word |= 1 << (pfn % 64);
            }
        }
        self.generation += 1;
        Ok(())
    }

    fn dirty(&self) -> &[u64] {
        &self.dirty
    }

    fn kinds(&mut self, pfns: &[u64], kinds: &mut Vec<PageKind>) -> Result<(), String> {
        kinds.clear();
        // Asked for one page, it is one that could not be mapped.
        let gone = |pfn: u64| pfns.len() == 1 && self.has_vanished(pfn);
        let kind = |pfn: &u64| {
            if *pfn < self.guest.pages && !gone(*pfn) { PageKind::Ram } else { PageKind::Hole }
        };
        kinds.extend(pfns.iter().map(kind));
        Ok(())
    }

    fn copy(&mut self, pfns: &[u64], out: &mut Vec<u8>) -> Result<Vec<usize>, String> {
        let mut failed = Vec::new();
        for (index, pfn) in pfns.iter().enumerate() {
            if pfns.len() > 1 && self.has_vanished(*pfn) {
                failed.push(index);
            } else {
                out.extend_from_slice(page(&self.guest, *pfn, self.generation as u64).as_ref());
            }
        }
        Ok(failed)
    }

    fn cpu_policy(&mut self) -> Result<(Vec<u8>, Vec<u8>), String> {
        Ok((vec![1; 48], vec![2; 16]))
    }

    fn xen_version(&self) -> (u32, u32) {
        (4, 17)
    }

    fn is_suspended(&mut self) -> Result<bool, String> {
        let domains = self.host.domains();
        let domain = domains.iter().find(|kept| kept.domain.domid == self.domid);
        Ok(domain.is_some_and(|kept| kept.domain.state == RunState::Suspended))
    }

    fn tsc_info(&mut self) -> Result<TscInfo, String> {
        Ok(TscInfo { mode: 0, khz: 1_000_000, nsec: 1, incarnation: 0 })
    }

    fn hvm_context(&mut self) -> Result<Vec<u8>, String> {
        Ok(vec![0x5a; 3000])
    }

    fn hvm_params(&mut self) -> Result<Vec<HvmParam>, String> {
        Ok(vec![HvmParam { index: 1, value: 0xfeff_f000 }])
    }
}

/// The bits of a synthetic guest are all below its last page.
#[cfg(test)]
mod tests {
    use super::*;
    use rxl_core::domain::GuestType;
    use rxl_precopy::save_memory::bitmap;

    #[test]
    fn what_is_dirty_is_memory() {
        let host = MemoryHost::new(1 << 20);
        let guest =
            Guest { pages: 10_000, zero_per_256: 0, dirty: vec![300, 7], endless: false, seed: 1 };
        let domid = host.start("dom3", GuestType::Pvh, guest.clone());
        let mut walked = Walked::new(host, domid, guest);
        for count in [300, 7, 7] {
            walked.collect_dirty(false).unwrap();
            assert_eq!(bitmap::count(walked.dirty()), count);
            assert!(bitmap::next(walked.dirty(), 10_000).is_none());
        }
    }
}
