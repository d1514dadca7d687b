//! A guest whose balloon moves while its memory is read, from end to end: what it has when it is
//! suspended is what is built from the stream.
//!
//! The guest is a model of Xen's log-dirty mode, with what Xen does not note: see the saver's
//! census. Unless it is watched, it gives or takes one page between two looks at the number of its
//! pages.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use migrate_stream::libxc::{HvmParam, PAGE_SIZE, TscInfo};
use migrate_stream::writer;
use proptest::prelude::*;

use rxl_core::domain::SpecialPages;
use rxl_core::io::{Cancel, Guarded, pipe};
use rxl_core::steering::{Decision, PrecopyStats, Steering, SuspendRefused};
use rxl_datapath::feed::feed;
use rxl_datapath::meter::Meter;
use rxl_datapath::plain::Copier;
use rxl_precopy::load_memory::{Contents, EventChannels, MemoryRestore, NewGuest, SUPERPAGE};
use rxl_precopy::save_memory::{Memory, MemorySave, PageKind};

const SPECIAL: SpecialPages = SpecialPages { store: 0xfeff9, console: 0xfefff };

#[derive(Clone, Copy, Debug)]
enum Act {
    Write(u64, u8),
    Give(u64),
    /// It takes a page and writes to it at once.
    Take(u64, u8),
    Rest,
}

#[derive(Clone, Debug, Default)]
struct Guest {
    pages: BTreeMap<u64, u8>,
    /// Pages whose next write Xen notes.
    protected: BTreeSet<u64>,
    dirty: BTreeSet<u64>,
    log_dirty: bool,
    suspended: bool,
    end: u64,
    xen: (u32, u32),
    acts: VecDeque<Act>,
    may_balloon: bool,
    /// Somebody looks at the number of its pages between two looks of the saver's.
    watched: bool,
    grown: bool,
}

impl Guest {
    /// The guest runs for a moment.
    fn run(&mut self) {
        if self.suspended {
            return;
        }
        match self.acts.front().copied() {
            None => return,
            Some(Act::Rest) => {}
            Some(Act::Write(pfn, byte)) => self.write(pfn, byte),
            Some(Act::Give(_) | Act::Take(..)) if !self.may_balloon && !self.watched => return,
            Some(Act::Give(pfn)) => {
                self.may_balloon = self.pages.remove(&pfn).is_none();
                if self.notes_given() {
                    self.dirty.remove(&pfn);
                }
            }
            Some(Act::Take(pfn, byte)) => self.take(pfn, byte),
        }
        self.acts.pop_front();
    }

    fn notes_given(&self) -> bool {
        self.xen >= (4, 22)
    }

    fn take(&mut self, pfn: u64, byte: u8) {
        if self.pages.contains_key(&pfn) {
            return;
        }
        self.may_balloon = false;
        self.grown = true;
        self.pages.insert(pfn, 0);
        self.protected.remove(&pfn);
        self.end = self.end.max(pfn + 1);
        if self.notes_given() {
            self.dirty.insert(pfn);
        }
        self.write(pfn, byte);
    }

    fn write(&mut self, pfn: u64, byte: u8) {
        let Some(page) = self.pages.get_mut(&pfn) else { return };
        *page = byte;
        if self.log_dirty && self.protected.remove(&pfn) {
            self.dirty.insert(pfn);
        }
    }
}

/// The guest as the saver sees it.
struct Seen {
    guest: Arc<Mutex<Guest>>,
    pfns: u64,
    bitmap: Vec<u64>,
}

impl Seen {
    fn moment(&self) -> std::sync::MutexGuard<'_, Guest> {
        let mut guest = self.guest.lock().unwrap();
        guest.run();
        guest
    }
}

impl Memory for Seen {
    type Error = String;

    fn pfns(&mut self) -> Result<u64, String> {
        let end = self.moment().end;
        self.pfns = end;
        Ok(end)
    }
    fn resident(&mut self) -> Result<u64, String> {
        let mut guest = self.moment();
        guest.may_balloon = true;
        Ok(guest.pages.len() as u64)
    }
    fn take_growth(&mut self) -> bool {
        let mut guest = self.guest.lock().unwrap();
        std::mem::take(&mut guest.grown) && guest.watched
    }
    fn start_log_dirty(&mut self) -> Result<(), String> {
        let mut guest = self.moment();
        guest.log_dirty = true;
        guest.protected = guest.pages.keys().copied().collect();
        Ok(())
    }
    fn stop_log_dirty(&mut self) -> Result<(), String> {
        Ok(())
    }
    fn collect_dirty(&mut self, _last: bool) -> Result<(), String> {
        let mut bitmap = vec![0; self.pfns.div_ceil(64) as usize];
        let mut guest = self.moment();
        for pfn in std::mem::take(&mut guest.dirty).into_iter().filter(|pfn| *pfn < self.pfns) {
            bitmap[(pfn / 64) as usize] |= 1 << (pfn % 64);
        }
        guest.protected = guest.pages.keys().copied().collect();
        guest.run();
        drop(guest);
        self.bitmap = bitmap;
        Ok(())
    }
    fn dirty(&self) -> &[u64] {
        &self.bitmap
    }
    fn kinds(&mut self, pfns: &[u64], kinds: &mut Vec<PageKind>) -> Result<(), String> {
        let guest = self.moment();
        let kind = |pfn| if guest.pages.contains_key(pfn) { PageKind::Ram } else { PageKind::Hole };
        *kinds = pfns.iter().map(kind).collect();
        Ok(())
    }
    fn copy(&mut self, pfns: &[u64], out: &mut Vec<u8>) -> Result<Vec<usize>, String> {
        let mut failed = Vec::new();
        for (index, pfn) in pfns.iter().enumerate() {
            // It writes to pages of which some have been read already.
            let guest = if index % 3 == 0 { self.moment() } else { self.guest.lock().unwrap() };
            match guest.pages.get(pfn) {
                Some(byte) => out.extend_from_slice(&[*byte; PAGE_SIZE]),
                None => failed.push(index),
            }
        }
        Ok(failed)
    }
    fn cpu_policy(&mut self) -> Result<(Vec<u8>, Vec<u8>), String> {
        Ok((vec![0; 24], Vec::new()))
    }
    fn xen_version(&self) -> (u32, u32) {
        self.guest.lock().unwrap().xen
    }
    fn is_suspended(&mut self) -> Result<bool, String> {
        Ok(self.guest.lock().unwrap().suspended)
    }
    fn tsc_info(&mut self) -> Result<TscInfo, String> {
        Ok(TscInfo { mode: 0, khz: 1, nsec: 1, incarnation: 0 })
    }
    fn hvm_context(&mut self) -> Result<Vec<u8>, String> {
        Ok(vec![1; 16])
    }
    fn hvm_params(&mut self) -> Result<Vec<HvmParam>, String> {
        let param = |index, value| HvmParam { index, value };
        Ok(vec![param(1, SPECIAL.store), param(17, SPECIAL.console)])
    }
}

/// The guest that is built: the bytes of its pages.
#[derive(Clone, Default)]
struct Built(Arc<Mutex<BTreeMap<u64, u8>>>);

impl NewGuest for Built {
    type Error = String;

    fn set_cpu_policy(&mut self, _: &[u8], _: &[u8]) -> Result<(), String> {
        Ok(())
    }
    fn populate(&mut self, pfns: &[u64]) -> Result<(), String> {
        let mut pages = self.0.lock().unwrap();
        let taken = pfns.iter().find(|pfn| pages.insert(**pfn, 0).is_some());
        taken.map_or(Ok(()), |pfn| Err(format!("{pfn:#x} was there")))
    }
    fn populate_superpage(&mut self, first: u64) -> Result<bool, String> {
        self.populate(&(first..first + SUPERPAGE).collect::<Vec<_>>()).map(|()| true)
    }
    fn give_back(&mut self, pfns: &[u64]) -> Result<(), String> {
        let mut pages = self.0.lock().unwrap();
        let missing = pfns.iter().find(|pfn| pages.remove(pfn).is_none());
        missing.map_or(Ok(()), |pfn| Err(format!("{pfn:#x} is not there")))
    }
    fn write(&mut self, pages: &[Contents<'_>]) -> Result<(), String> {
        let mut built = self.0.lock().unwrap();
        pages.iter().for_each(|(pfn, bytes)| *built.get_mut(pfn).unwrap() = bytes[0]);
        Ok(())
    }
    fn clear(&mut self, _: u64) -> Result<(), String> {
        Ok(())
    }
    fn grant(&mut self, _: SpecialPages) -> Result<(), String> {
        Ok(())
    }
    fn set_tsc_info(&mut self, _: &TscInfo) -> Result<(), String> {
        Ok(())
    }
    fn set_hvm_param(&mut self, _: HvmParam) -> Result<(), String> {
        Ok(())
    }
    fn set_hvm_context(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
    fn end_claim(&mut self) -> Result<(), String> {
        Ok(())
    }
    fn event_channels(&self) -> EventChannels {
        EventChannels { store: 1, console: 2 }
    }
}

/// Goes on for so many iterations, and may cut the last one short.
struct Steered {
    iterations: u32,
    /// Questions until pre-copy must end at once.
    due_after: Cell<u32>,
}

impl Steering for Steered {
    fn precopy(&mut self, stats: &PrecopyStats) -> Decision {
        if stats.iteration > self.iterations { Decision::StopAndCopy } else { Decision::Continue }
    }
    fn is_due(&self) -> bool {
        self.due_after.set(self.due_after.get().saturating_sub(1));
        self.due_after.get() == 0
    }
    fn suspend(&mut self) -> Result<(), SuspendRefused> {
        Ok(())
    }
}

/// Saves the guest, and gives the libxl stream.
fn saved(guest: &Arc<Mutex<Guest>>, live: bool, mut steering: Steered) -> Vec<u8> {
    let (from_libxl, mut libxl) = pipe().map(|(r, w)| (r, std::fs::File::from(w))).unwrap();
    let mut around = Vec::new();
    writer::libxl_header(&mut around);
    writer::libxc_context(&mut around);
    writer::libxl_end(&mut around);
    libxl.write_all(&around).unwrap();
    drop(libxl);
    let (received, sent) = pipe().unwrap();
    let meter = Arc::new(Meter::default());
    let (feed, fed) = feed(meter.clone());
    let cancel = Cancel::new().unwrap();
    let guarded = |fd| Guarded::new(fd, cancel.clone(), None).unwrap();
    let (from, to) = (guarded(from_libxl), guarded(sent));
    let _copier = Copier::start(from, fed, to, cancel.clone(), meter, |copied| {
        copied.unwrap();
    })
    .unwrap();
    let reading = std::thread::spawn(move || {
        let mut stream = Vec::new();
        std::fs::File::from(received).read_to_end(&mut stream).unwrap();
        stream
    });
    let memory = Seen { guest: guest.clone(), pfns: 0, bitmap: Vec::new() };
    let save = MemorySave {
        memory,
        feed,
        steering: &mut steering,
        suspend: &mut || {
            guest.lock().unwrap().suspended = true;
            Ok(())
        },
        given_up: &|| false,
    };
    save.run(live).unwrap();
    reading.join().unwrap()
}

fn built_from(stream: &[u8]) -> BTreeMap<u64, u8> {
    let built = Built::default();
    let mut restore = MemoryRestore::new(built.clone(), SPECIAL, |_| Ok::<_, String>(()));
    restore.take(stream).unwrap();
    restore.finish().unwrap();
    let mut pages = built.0.lock().unwrap().clone();
    pages.retain(|pfn, _| ![SPECIAL.store, SPECIAL.console].contains(pfn));
    pages
}

fn pfn() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0_u64..9, 4 => 1020_u64..1032, 2 => 2040_u64..2100]
}

fn act() -> impl Strategy<Value = Act> {
    let above = prop_oneof![6 => pfn(), 1 => 2100_u64..5000];
    prop_oneof![
        4 => (pfn(), 1_u8..).prop_map(|(pfn, byte)| Act::Write(pfn, byte)),
        3 => pfn().prop_map(Act::Give),
        3 => (above, 1_u8..).prop_map(|(pfn, byte)| Act::Take(pfn, byte)),
        3 => Just(Act::Rest),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn what_a_guest_has_at_its_suspend_is_built(
        pages in prop::collection::btree_map(pfn(), 1_u8.., 0..40),
        acts in prop::collection::vec(act(), 0..60),
        iterations in 0_u32..6,
        due_after in prop_oneof![3 => Just(u32::MAX), 1 => 1_u32..30],
        xen in prop_oneof![Just((4, 17)), Just((4, 22))],
        live in prop::bool::weighted(0.9),
        watched: bool,
    ) {
        let acts = acts.into();
        let guest = Guest { pages, end: 2100, xen, acts, watched, ..Guest::default() };
        let guest = Arc::new(Mutex::new(guest));
        let steering = Steered { iterations, due_after: Cell::new(due_after) };
        let built = built_from(&saved(&guest, live, steering));
        prop_assert_eq!(&built, &guest.lock().unwrap().pages);
    }
}
