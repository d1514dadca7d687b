//! Streams to test with, and readings of them that can be compared.
// Each test binary uses another part of this module.
#![allow(dead_code)]

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use migrate_stream::libxc::{
    DomainHeader, DomainType, HvmParam, Page, PageEntry, PageType, RecordType, TscInfo,
};
use migrate_stream::reader::{Event, Start, StreamError, StreamReader};
use migrate_stream::{libxl, writer};
use proptest::prelude::*;

/// The content of a synthetic guest's page.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    /// The pfn has no page.
    Hole,
    /// All bytes are zero.
    Zero,
    /// Pseudo-random bytes from this seed.
    Noise(u64),
    /// All bytes are zero but the one at this offset.
    OneByte(u16),
}

/// The pfns of a PAGE_DATA record, each with its page's content.
pub type Batch = Vec<(u64, Fill)>;

/// The 4096 bytes that a [`Fill`] stands for.
pub fn contents(fill: Fill) -> [u8; 4096] {
    let mut page = [0; 4096];
    match fill {
        Fill::Hole | Fill::Zero => {}
        Fill::OneByte(at) => page[usize::from(at) % 4096] = 1,
        Fill::Noise(seed) => {
            let mut state = seed | 1;
            for byte in &mut page {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *byte = (state >> 56) as u8;
            }
        }
    }
    page
}

/// A PAGE_DATA record, with its header. Page types alternate where `tables` are allowed.
pub fn page_data(batch: &[(u64, Fill)], tables: bool) -> Vec<u8> {
    let bytes: Vec<[u8; 4096]> = batch.iter().map(|&(_, fill)| contents(fill)).collect();
    let pages: Vec<Page<'_>> = batch
        .iter()
        .zip(&bytes)
        .map(|(&(pfn, fill), bytes)| {
            let page_type = page_type(pfn, fill, tables);
            Page {
                entry: PageEntry { pfn, page_type },
                contents: page_type.has_contents().then_some(bytes),
            }
        })
        .collect();
    let mut out = Vec::new();
    writer::page_data(&mut out, &pages).unwrap();
    out
}

fn page_type(pfn: u64, fill: Fill, tables: bool) -> PageType {
    match (fill, pfn % 7) {
        (Fill::Hole, 0) => PageType::Broken,
        (Fill::Hole, 1) => PageType::Xalloc,
        (Fill::Hole, _) => PageType::Xtab,
        (_, level @ 1..=4) if tables => {
            PageType::Table { level: level as u8, pinned: pfn.is_multiple_of(2) }
        }
        _ => PageType::NoTab,
    }
}

/// Bytes that count up from 0: a body for records whose content does not matter.
pub fn blob(length: usize) -> Vec<u8> {
    (0..length).map(|at| at as u8).collect()
}

fn begin_libxc(domain_type: DomainType) -> Vec<u8> {
    let mut out = Vec::new();
    writer::image_header(&mut out);
    writer::domain_header(&mut out, DomainHeader { domain_type, xen_major: 4, xen_minor: 17 });
    out
}

fn record(out: &mut Vec<u8>, record_type: RecordType, body: &[u8]) {
    writer::libxc_record(out, record_type, body).unwrap();
}

fn static_data(out: &mut Vec<u8>) {
    record(out, RecordType::X86CpuidPolicy, &blob(3 * 24));
    let msr = [0xce_u32.to_le_bytes(), [0; 4], [0, 0, 0, 0x80], [0; 4]].concat();
    record(out, RecordType::X86MsrPolicy, &msr);
    writer::static_data_end(out);
}

const TSC: TscInfo = TscInfo { mode: 0, khz: 2_400_000, nsec: 987_654_321, incarnation: 1 };

/// Composes the libxc stream of a PVH guest.
pub fn pvh(batches: &[Batch]) -> Vec<u8> {
    let mut out = begin_libxc(DomainType::Hvm);
    static_data(&mut out);
    batches.iter().for_each(|batch| out.extend(page_data(batch, false)));
    writer::tsc_info(&mut out, &TSC);
    record(&mut out, RecordType::HvmContext, &blob(1003));
    writer::hvm_params(
        &mut out,
        &[HvmParam { index: 1, value: 0xfeffc }, HvmParam { index: 17, value: 0xfeffd }],
    )
    .unwrap();
    writer::libxc_end(&mut out);
    out
}

/// Composes the libxc stream of a PV guest.
pub fn pv(batches: &[Batch]) -> Vec<u8> {
    let mut out = begin_libxc(DomainType::Pv);
    record(&mut out, RecordType::X86PvInfo, &[8, 4, 0, 0, 0, 0, 0, 0]);
    static_data(&mut out);
    let p2m: Vec<u8> = [[0_u32, 1023].map(u32::to_le_bytes).concat(), blob(16)].concat();
    record(&mut out, RecordType::X86PvP2mFrames, &p2m);
    batches.iter().for_each(|batch| out.extend(page_data(batch, true)));
    writer::tsc_info(&mut out, &TSC);
    record(&mut out, RecordType::SharedInfo, &blob(4096));
    let vcpu = |length| [vec![0; 8], blob(length)].concat();
    record(&mut out, RecordType::X86PvVcpuBasic, &vcpu(5168));
    record(&mut out, RecordType::X86PvVcpuExtended, &vcpu(128));
    record(&mut out, RecordType::X86PvVcpuXsave, &vcpu(589));
    record(&mut out, RecordType::X86PvVcpuMsrs, &vcpu(32));
    writer::libxc_end(&mut out);
    out
}

/// Composes the libxl stream around a libxc stream, with an emulator's records where the guest is
/// to be HVM.
pub fn in_libxl(libxc: &[u8], emulator: bool) -> Vec<u8> {
    let mut out = Vec::new();
    writer::libxl_header(&mut out);
    writer::libxc_context(&mut out);
    out.extend_from_slice(libxc);
    if emulator {
        let header = [2_u32, 0].map(u32::to_le_bytes).concat();
        let xenstore = [&header, b"physmap/f0000000/name\0vga.vram\0".as_slice()].concat();
        writer::libxl_record(&mut out, libxl::RecordType::EmulatorXenstoreData, &xenstore).unwrap();
        let context = [header, blob(333)].concat();
        writer::libxl_record(&mut out, libxl::RecordType::EmulatorContext, &context).unwrap();
    }
    writer::libxl_end(&mut out);
    out
}

/// Composes xl's save file around a libxl stream.
pub fn in_xl(libxl: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    writer::xl_header(&mut out, r#"{"c_info":{"name":"synthetic"}}"#).unwrap();
    out.extend_from_slice(libxl);
    out
}

/// Four batches of one to nine pages, of every kind of content.
pub fn some_batches() -> Vec<Batch> {
    let batch = |first: u64| -> Batch {
        let fill = |index| match index % 4 {
            0 => Fill::Zero,
            1 => Fill::Hole,
            2 => Fill::Noise(index),
            _ => Fill::OneByte(4095),
        };
        (0..9).map(|index| (first + index, fill(index))).collect()
    };
    vec![batch(0), batch(100), vec![(5, Fill::Hole)], batch(3)]
}

/// Generates the content of a page.
pub fn fill() -> impl Strategy<Value = Fill> {
    prop_oneof![
        Just(Fill::Hole),
        Just(Fill::Zero),
        any::<u64>().prop_map(Fill::Noise),
        any::<u16>().prop_map(Fill::OneByte),
    ]
}

/// Generates up to five batches.
pub fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let page = (0..1_u64 << 52, fill());
    prop::collection::vec(prop::collection::vec(page, 1..20), 0..6)
}

/// The bytes of a stream, and with which format they begin.
pub type Whole = (Start, Vec<u8>);

/// Generates a stream that Xen could have written.
pub fn stream() -> impl Strategy<Value = Whole> {
    (batches(), any::<bool>(), any::<bool>(), 0..3).prop_map(|(batches, is_pv, emulator, outer)| {
        let libxc = if is_pv { pv(&batches) } else { pvh(&batches) };
        match outer {
            0 => (Start::Libxc, libxc),
            1 => (Start::Libxl, in_libxl(&libxc, emulator && !is_pv)),
            _ => (Start::XlFile, in_xl(&in_libxl(&libxc, emulator && !is_pv))),
        }
    })
}

/// The events of a stream as text, with the pieces of each body put together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub events: Vec<String>,
    body: Option<Vec<u8>>,
}

impl Reading {
    pub fn take(&mut self, event: Event<'_>) {
        if let Event::Body(piece) | Event::XlOptionalData(piece) = event {
            assert!(!piece.is_empty());
            self.body.get_or_insert_default().extend_from_slice(piece);
            return;
        }
        if let Some(body) = self.body.take() {
            self.events.push(format!("{} bytes, CRC {:08x}", body.len(), crc32fast::hash(&body)));
        }
        self.events.push(format!("{event:?}"));
    }
}

/// Reads a stream in pieces whose lengths repeat `lengths`; asserts that all of it is consumed.
pub fn read_in_pieces(whole: &Whole, lengths: &[usize]) -> Result<Reading, StreamError> {
    let (mut reader, mut reading) = (StreamReader::new(whole.0), Reading::default());
    let mut rest = whole.1.as_slice();
    for &length in lengths.iter().cycle() {
        let (mut piece, after) = rest.split_at(length.min(rest.len()));
        while let Some(event) = reader.next(&mut piece)? {
            reading.take(event);
        }
        assert!(piece.is_empty() || reader.is_complete());
        assert_eq!(reader.wanted() == 0, reader.is_complete());
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    assert_eq!(reader.offset(), whole.1.len() as u64);
    reader.finish().map(|()| reading)
}

/// Reads a stream in one piece.
pub fn read(whole: &Whole) -> Result<Reading, StreamError> {
    read_in_pieces(whole, &[whole.1.len().max(1)])
}

/// The libxc records of a stream: type, offset of the header, body.
pub fn libxc_records(whole: &Whole) -> Vec<(RecordType, usize, Vec<u8>)> {
    let (mut reader, mut input, mut records) =
        (StreamReader::new(whole.0), whole.1.as_slice(), Vec::new());
    let mut in_libxc = false;
    while let Some(event) = reader.next(&mut input).unwrap() {
        match event {
            Event::LibxcRecord { header, offset } => {
                in_libxc = true;
                records.push((header.record_type, offset as usize, Vec::new()));
            }
            Event::LibxlRecord { .. } => in_libxc = false,
            Event::Body(piece) if in_libxc => {
                records.last_mut().unwrap().2.extend_from_slice(piece)
            }
            _ => {}
        }
    }
    records
}

/// Paths of the repository's save files of real guests (`xl save` on Xen 4.17, then `zstd
/// --long=27`). Panics when there are none.
pub fn save_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streams");
    let listing =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = listing.map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> =
        paths.filter(|path| path.to_string_lossy().ends_with(".xlsave.zst")).collect();
    assert!(!files.is_empty(), "no *.xlsave.zst in {}", folder.display());
    files
}

/// Opens a save file for reading without its compression.
pub fn open_save_file(path: &Path) -> impl Read + use<> {
    let mut decoder = zstd::Decoder::new(File::open(path).unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    decoder
}
