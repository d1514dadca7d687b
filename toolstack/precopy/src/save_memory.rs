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

use rxl_core::steering::{Decision, PrecopyStats, Steering};
use rxl_datapath::feed::Feed;

/// Page numbers in one question to Xen, and pages in one record: libxc's own and Xen's limit for
/// the types (xg_sr_common.h: MAX_BATCH_SIZE; domctl.c: getpageframeinfo3).
const BATCH: usize = 1024;

/// Bits of log-dirty bitmaps: bit n of word m stands for pfn 64 m + n.
pub mod bitmap {
    /// The first bit that is set, from this one on.
    pub fn next(words: &[u64], from: u64) -> Option<u64> {
        let mut index = usize::try_from(from / 64).ok()?;
        let mut word = words.get(index)? & (u64::MAX << (from % 64));
        while word == 0 {
            index += 1;
            word = *words.get(index)?;
        }
        Some(index as u64 * 64 + u64::from(word.trailing_zeros()))
    }

    /// All bits from `first` on, of `end`.
    pub fn from(first: u64, end: u64) -> Vec<u64> {
        let mut words = vec![u64::MAX; usize::try_from(end.div_ceil(64)).unwrap_or(0)];
        if let Some(last) = words.last_mut().filter(|_| !end.is_multiple_of(64)) {
            *last = (1 << (end % 64)) - 1;
        }
        clear_below(&mut words, first);
        words
    }

    /// Clears all bits below this one.
    pub fn clear_below(words: &mut [u64], first: u64) {
        let whole = usize::try_from(first / 64).unwrap_or(usize::MAX).min(words.len());
        words[..whole].fill(0);
        if let Some(word) = words.get_mut(whole) {
            *word &= u64::MAX << (first % 64);
        }
    }

    /// Adds the bits of another bitmap of the same length.
    pub fn merge(into: &mut [u64], more: &[u64]) {
        into.iter_mut().zip(more).for_each(|(word, more)| *word |= more);
    }

    /// How many bits are set.
    pub fn count(words: &[u64]) -> u64 {
        words.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// What is behind a page number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Memory.
    Ram,
    /// Nothing.
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

/// A guest to be saved. Errors are one line.
pub trait Memory {
    /// One past its highest page number.
    fn pfns(&self) -> u64;
    /// Pages that it has, as Xen counts them: a measure for the progress.
    fn resident(&mut self) -> Result<u64, String>;
    /// Notes from now on which pages are written to.
    fn start_log_dirty(&mut self) -> Result<(), String>;
    /// Stops that.
    fn stop_log_dirty(&mut self) -> Result<(), String>;
    /// Fetches which pages were written to since the last time, and forgets it. `last` also tells
    /// of those that the hypervisor itself writes to.
    fn collect_dirty(&mut self, last: bool) -> Result<(), String>;
    /// What was fetched, as a [`bitmap`].
    fn dirty(&self) -> &[u64];
    /// What is behind up to 1024 page numbers, into `kinds`.
    fn kinds(&mut self, pfns: &[u64], kinds: &mut Vec<PageKind>) -> Result<(), String>;
    /// Appends the contents of these pages, but for those that cannot be mapped, whose indices it
    /// returns.
    fn copy(&mut self, pfns: &[u64], out: &mut Vec<u8>) -> Result<Vec<usize>, String>;
    /// The bodies of CPUID_POLICY and MSR_POLICY.
    fn cpu_policy(&mut self) -> Result<(Vec<u8>, Vec<u8>), String>;
    /// `MAJOR`, `MINOR` of the Xen it runs on.
    fn xen_version(&self) -> (u32, u32);
    /// Whether it is shut down to be suspended.
    fn is_suspended(&mut self) -> Result<bool, String>;
    /// The time stamp counter, for X86_TSC_INFO.
    fn tsc_info(&mut self) -> Result<TscInfo, String>;
    /// The body of HVM_CONTEXT.
    fn hvm_context(&mut self) -> Result<Vec<u8>, String>;
    /// Those parameters that are not zero.
    fn hvm_params(&mut self) -> Result<Vec<HvmParam>, String>;
}

/// Saves one guest.
pub struct MemorySave<'a, M> {
    /// Whose memory.
    pub memory: M,
    /// Where its stream goes.
    pub feed: Feed,
    /// Who decides when pre-copy ends.
    pub steering: &'a mut dyn Steering,
    /// Makes the guest stand still.
    pub suspend: &'a mut dyn FnMut() -> Result<(), String>,
    /// Whether all is to be given up.
    pub given_up: &'a dyn Fn() -> bool,
}

impl<M: Memory> MemorySave<'_, M> {
    /// The whole libxc stream. On success the guest stands still, with log-dirty mode on when it
    /// was a live save: who lets it run on switches that off. On failure log-dirty mode is off, and
    /// the guest runs, or stands still when it had been suspended already.
    pub fn run(mut self, live: bool) -> Result<(), String> {
        let result = self.stream(live);
        if result.is_err()
            && live
            && let Err(error) = self.memory.stop_log_dirty()
        {
            tracing::warn!("{error}");
        }
        result
    }

    fn stream(&mut self, live: bool) -> Result<(), String> {
        self.head()?;
        let left = if live {
            self.memory.start_log_dirty()?;
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

    fn head(&mut self) -> Result<(), String> {
        let (cpuid, msr) = self.memory.cpu_policy()?;
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
            writer::libxc_record(&mut head, *record_type, body).map_err(|e| e.to_string())?;
        }
        writer::static_data_end(&mut head);
        self.feed.bytes(head)
    }

    /// Live iterations until the policy has had enough. Returns what is left to send.
    fn precopy(&mut self) -> Result<Vec<u64>, String> {
        let mut left = self.every_page(false)?;
        for iteration in 1.. {
            if let Some(left) = left {
                return Ok(left);
            }
            self.feed.settle()?;
            self.memory.collect_dirty(false)?;
            let dirty = self.memory.dirty().to_vec();
            let stats = PrecopyStats {
                iteration,
                written: self.feed.pages_fed(),
                dirty: bitmap::count(&dirty),
            };
            left = match self.steering.precopy(&stats) {
                Decision::StopAndCopy => Some(dirty),
                Decision::Abort => return Err("stopped as the policy demands".into()),
                Decision::Continue => self.send_iteration(dirty, false)?,
            };
        }
        Err("more iterations than can be counted".into())
    }

    fn stop_guest(&mut self) -> Result<(), String> {
        self.steering.suspend()?;
        (self.suspend)()?;
        if self.memory.is_suspended()? { Ok(()) } else { Err("the guest has not suspended".into()) }
    }

    fn last_iteration(&mut self, mut dirty: Vec<u64>) -> Result<(), String> {
        self.memory.collect_dirty(true)?;
        bitmap::merge(&mut dirty, self.memory.dirty());
        self.send_iteration(dirty, true).map(drop)
    }

    /// Everything that is there: holes are found by asking for each page number. Returns what is
    /// left where the iteration was cut short.
    fn every_page(&mut self, suspended: bool) -> Result<Option<Vec<u64>>, String> {
        let resident = self.memory.resident()?;
        self.feed.begin_iteration(resident, suspended);
        let (mut there, mut kinds) = (Vec::new(), Vec::new());
        let end = self.memory.pfns();
        for from in (0..end).step_by(BATCH) {
            let asked: Vec<u64> = (from..end.min(from + BATCH as u64)).collect();
            self.memory.kinds(&asked, &mut kinds)?;
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

    /// The pages of a bitmap. Returns those that are left where the iteration was cut short.
    fn send_iteration(
        &mut self,
        mut dirty: Vec<u64>,
        suspended: bool,
    ) -> Result<Option<Vec<u64>>, String> {
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
            self.memory.kinds(&pfns, &mut kinds)?;
            let entries: Vec<_> = pfns.iter().copied().zip(kinds.iter().copied()).collect();
            self.record(&entries)?;
        }
        Ok(None)
    }

    fn is_cut_short(&self, suspended: bool) -> bool {
        !suspended && self.steering.is_due()
    }

    /// One PAGE_DATA record.
    fn record(&mut self, entries: &[(u64, PageKind)]) -> Result<(), String> {
        if entries.is_empty() {
            return Ok(());
        }
        if (self.given_up)() {
            return Err("given up".into());
        }
        let mut entries = entries.to_vec();
        let mut record = self.feed.buffer();
        record.resize(writer::page_data_head_len(entries.len()), 0);
        self.contents(&mut entries, &mut record)?;
        let list: Vec<_> = entries
            .iter()
            .map(|(pfn, kind)| PageEntry { pfn: *pfn, page_type: kind.in_stream() })
            .collect();
        writer::page_data_head(&mut record, &list).map_err(|e| e.to_string())?;
        self.feed.pages(record)
    }

    /// Appends the contents of those that have any. A page may have been given back by the guest
    /// since Xen was asked: it is a hole then, as if it had been asked a moment later.
    fn contents(
        &mut self,
        entries: &mut [(u64, PageKind)],
        record: &mut Vec<u8>,
    ) -> Result<(), String> {
        let ram: Vec<usize> =
            (0..entries.len()).filter(|index| entries[*index].1 == PageKind::Ram).collect();
        let pfns: Vec<u64> = ram.iter().map(|index| entries[*index].0).collect();
        let failed = self.memory.copy(&pfns, record)?;
        if failed.is_empty() {
            return Ok(());
        }
        let unmapped: Vec<u64> = failed.iter().map(|index| pfns[*index]).collect();
        let mut now = Vec::new();
        self.memory.kinds(&unmapped, &mut now)?;
        for ((index, pfn), kind) in failed.iter().zip(&unmapped).zip(now) {
            if kind == PageKind::Ram {
                return Err(format!("page {pfn:#x} cannot be mapped"));
            }
            entries[ram[*index]].1 = kind;
        }
        Ok(())
    }

    /// Everything but memory, in xg_sr_save_x86_hvm.c's order.
    fn state(&mut self) -> Result<(), String> {
        let mut state = self.feed.buffer();
        writer::tsc_info(&mut state, &self.memory.tsc_info()?);
        let context = self.memory.hvm_context()?;
        writer::libxc_record(&mut state, libxc::RecordType::HvmContext, &context)
            .map_err(|e| e.to_string())?;
        let params = self.memory.hvm_params()?;
        if !params.is_empty() {
            writer::hvm_params(&mut state, &params).map_err(|e| e.to_string())?;
        }
        writer::libxc_end(&mut state);
        self.feed.bytes(state)
    }
}

const _: () = assert!(BATCH * PAGE_SIZE < migrate_stream::frame::MAX_DECODED as usize);
