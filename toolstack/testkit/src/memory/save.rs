//! Saves of synthetic guests, as libxl and libxc make them.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use migrate_stream::libxc::{
    DomainHeader, DomainType, Page, PageEntry, PageType, RecordType, TscInfo,
};
use migrate_stream::writer;

use super::page::page;
use super::walked::Walked;
use super::{Guest, MemoryHost, Summing, failed};
use rxl_core::domain::{DomId, RunState};
use rxl_core::host_error::HostError;
use rxl_core::notes::{Note, NoteKind, Notes};
use rxl_core::steering::{Decision, PrecopyStats, SaveFlags, Steering, Unsteered, Walker};
use rxl_datapath::feed::Feed;
use rxl_precopy::save_memory::MemorySave;

/// Pages in a PAGE_DATA record, as libxc writes them.
const BATCH: u64 = 1024;

/// A save under way.
pub(super) struct SyntheticSave {
    pub(super) host: MemoryHost,
    pub(super) domid: DomId,
    pub(super) guest: Guest,
    pub(super) output: Summing<File>,
    pub(super) notes: Notes,
    pub(super) steering: Box<dyn Steering>,
    pub(super) aborted: Arc<AtomicBool>,
    pub(super) generation: u64,
}

impl SyntheticSave {
    pub(super) fn run(mut self, flags: SaveFlags) -> Result<(), HostError> {
        self.host.change(self.domid, |kept| kept.log_dirty = flags.live)?;
        let result = self.stream(flags);
        // As libxc's cleanup does on every path, except that of a helper that was killed.
        self.host.change(self.domid, |kept| kept.log_dirty = false)?;
        result?;
        let Self { host, domid, output, .. } = self;
        let sum = output.sum();
        host.change(domid, |kept| kept.stream = Some(sum))
    }

    /// As libxl does when the session walks: its own header and its own end, and what is between
    /// comes through the feed.
    pub(super) fn walk(mut self, flags: SaveFlags, feed: Feed) -> Result<(), HostError> {
        let (mut head, mut end) = (Vec::new(), Vec::new());
        writer::libxl_header(&mut head);
        writer::libxc_context(&mut head);
        self.write(&head)?;
        self.note(NoteKind::Walker(Walker::Rxl));
        let memory = Walked::new(self.host.clone(), self.domid, self.guest.clone());
        let mut steering = std::mem::replace(&mut self.steering, Box::new(Unsteered));
        let aborted = self.aborted.clone();
        let walk = MemorySave {
            memory,
            feed,
            steering: &mut *steering,
            suspend: &mut || self.suspend().map_err(Into::into),
            given_up: &|| aborted.load(Ordering::SeqCst),
        };
        walk.run(flags.live).map_err(|reason| failed("save", reason))?;
        writer::libxl_end(&mut end);
        self.write(&end)
    }

    fn stream(&mut self, flags: SaveFlags) -> Result<(), HostError> {
        let mut head = Vec::new();
        writer::libxl_header(&mut head);
        writer::libxc_context(&mut head);
        writer::image_header(&mut head);
        writer::domain_header(
            &mut head,
            DomainHeader { domain_type: DomainType::Hvm, xen_major: 4, xen_minor: 17 },
        );
        writer::static_data_end(&mut head);
        self.write(&head)?;
        let mut iterations = 0;
        if flags.live {
            iterations = self.live_iterations()?;
        }
        self.suspend()?;
        let last = if flags.live {
            self.guest.dirty.last().copied().unwrap_or(0)
        } else {
            self.guest.pages
        };
        self.send_iteration(iterations, last)?;
        self.tail()
    }

    /// As libxc does: what is dirty is sent before the policy's stop takes effect. Returns the
    /// iterations made.
    fn live_iterations(&mut self) -> Result<usize, HostError> {
        let mut dirty = self.guest.dirty.clone().into_iter().cycle();
        let (mut written, mut last) = (0, false);
        for iteration in 0.. {
            let count = if iteration == 0 { self.guest.pages } else { dirty.next().unwrap_or(0) };
            if self.host.faults().save_after_iterations == Some(iteration) {
                return Err(failed("save", "as asked"));
            }
            if iteration > 0 {
                let stats = PrecopyStats { iteration: iteration as u32, written, dirty: count };
                last = match self.steering.precopy(&stats) {
                    Decision::Continue => {
                        !self.guest.endless && iteration == self.guest.dirty.len()
                    }
                    Decision::StopAndCopy => true,
                    Decision::Abort => return Err(failed("save", "stopped as the policy demands")),
                };
            }
            self.send_iteration(iteration, count)?;
            written += count;
            if last || (self.guest.dirty.is_empty() && !self.guest.endless) {
                return Ok(iteration + 1);
            }
        }
        unreachable!("the loop has no end of its own")
    }

    fn suspend(&mut self) -> Result<(), HostError> {
        self.steering.suspend().map_err(|reason| failed("save", reason))?;
        for what in [NoteKind::SuspendRequested, NoteKind::SuspendAcknowledged] {
            self.note(what);
        }
        if self.host.faults().crash {
            self.host.change(self.domid, |kept| kept.domain.state = RunState::Shutdown)?;
            return Err(failed("save", "the guest has crashed"));
        }
        self.host.change(self.domid, |kept| kept.domain.state = RunState::Suspended)?;
        self.note(NoteKind::Suspended);
        self.note(NoteKind::Progress { what: "Domain now suspended".into(), done: 0, total: 0 });
        if self.host.faults().save_after_suspend {
            Err(failed("save", "as asked, after the suspend"))
        } else {
            Ok(())
        }
    }

    /// Sends `count` pages, spread over all memory, in ascending order.
    fn send_iteration(&mut self, iteration: usize, count: u64) -> Result<(), HostError> {
        let what = format!("Frames iteration {iteration}");
        self.note(NoteKind::Progress { what: what.clone(), done: 0, total: count });
        let stride = self.guest.pages.checked_div(count).unwrap_or(1).max(1);
        let mut record = Vec::new();
        for from in (0..count).step_by(BATCH as usize) {
            if self.aborted.load(Ordering::SeqCst) {
                return Err(HostError::Aborted("save"));
            }
            let pfns = (from..count.min(from + BATCH)).map(|n| n * stride);
            self.batch(pfns, &mut record)?;
        }
        self.note(NoteKind::Progress { what, done: count, total: count });
        self.generation += 1;
        Ok(())
    }

    fn batch(
        &mut self,
        pfns: impl Iterator<Item = u64>,
        record: &mut Vec<u8>,
    ) -> Result<(), HostError> {
        let contents: Vec<_> =
            pfns.map(|pfn| (pfn, page(&self.guest, pfn, self.generation))).collect();
        let pages: Vec<_> = contents
            .iter()
            .map(|(pfn, contents)| Page {
                entry: PageEntry { pfn: *pfn, page_type: PageType::NoTab },
                contents: Some(contents.as_ref()),
            })
            .collect();
        record.clear();
        writer::page_data(record, &pages).map_err(|e| failed("save", e))?;
        self.write(record)
    }

    fn tail(&mut self) -> Result<(), HostError> {
        let mut tail = Vec::new();
        writer::tsc_info(&mut tail, &TscInfo { mode: 0, khz: 1_000_000, nsec: 1, incarnation: 0 });
        writer::libxc_record(&mut tail, RecordType::HvmContext, &[0x5a; 3000])
            .map_err(|e| failed("save", e))?;
        writer::hvm_params(&mut tail, &[]).map_err(|e| failed("save", e))?;
        writer::libxc_end(&mut tail);
        writer::libxl_end(&mut tail);
        self.write(&tail)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HostError> {
        self.output.file.write_all(bytes).map_err(|e| failed("save", e))?;
        self.output.passed(bytes);
        Ok(())
    }

    fn note(&self, what: NoteKind) {
        // A session that has stopped listening is about to abort.
        let _ = self.notes.send(Note { at: Instant::now(), what });
    }
}
