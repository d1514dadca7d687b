//! Against a stream that a real Xen host wrote, and against streams that none would.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use migrate_stream::libxc::{DomainHeader, Page, PageEntry};
use migrate_stream::writer;

use super::*;

mod records;

/// What a guest was given.
#[derive(Debug, Default, PartialEq)]
struct Built {
    memory: BTreeMap<u64, Option<Box<[u8; PAGE_SIZE]>>>,
    superpages: Vec<u64>,
    params: Vec<(u64, u64)>,
    policy: (usize, usize),
    tsc: Option<TscInfo>,
    context: Vec<u8>,
    granted: Option<SpecialPages>,
    /// What `go_on` was told.
    gone_on: Option<u32>,
    /// Xen has no memory in one piece.
    fragmented: bool,
    /// What it has not taken is free again.
    claim_ended: bool,
    /// Most pages that it may have.
    most: Option<usize>,
}

/// Errors on what Xen would not allow.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Built>>);

impl Fake {
    fn add(&self, pfn: u64) -> Result<(), String> {
        let mut built = self.0.lock().unwrap();
        if built.most.is_some_and(|most| built.memory.len() >= most) {
            return Err("more than it may have".into());
        }
        let taken = built.memory.insert(pfn, None);
        if taken.is_some() { Err(format!("{pfn:#x} was there")) } else { Ok(()) }
    }

    fn fill(&self, pfn: u64, contents: [u8; PAGE_SIZE]) -> Result<(), String> {
        let mut built = self.0.lock().unwrap();
        let page = built.memory.get_mut(&pfn).ok_or_else(|| format!("{pfn:#x} is not there"))?;
        *page = Some(Box::new(contents));
        Ok(())
    }
}

impl NewGuest for Fake {
    type Error = String;

    fn set_cpu_policy(&mut self, cpuid: &[u8], msr: &[u8]) -> Result<(), String> {
        self.0.lock().unwrap().policy = (cpuid.len(), msr.len());
        Ok(())
    }
    fn populate(&mut self, pfns: &[u64]) -> Result<(), String> {
        pfns.iter().try_for_each(|pfn| self.add(*pfn))
    }
    fn populate_superpage(&mut self, first: u64) -> Result<bool, String> {
        if self.0.lock().unwrap().fragmented {
            return Ok(false);
        }
        self.0.lock().unwrap().superpages.push(first);
        (first..first + SUPERPAGE).try_for_each(|pfn| self.add(pfn)).map(|()| true)
    }
    fn give_back(&mut self, pfns: &[u64]) -> Result<(), String> {
        let mut built = self.0.lock().unwrap();
        pfns.iter().try_for_each(|pfn| {
            let gone = built.memory.remove(pfn).map(drop);
            gone.ok_or_else(|| format!("{pfn:#x} is not there"))
        })
    }
    fn write(&mut self, pages: &[Contents<'_>]) -> Result<(), String> {
        pages.iter().try_for_each(|(pfn, contents)| self.fill(*pfn, **contents))
    }
    fn clear(&mut self, pfn: u64) -> Result<(), String> {
        self.fill(pfn, [0; PAGE_SIZE])
    }
    fn grant(&mut self, special: SpecialPages) -> Result<(), String> {
        self.0.lock().unwrap().granted = Some(special);
        Ok(())
    }
    fn set_tsc_info(&mut self, tsc: &TscInfo) -> Result<(), String> {
        self.0.lock().unwrap().tsc = Some(*tsc);
        Ok(())
    }
    fn set_hvm_param(&mut self, param: HvmParam) -> Result<(), String> {
        self.0.lock().unwrap().params.push((param.index, param.value));
        Ok(())
    }
    fn set_hvm_context(&mut self, context: &[u8]) -> Result<(), String> {
        self.0.lock().unwrap().context = context.to_vec();
        Ok(())
    }
    fn end_claim(&mut self) -> Result<(), String> {
        self.0.lock().unwrap().claim_ended = true;
        Ok(())
    }
    fn event_channels(&self) -> EventChannels {
        EventChannels { store: 11, console: 12 }
    }
}

const SPECIAL: SpecialPages = SpecialPages { store: 0xfeff9, console: 0xfefff };

/// Restores this stream, given in pieces, and tells what became of it.
fn restored(fake: &Fake, special: SpecialPages, pieces: &[&[u8]]) -> Result<(), LoadError> {
    let built = fake.0.clone();
    let go_on = move |missing| {
        let mut built = built.lock().unwrap();
        assert_eq!(built.memory.len(), 2, "libxl waits for the special pages alone");
        assert!(built.granted.is_some() && built.gone_on.is_none());
        built.gone_on = Some(missing);
        Ok::<(), String>(())
    };
    let mut restorer = MemoryRestore::new(fake.clone(), special, go_on);
    pieces.iter().try_for_each(|piece| restorer.take(piece))?;
    assert!(!fake.0.lock().unwrap().claim_ended);
    restorer.finish()
}

/// The libxl stream of an `xl save` of a PVH guest, as the lab's Xen wrote it.
fn real_stream() -> Vec<u8> {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../migrate-stream/tests/streams/pvh-small.xlsave.zst"
    );
    let saved = zstd::decode_all(std::fs::File::open(file).unwrap()).unwrap();
    let mut reader = StreamReader::new(Start::XlFile);
    let mut input = &saved[..];
    loop {
        if let Some(Event::XlOptionalEnd) = reader.next(&mut input).unwrap() {
            return input.to_vec();
        }
    }
}

/// The records of a stream: type and body.
fn records(stream: &[u8]) -> Vec<(RecordType, Vec<u8>)> {
    let mut reader = StreamReader::new(Start::Libxl);
    let mut input = stream;
    let mut records: Vec<(RecordType, Vec<u8>)> = Vec::new();
    while let Some(event) = reader.next(&mut input).unwrap() {
        match event {
            Event::LibxcRecord { header, .. } => records.push((header.record_type, Vec::new())),
            Event::Body(piece) => records.last_mut().unwrap().1.extend_from_slice(piece),
            _ => {}
        }
    }
    records
}

#[test]
fn a_real_guest_is_rebuilt_page_for_page() {
    let stream = real_stream();
    let records = records(&stream);
    let body = |wanted| &records.iter().find(|(record_type, _)| *record_type == wanted).unwrap().1;
    let params: Vec<_> = HvmParams::parse(body(RecordType::HvmParams))
        .unwrap()
        .params()
        .map(|p| (p.index, p.value))
        .collect();
    let of = |index| params.iter().find(|(at, _)| *at == index).unwrap().1;
    let special = SpecialPages { store: of(param::STORE_PFN), console: of(param::CONSOLE_PFN) };

    let mut expected = BTreeMap::new();
    for (_, body) in records.iter().filter(|(record_type, _)| *record_type == RecordType::PageData)
    {
        for page in PageData::parse(body).unwrap().pages() {
            if let Some(contents) = page.contents {
                expected.insert(page.entry.pfn, Some(Box::new(*contents)));
            }
        }
    }
    for pfn in [special.store, special.console] {
        expected.insert(pfn, Some(Box::new([0; PAGE_SIZE])));
    }

    for size in [stream.len(), 100_003, 8191] {
        let fake = Fake::default();
        restored(&fake, special, &stream.chunks(size).collect::<Vec<_>>()).unwrap();
        let built = std::mem::take(&mut *fake.0.lock().unwrap());
        assert!(
            built.memory == expected,
            "{} pages, expected {}",
            built.memory.len(),
            expected.len()
        );
        assert_eq!((built.gone_on, built.claim_ended), (Some(0), true));
        assert_eq!(built.granted, Some(special));
        assert_eq!(built.policy.0, body(RecordType::X86CpuidPolicy).len());
        assert_eq!(built.context, *body(RecordType::HvmContext));
        assert_eq!(built.tsc, Some(TscInfo::parse(body(RecordType::X86TscInfo)).unwrap()));
        let ports = [(param::STORE_EVTCHN, 11), (param::CONSOLE_EVTCHN, 12)];
        assert_eq!(built.params, [&params[..], &ports].concat());
    }
}

/// A stream of a guest with these records of pages; `state` is what follows them.
fn stream(batches: &[Vec<(u64, PageType)>], state: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    writer::libxl_header(&mut out);
    writer::libxc_context(&mut out);
    writer::image_header(&mut out);
    writer::domain_header(
        &mut out,
        DomainHeader { domain_type: DomainType::Hvm, xen_major: 4, xen_minor: 17 },
    );
    writer::libxc_record(&mut out, RecordType::X86CpuidPolicy, &[0; 24]).unwrap();
    writer::static_data_end(&mut out);
    for batch in batches {
        let contents = [7; PAGE_SIZE];
        let page = |&(pfn, page_type): &(u64, PageType)| Page {
            entry: PageEntry { pfn, page_type },
            contents: page_type.has_contents().then_some(&contents),
        };
        let pages: Vec<_> = batch.iter().map(page).collect();
        writer::page_data(&mut out, &pages).unwrap();
    }
    state(&mut out);
    writer::libxc_end(&mut out);
    writer::libxl_end(&mut out);
    out
}

fn good_state(out: &mut Vec<u8>) {
    writer::tsc_info(out, &TscInfo { mode: 0, khz: 1, nsec: 2, incarnation: 3 });
    writer::libxc_record(out, RecordType::HvmContext, &[1; 16]).unwrap();
    let param = |index, value| HvmParam { index, value };
    let params =
        [param(param::STORE_PFN, SPECIAL.store), param(param::CONSOLE_PFN, SPECIAL.console)];
    writer::hvm_params(out, &params).unwrap();
}

fn ram(pfns: impl Iterator<Item = u64>) -> Vec<(u64, PageType)> {
    pfns.map(|pfn| (pfn, PageType::NoTab)).collect()
}

#[test]
fn whole_superpages_are_made_in_one_piece_where_there_is_memory_for_it() {
    let batches = [ram(256..1280), ram(1280..1400), ram(512..600)];
    for fragmented in [false, true] {
        let fake = Fake::default();
        fake.0.lock().unwrap().fragmented = fragmented;
        restored(&fake, SPECIAL, &[&stream(&batches, good_state)]).unwrap();
        let built = fake.0.lock().unwrap();
        assert_eq!(built.superpages, if fragmented { vec![] } else { vec![512] });
        assert_eq!(built.memory.len(), 2 + 1400 - 256);
        assert_eq!(built.gone_on, Some(MISSING_MSR));
    }
}

#[test]
fn the_special_pages_are_never_written_from_the_stream() {
    let batches =
        [ram([SPECIAL.store, SPECIAL.console, 5].into_iter()), ram([SPECIAL.store].into_iter())];
    let fake = Fake::default();
    restored(&fake, SPECIAL, &[&stream(&batches, good_state)]).unwrap();
    let built = fake.0.lock().unwrap();
    for pfn in [SPECIAL.store, SPECIAL.console] {
        assert_eq!(built.memory[&pfn], Some(Box::new([0; PAGE_SIZE])));
    }
    assert_eq!(built.memory[&5], Some(Box::new([7; PAGE_SIZE])));
}

#[test]
fn pages_that_are_no_memory_are_not_made() {
    let batch = vec![
        (1, PageType::Xtab),
        (2, PageType::Broken),
        (3, PageType::Xalloc),
        (4, PageType::NoTab),
    ];
    let fake = Fake::default();
    restored(&fake, SPECIAL, &[&stream(&[batch], good_state)]).unwrap();
    let built = fake.0.lock().unwrap();
    assert!(!built.memory.contains_key(&1) && !built.memory.contains_key(&2));
    assert_eq!(built.memory[&3], None);
}

#[test]
fn what_no_pvh_guest_has_is_refused() {
    let refused =
        |stream: &[u8]| restored(&Fake::default(), SPECIAL, &[stream]).unwrap_err().to_string();
    let table = vec![(1, PageType::Table { level: 1, pinned: false })];
    assert_eq!(refused(&stream(&[table], good_state)), "page 0x1 is a PV guest's page table");
    let many = ram(0..1025);
    assert!(refused(&stream(&[many], good_state)).contains("at most 1024"));
    let moved = |out: &mut Vec<u8>| {
        writer::libxc_record(out, RecordType::HvmContext, &[1; 16]).unwrap();
        writer::hvm_params(out, &[HvmParam { index: param::STORE_PFN, value: 9 }]).unwrap();
    };
    assert!(refused(&stream(&[], moved)).contains("announced as 0xfeff9"));
    assert!(refused(&stream(&[], |_| {})).contains("without the guest's state"));
    let whole = stream(&[], good_state);
    assert!(restored(&Fake::default(), SPECIAL, &[&whole[..whole.len() - 1]]).is_err(), "cut off");
    assert!(refused(&[&whole[..], b"x"].concat()).contains("after the stream's end"));
    let same = SpecialPages { store: 5, console: 5 };
    assert!(
        restored(&Fake::default(), same, &[&whole]).unwrap_err().to_string().contains("both 0x5")
    );
}

#[test]
fn nothing_panics_whatever_comes() {
    let whole = stream(&[ram(0..20)], good_state);
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        let _ = restored(&Fake::default(), SPECIAL, &[&damaged]);
    }
}
