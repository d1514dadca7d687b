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
mod error;

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

    /// One past its highest page number.
    fn pfns(&self) -> u64;
    /// Number of pages that it has, as Xen counts them: a measure for the progress.
    fn resident(&mut self) -> Result<u64, Self::Error>;
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
        let result = self.stream(live);
        if result.is_err()
            && live
            && let Err(error) = self.memory.stop_log_dirty()
        {
            tracing::warn!("{}", error.into());
        }
        result
    }

    fn stream(&mut self, live: bool) -> Result<(), SaveError> {
        self.head()?;
        let left = if live {
            self.memory.start_log_dirty().map_err(SaveError::guest)?;
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
        let (cpuid, msr) = self.memory.cpu_policy().map_err(SaveError::guest)?;
        let (xen_major, xen_minor) = self.memory.xen_version();
        let mut head = self.feed.buffer();
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
        Ok(self.feed.bytes(head)?)
    }

    /// Makes live iterations until the policy ends pre-copy. Returns a bitmap of what is left to
    /// send.
    fn precopy(&mut self) -> Result<Vec<u64>, SaveError> {
        let mut left = self.every_page(false)?;
        for iteration in 1.. {
            if let Some(left) = left {
                return Ok(left);
            }
            self.feed.settle()?;
            self.memory.collect_dirty(false).map_err(SaveError::guest)?;
            let dirty = self.memory.dirty().to_vec();
            let stats = PrecopyStats {
                iteration,
                written: self.feed.pages_fed(),
                dirty: bitmap::count(&dirty),
            };
            left = match self.steering.precopy(&stats) {
                Decision::StopAndCopy => Some(dirty),
                Decision::Abort => return Err(SaveError::Policy),
                Decision::Continue => self.send_iteration(dirty, false)?,
            };
        }
        Err(SaveError::Endless)
    }

    fn stop_guest(&mut self) -> Result<(), SaveError> {
        self.steering.suspend().map_err(SaveError::NotAllowed)?;
        (self.suspend)().map_err(SaveError::Suspend)?;
        if self.memory.is_suspended().map_err(SaveError::guest)? {
            Ok(())
        } else {
            Err(SaveError::NotSuspended)
        }
    }

    fn last_iteration(&mut self, mut dirty: Vec<u64>) -> Result<(), SaveError> {
        self.memory.collect_dirty(true).map_err(SaveError::guest)?;
        bitmap::merge(&mut dirty, self.memory.dirty());
        self.send_iteration(dirty, true).map(drop)
    }

    /// Sends all pages that there are. Holes are found by asking Xen for each page number. Returns
    /// a bitmap of what is left where the iteration was cut short.
    fn every_page(&mut self, suspended: bool) -> Result<Option<Vec<u64>>, SaveError> {
        let resident = self.memory.resident().map_err(SaveError::guest)?;
        self.feed.begin_iteration(resident, suspended);
        let (mut there, mut kinds) = (Vec::new(), Vec::new());
        let end = self.memory.pfns();
        for from in (0..end).step_by(BATCH) {
            let asked: Vec<u64> = (from..end.min(from + BATCH as u64)).collect();
            self.memory.kinds(&asked, &mut kinds).map_err(SaveError::guest)?;
            there.extend(
                asked
                    .into_iter()
                    .zip(kinds.iter().copied())
                    .filter(|(_, kind)| *kind != PageKind::Hole),
            );
            if there.len() >= BATCH {
                let rest = there.split_off(BATCH);
                self.record(&there)?;
                there = rest;
                if let Some((next, _)) =
                    there.first().copied().filter(|_| self.is_cut_short(suspended))
                {
                    return Ok(Some(bitmap::from(next, end)));
                }
            }
        }
        self.record(&there).map(|()| None)
    }

    /// Sends the pages of a bitmap. Returns those that are left where the iteration was cut short.
    fn send_iteration(
        &mut self,
        mut dirty: Vec<u64>,
        suspended: bool,
    ) -> Result<Option<Vec<u64>>, SaveError> {
        self.feed.begin_iteration(bitmap::count(&dirty), suspended);
        let (mut pfns, mut kinds) = (Vec::with_capacity(BATCH), Vec::new());
        let mut next = bitmap::next(&dirty, 0);
        while let Some(first) = next {
            if self.is_cut_short(suspended) {
                bitmap::clear_below(&mut dirty, first);
                return Ok(Some(dirty));
            }
            pfns.clear();
            while let Some(pfn) = next.filter(|_| pfns.len() < BATCH) {
                pfns.push(pfn);
                next = bitmap::next(&dirty, pfn + 1);
            }
            self.memory.kinds(&pfns, &mut kinds).map_err(SaveError::guest)?;
            let entries: Vec<_> = pfns.iter().copied().zip(kinds.iter().copied()).collect();
            self.record(&entries)?;
        }
        Ok(None)
    }

    fn is_cut_short(&self, suspended: bool) -> bool {
        !suspended && self.steering.is_due()
    }

    /// Sends one PAGE_DATA record of these pages.
    fn record(&mut self, entries: &[(u64, PageKind)]) -> Result<(), SaveError> {
        if entries.is_empty() {
            return Ok(());
        }
        if (self.given_up)() {
            return Err(SaveError::GivenUp);
        }
        let mut entries = entries.to_vec();
        let mut record = self.feed.buffer();
        record.resize(writer::page_data_head_len(entries.len()), 0);
        self.contents(&mut entries, &mut record)?;
        let list: Vec<_> = entries
            .iter()
            .map(|(pfn, kind)| PageEntry { pfn: *pfn, page_type: kind.in_stream() })
            .collect();
        writer::page_data_head(&mut record, &list)?;
        Ok(self.feed.pages(record)?)
    }

    /// Appends the contents of the pages that have any to `record`. A page may have been given back
    /// by the guest since Xen was asked: it is a hole then, as if it had been asked a moment later.
    fn contents(
        &mut self,
        entries: &mut [(u64, PageKind)],
        record: &mut Vec<u8>,
    ) -> Result<(), SaveError> {
        let mut ram: Vec<_> =
            entries.iter_mut().filter(|(_, kind)| *kind == PageKind::Ram).collect();
        let pfns: Vec<u64> = ram.iter().map(|(pfn, _)| *pfn).collect();
        let failed = self.memory.copy(&pfns, record).map_err(SaveError::guest)?;
        if failed.is_empty() {
            return Ok(());
        }
        let unmapped: Vec<u64> =
            failed.iter().filter_map(|index| pfns.get(*index)).copied().collect();
        let mut now = Vec::new();
        self.memory.kinds(&unmapped, &mut now).map_err(SaveError::guest)?;
        for ((index, pfn), kind) in failed.iter().zip(&unmapped).zip(now) {
            if kind == PageKind::Ram {
                return Err(SaveError::Unmappable(*pfn));
            }
            if let Some((_, old)) = ram.get_mut(*index) {
                *old = kind;
            }
        }
        Ok(())
    }

    /// Sends everything but memory, in xg_sr_save_x86_hvm.c's order.
    fn state(&mut self) -> Result<(), SaveError> {
        let mut state = self.feed.buffer();
        writer::tsc_info(&mut state, &self.memory.tsc_info().map_err(SaveError::guest)?);
        let context = self.memory.hvm_context().map_err(SaveError::guest)?;
        writer::libxc_record(&mut state, libxc::RecordType::HvmContext, &context)?;
        let params = self.memory.hvm_params().map_err(SaveError::guest)?;
        if !params.is_empty() {
            writer::hvm_params(&mut state, &params)?;
        }
        writer::libxc_end(&mut state);
        Ok(self.feed.bytes(state)?)
    }
}

const _: () = assert!(BATCH * PAGE_SIZE < migrate_stream::frame::MAX_DECODED as usize);
