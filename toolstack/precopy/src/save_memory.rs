//! Saves the memory of a PVH or HVM guest: what libxenguest's `xc_domain_save` does, inside rxl.
//!
//! What the target's libxl reads is a libxc stream like any other (libxc-migration-stream.pandoc),
//! record for record in the specification's order. What differs from xg_sr_save.c:
//! - Pages go to the data path's workers from the mapping, with no pipe between and without a
//!   process of its own.
//! - Page numbers behind which there is nothing are left out of the first iteration. A PVH guest of
//!   384 MiB has 98,304 pages and a million page numbers, as its special pages lie below 4 GiB.
//! - An iteration is over when the target has restored it, not when it is in a pipe: see
//!   [`rxl_datapath::backlog`].
//! - When pre-copy ends, what was dirty then goes with the last iteration, instead of once before
//!   and perhaps once more after it.
//! - Pages that the guest gives back or is given meanwhile are looked for, as Xen does not note
//!   them (`census`). The highest page number is asked for anew at each iteration.
//! - Log-dirty mode is switched off after the target has the last page, not before.
//!
//! ```text
//!  MemorySave                        session              rxl-save-helper -> libxl
//!    | log-dirty on
//!    | iteration 0: every page -----> data path
//!    | settle <---------------------- restored
//!    | CLEAN: n dirty
//!    | precopy(n)? -----------------> policy
//!    | <----------- Continue: iteration 1, settle, CLEAN ...
//!    | <-------- StopAndCopy
//!    | suspend? --------------------> (quiesce)
//!    | <-------------------- go on
//!    | suspend -------------------------------------------> control/shutdown, guest suspended
//!    | CLEAN, last iteration,
//!    | state, END ------------------> data path
//!    | complete ------------------------------------------> libxl writes its END
//! ```

use migrate_stream::libxc::{
    self, DomainHeader, DomainType, HvmParam, PAGE_SIZE, PageEntry, PageType, TscInfo,
};
use migrate_stream::writer;

use crate::Cause;
use rxl_core::steering::{Decision, PrecopyStats, Steering};
use rxl_datapath::feed::Feed;

pub mod bitmap;
mod census;
mod changes;
mod error;

use census::Census;

pub use census::notes_given_pages;
pub use error::SaveError;

/// Page numbers in one question to Xen, and pages in one record: libxc's and Xen's own limit
/// (xg_sr_common.h: MAX_BATCH_SIZE; domctl.c: getpageframeinfo3).
const BATCH: usize = 1024;

/// What Xen says is behind a page number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    Ram,
    Hole,
    /// Memory that the hardware has found broken.
    Broken,
}

impl PageKind {
    fn in_stream(self) -> PageType {
        match self {
            Self::Ram => PageType::NoTab,
            Self::Hole => PageType::Xtab,
            Self::Broken => PageType::Broken,
        }
    }
}

/// A guest to be saved.
pub trait Memory {
    /// Why Xen refused something. Displays as one line.
    type Error: Into<Cause>;

    /// Asks for one past its highest page number, which may have grown, and makes room for the
    /// bitmap of so many.
    fn pfns(&mut self) -> Result<u64, Self::Error>;
    /// Number of pages that it has, as Xen counts them.
    fn resident(&mut self) -> Result<u64, Self::Error>;
    /// Whether it was given pages since this was last asked, as far as that is watched between two
    /// calls of [`Memory::resident`].
    fn take_growth(&mut self) -> bool {
        false
    }
    /// Has Xen note from now on which pages are written to.
    fn start_log_dirty(&mut self) -> Result<(), Self::Error>;
    /// Switches log-dirty mode off.
    fn stop_log_dirty(&mut self) -> Result<(), Self::Error>;
    /// Fetches which pages were written to since the last time, and has Xen forget it. With `last`
    /// the pages that the hypervisor itself writes to are among them.
    fn collect_dirty(&mut self, last: bool) -> Result<(), Self::Error>;
    /// What [`Memory::collect_dirty`] fetched, as a [`bitmap`].
    fn dirty(&self) -> &[u64];
    /// Asks what is behind up to 1024 page numbers, and puts the answers into `kinds`.
    fn kinds(&mut self, pfns: &[u64], kinds: &mut Vec<PageKind>) -> Result<(), Self::Error>;
    /// Appends the contents of these pages to `out`, but for those that cannot be mapped. Returns
    /// the indices of those.
    fn copy(&mut self, pfns: &[u64], out: &mut Vec<u8>) -> Result<Vec<usize>, Self::Error>;
    /// Returns the bodies of CPUID_POLICY and MSR_POLICY.
    fn cpu_policy(&mut self) -> Result<(Vec<u8>, Vec<u8>), Self::Error>;
    /// Major and minor version of the Xen that it runs on.
    fn xen_version(&self) -> (u32, u32);
    /// Whether it is shut down to be suspended.
    fn is_suspended(&mut self) -> Result<bool, Self::Error>;
    /// Returns the time stamp counter's settings, for X86_TSC_INFO.
    fn tsc_info(&mut self) -> Result<TscInfo, Self::Error>;
    /// Returns the body of HVM_CONTEXT.
    fn hvm_context(&mut self) -> Result<Vec<u8>, Self::Error>;
    /// Returns the HVM parameters that are not zero.
    fn hvm_params(&mut self) -> Result<Vec<HvmParam>, Self::Error>;
}

/// Saves one guest.
pub struct MemorySave<'a, M> {
    pub memory: M,
    /// Where the stream goes.
    pub feed: Feed,
    /// Who decides when pre-copy ends.
    pub steering: &'a mut dyn Steering,
    /// Makes the guest stand still.
    pub suspend: &'a mut dyn FnMut() -> Result<(), Cause>,
    /// Whether all is to be given up.
    pub given_up: &'a dyn Fn() -> bool,
}

impl<M: Memory> MemorySave<'_, M> {
    /// Makes the whole libxc stream. On success the guest stands still, with log-dirty mode on when
    /// it was a live save: who lets it run on switches that off. On failure log-dirty mode is off,
    /// and the guest runs, or stands still when it had been suspended already.
    pub fn run(mut self, live: bool) -> Result<(), SaveError> {
        let resident = self.memory.resident().map_err(SaveError::guest)?;
        let end = self.memory.pfns().map_err(SaveError::guest)?;
        let census = Census::new(resident, self.memory.xen_version());
        let mut walk = Walk {
            save: self,
            census,
            end,
            came_again: Vec::new(),
            suspended: false,
            passes_holes: false,
        };
        let result = walk.stream(live);
        if result.is_err()
            && live
            && let Err(error) = walk.save.memory.stop_log_dirty()
        {
            tracing::warn!("{}", error.into());
        }
        result
    }
}

/// A save that has begun.
struct Walk<'a, M> {
    save: MemorySave<'a, M>,
    census: Census,
    /// One past the highest page number, as last asked for.
    end: u64,
    /// Pages that were no longer there when they were to be read, and then there again.
    came_again: Vec<u64>,
    suspended: bool,
    /// Holes of which the target knows are left out of this iteration, which is over all page
    /// numbers.
    passes_holes: bool,
}

impl<M: Memory> Walk<'_, M> {
    fn stream(&mut self, live: bool) -> Result<(), SaveError> {
        self.head()?;
        let left = if live {
            self.save.memory.start_log_dirty().map_err(SaveError::guest)?;
            Some(self.precopy()?)
        } else {
            None
        };
        self.stop_guest()?;
        match left {
            Some(dirty) => self.last_iteration(dirty)?,
            None => drop(self.every_page(true)?),
        }
        self.state()
    }

    fn head(&mut self) -> Result<(), SaveError> {
        let (cpuid, msr) = self.save.memory.cpu_policy().map_err(SaveError::guest)?;
        let (xen_major, xen_minor) = self.save.memory.xen_version();
        let mut head = self.save.feed.buffer();
        writer::image_header(&mut head);
        writer::domain_header(
            &mut head,
            DomainHeader { domain_type: DomainType::Hvm, xen_major, xen_minor },
        );
        let policies =
            [(libxc::RecordType::X86CpuidPolicy, cpuid), (libxc::RecordType::X86MsrPolicy, msr)];
        for (record_type, body) in policies.iter().filter(|(_, body)| !body.is_empty()) {
            writer::libxc_record(&mut head, *record_type, body)?;
        }
        writer::static_data_end(&mut head);
        Ok(self.save.feed.bytes(head)?)
    }

    /// Makes live iterations until the policy ends pre-copy. Returns a bitmap of what is left to
    /// send.
    fn precopy(&mut self) -> Result<Vec<u64>, SaveError> {
        let mut left = self.every_page(false)?;
        for iteration in 1.. {
            if let Some(left) = left {
                return Ok(left);
            }
            self.save.feed.settle()?;
            let dirty = self.collect(false)?;
            let stats = PrecopyStats {
                iteration,
                written: self.save.feed.pages_fed(),
                dirty: self.pages_of(&dirty),
            };
            left = match self.save.steering.precopy(&stats) {
                Decision::StopAndCopy => Some(dirty),
                Decision::Abort => return Err(SaveError::Policy),
                Decision::Continue => self.send_iteration(dirty, false)?,
            };
        }
        Err(SaveError::Endless)
    }

    fn stop_guest(&mut self) -> Result<(), SaveError> {
        self.save.steering.suspend().map_err(SaveError::NotAllowed)?;
        (self.save.suspend)().map_err(SaveError::Suspend)?;
        if self.save.memory.is_suspended().map_err(SaveError::guest)? {
            self.suspended = true;
            Ok(())
        } else {
            Err(SaveError::NotSuspended)
        }
    }

    fn last_iteration(&mut self, mut dirty: Vec<u64>) -> Result<(), SaveError> {
        let more = self.collect(true)?;
        bitmap::merge(&mut dirty, &more);
        self.send_iteration(dirty, true).map(drop)
    }

    /// The pages that a bitmap stands for, as far as that is known.
    fn pages_of(&self, bitmap: &[u64]) -> u64 {
        bitmap::count(bitmap).min(self.census.resident())
    }

    /// Sends all pages that there are. Holes are found by asking Xen for each page number. Returns
    /// a bitmap of what is left where the iteration was cut short.
    fn every_page(&mut self, suspended: bool) -> Result<Option<Vec<u64>>, SaveError> {
        self.ask_end()?;
        self.look()?;
        self.send_iteration(bitmap::from(0, self.end), suspended)
    }

    /// Sends the pages of a bitmap, in full records. Returns those that are left where the
    /// iteration was cut short.
    fn send_iteration(
        &mut self,
        mut dirty: Vec<u64>,
        suspended: bool,
    ) -> Result<Option<Vec<u64>>, SaveError> {
        let pages = self.pages_of(&dirty);
        // What Xen calls dirty is sent as it was judged, holes and all.
        self.passes_holes = bitmap::count(&dirty) > pages;
        self.save.feed.begin_iteration(pages, suspended);
        let mut there: Vec<(u64, PageKind)> = Vec::new();
        let mut next = bitmap::next(&dirty, 0);
        while let Some(first) = next {
            if self.is_cut_short(suspended) {
                let unsent = there.first().map_or(first, |(pfn, _)| *pfn);
                bitmap::clear_below(&mut dirty, unsent);
                return Ok(Some(dirty));
            }
            next = self.ask(&dirty, first, &mut there)?;
            if there.len() >= BATCH {
                let rest = there.split_off(BATCH);
                self.record(&there)?;
                there = rest;
            }
        }
        self.record(&there).map(|()| None)
    }

    /// Asks what is behind the bitmap's next page numbers, and appends what the target has to know.
    /// Returns the one that follows them.
    fn ask(
        &mut self,
        dirty: &[u64],
        first: u64,
        there: &mut Vec<(u64, PageKind)>,
    ) -> Result<Option<u64>, SaveError> {
        let mut pfns = Vec::with_capacity(BATCH);
        let mut next = Some(first);
        while let Some(pfn) = next.filter(|_| pfns.len() < BATCH) {
            pfns.push(pfn);
            next = bitmap::next(dirty, pfn + 1);
        }
        let mut kinds = Vec::new();
        self.save.memory.kinds(&pfns, &mut kinds).map_err(SaveError::guest)?;
        let asked = pfns.into_iter().zip(kinds);
        let (all, census) = (!self.passes_holes, &self.census);
        there.extend(asked.filter(|(pfn, kind)| all || !census.is_known_hole(*pfn, *kind)));
        Ok(next)
    }

    fn is_cut_short(&self, suspended: bool) -> bool {
        !suspended && self.save.steering.is_due()
    }

    /// Sends one PAGE_DATA record of these pages.
    fn record(&mut self, entries: &[(u64, PageKind)]) -> Result<(), SaveError> {
        if entries.is_empty() {
            return Ok(());
        }
        if (self.save.given_up)() {
            return Err(SaveError::GivenUp);
        }
        self.look()?;
        let mut entries = entries.to_vec();
        let mut record = self.save.feed.buffer();
        record.resize(writer::page_data_head_len(entries.len()), 0);
        self.contents(&mut entries, &mut record)?;
        let list: Vec<_> = entries
            .iter()
            .map(|(pfn, kind)| PageEntry { pfn: *pfn, page_type: kind.in_stream() })
            .collect();
        writer::page_data_head(&mut record, &list)?;
        entries.iter().for_each(|(pfn, kind)| self.census.told(*pfn, *kind));
        Ok(self.save.feed.pages(record)?)
    }

    /// Appends the contents of the pages that have any to `record`. A page may have been given back
    /// by the guest since Xen was asked: it is a hole then, as if it had been asked a moment later.
    /// One that has come again since belongs to the next iteration.
    fn contents(
        &mut self,
        entries: &mut [(u64, PageKind)],
        record: &mut Vec<u8>,
    ) -> Result<(), SaveError> {
        let mut ram: Vec<_> =
            entries.iter_mut().filter(|(_, kind)| *kind == PageKind::Ram).collect();
        let pfns: Vec<u64> = ram.iter().map(|(pfn, _)| *pfn).collect();
        let failed = self.save.memory.copy(&pfns, record).map_err(SaveError::guest)?;
        if failed.is_empty() {
            return Ok(());
        }
        let unmapped: Vec<u64> =
            failed.iter().filter_map(|index| pfns.get(*index)).copied().collect();
        let mut now = Vec::new();
        self.save.memory.kinds(&unmapped, &mut now).map_err(SaveError::guest)?;
        for ((index, pfn), kind) in failed.iter().zip(&unmapped).zip(now) {
            let back = kind == PageKind::Ram;
            if back && self.suspended {
                return Err(SaveError::Unmappable(*pfn));
            }
            if back {
                self.came_again.push(*pfn);
            }
            if let Some((_, old)) = ram.get_mut(*index) {
                *old = if back { PageKind::Hole } else { kind };
            }
        }
        Ok(())
    }

    /// Sends everything but memory, in xg_sr_save_x86_hvm.c's order.
    fn state(&mut self) -> Result<(), SaveError> {
        let mut state = self.save.feed.buffer();
        writer::tsc_info(&mut state, &self.save.memory.tsc_info().map_err(SaveError::guest)?);
        let context = self.save.memory.hvm_context().map_err(SaveError::guest)?;
        writer::libxc_record(&mut state, libxc::RecordType::HvmContext, &context)?;
        let params = self.save.memory.hvm_params().map_err(SaveError::guest)?;
        if !params.is_empty() {
            writer::hvm_params(&mut state, &params)?;
        }
        writer::libxc_end(&mut state);
        Ok(self.save.feed.bytes(state)?)
    }
}

const _: () = assert!(BATCH * PAGE_SIZE < migrate_stream::frame::MAX_DECODED as usize);
