//! Record bodies: a parsed body is written with the same bytes, and every malformed body is refused
//! for the right reason.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::*;
use migrate_stream::libxc::*;
use migrate_stream::libxl::{Emulator, EmulatorId};
use migrate_stream::reader::Start;
use migrate_stream::xl;
use proptest::prelude::*;

/// All types that the format defines, and some numbers that it does not.
fn record_types() -> impl Iterator<Item = RecordType> {
    (0..0x13).chain([0x13, 0x7fff_ffff, 0x8000_0000, u32::MAX]).map(RecordType::from)
}

fn assert_same(record_type: RecordType, body: &[u8]) {
    let parsed = Body::parse(record_type, body).unwrap();
    let mut written = Vec::new();
    parsed.write(&mut written);
    assert_eq!(written, body, "{record_type}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bodies_are_written_as_they_were_read(whole in stream()) {
        for (record_type, _, body) in libxc_records(&whole) {
            assert_same(record_type, &body);
        }
    }

    #[test]
    fn page_data_gives_the_pages(batch in prop::collection::vec((0..1_u64 << 52, fill()), 1..30)) {
        let record = page_data(&batch, true);
        let parsed = PageData::parse(&record[8..]).unwrap();
        prop_assert_eq!(parsed.count(), batch.len());
        prop_assert_eq!(parsed.pages().count(), batch.len());
        let with_contents = parsed.pages().filter(|page| page.contents.is_some()).count();
        prop_assert_eq!(with_contents, parsed.contents_count());
        for (page, (pfn, fill)) in parsed.pages().zip(batch) {
            prop_assert_eq!(page.entry.pfn, pfn);
            prop_assert_eq!(page.contents.is_none(), matches!(fill, Fill::Hole));
            prop_assert!(page.contents.is_none_or(|bytes| *bytes == contents(fill)));
        }
    }

    #[test]
    fn what_any_bytes_parse_to_is_written_the_same(
        mut bytes: Vec<u8>,
        which in 0_u32..0x14,
        little in any::<bool>(),
    ) {
        // Small numbers in the first two words let more of the bodies parse.
        if little && bytes.len() >= 8 {
            bytes[1..4].fill(0);
            bytes[4..8].fill(0);
        }
        let mut written = Vec::new();
        if let Ok(body) = Body::parse(which.into(), &bytes) {
            body.write(&mut written);
            prop_assert_eq!(written, bytes);
        }
    }

    #[test]
    fn optional_data_is_written_as_it_was_read(
        json in "[^\0]{0,40}",
        tail: Vec<u8>,
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = [&(json.len() as u32 + 1).to_le_bytes(), json.as_bytes(), &[0], &tail].concat();
        let parsed = xl::OptionalData::parse(&bytes).unwrap();
        prop_assert_eq!(parsed.json(), Ok(Some(json.as_str())));
        prop_assert_eq!(parsed.tail, tail.as_slice());
        let mut written = Vec::new();
        parsed.write(&mut written);
        prop_assert_eq!(&written, &bytes);
        let cut = cut.index(json.len() + 5);
        let truncated = xl::OptionalData::parse(&bytes[..cut]);
        let told = matches!(truncated, Err(xl::XlError::Truncated { have, .. }) if have == cut);
        prop_assert!(told);
    }
}

#[test]
fn type_numbers_survive() {
    for record_type in record_types() {
        assert_eq!(RecordType::from(u32::from(record_type)), record_type);
    }
    assert_eq!(u32::from(RecordType::X86MsrPolicy), 0x12);
    assert_eq!(RecordType::from(0x12).to_string(), "X86_MSR_POLICY");
    assert_eq!(RecordType::from(0x13), RecordType::Unknown(0x13));
    for bits in 0..=255 {
        match PageType::from_bits(bits) {
            Some(page_type) => assert_eq!(page_type.bits(), bits),
            None => assert!(matches!(bits, 5..=8 | 16..)),
        }
    }
}

#[test]
fn fields_are_where_the_specification_puts_them() {
    let tsc = TscInfo::parse(&blob(20).into_iter().chain([0; 4]).collect::<Vec<_>>()).unwrap();
    let expected = TscInfo {
        mode: 0x0302_0100,
        khz: 0x0706_0504,
        nsec: 0x0f0e_0d0c_0b0a_0908,
        incarnation: 0x1312_1110,
    };
    assert_eq!(tsc, expected);

    let policy = blob(48);
    let leaf = CpuidPolicy::parse(&policy).unwrap().leaves().nth(1).unwrap();
    assert_eq!((leaf.leaf, leaf.subleaf), (0x1b1a_1918, 0x1f1e_1d1c));
    assert_eq!(leaf.registers, [0x2322_2120, 0x2726_2524, 0x2b2a_2928, 0x2f2e_2d2c]);

    let msr = [0xce, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let entry = MsrPolicy::parse(&msr).unwrap().msrs().next().unwrap();
    assert_eq!(entry, MsrEntry { index: 0xce, value: 0x0807_0605_0403_0201 });

    let params = [[1_u64, 17, 0xfeffd].map(u64::to_le_bytes).concat()].concat();
    let param = HvmParams::parse(&params).unwrap().params().next().unwrap();
    assert_eq!(param, HvmParam { index: 17, value: 0xfeffd });

    let vcpu = [&[3, 0, 0, 0, 0, 0, 0, 0], blob(32).as_slice()].concat();
    let parsed = Vcpu::parse(VcpuState::Msrs, &vcpu).unwrap();
    assert_eq!((parsed.vcpu_id, parsed.context), (3, blob(32).as_slice()));
}

#[test]
fn p2m_frames_fit_the_range() {
    let body = |start: u32, end: u32, frames: usize| {
        [[start, end].map(u32::to_le_bytes).concat(), blob(frames * 8)].concat()
    };
    let wide = body(511, 1024, 3);
    let parsed = P2mFrames::parse(&wide).unwrap();
    assert!(parsed.fits(GuestWidth::Bits64) && !parsed.fits(GuestWidth::Bits32));
    assert_eq!(parsed.frames().len(), 3);
    assert_eq!(parsed.frames().next(), Some(0x0706_0504_0302_0100));
    let narrow = body(511, 1024, 2);
    let parsed = P2mFrames::parse(&narrow).unwrap();
    assert!(parsed.fits(GuestWidth::Bits32) && !parsed.fits(GuestWidth::Bits64));
    assert_eq!(
        P2mFrames::parse(&body(511, 1024, 4)),
        Err(BodyError::Length { length: 40, expected: 32 })
    );
    assert_eq!(
        P2mFrames::parse(&body(0, u32::MAX, 1)),
        Err(BodyError::Length { length: 16, expected: 8 + (8 << 23) })
    );
    assert_eq!(P2mFrames::parse(&body(2, 1, 1)), Err(BodyError::Range { start: 2, end: 1 }));
}

/// A body's bytes: 32-bit words, little-endian, and bytes that follow them.
fn words(words: &[u32], rest: &[u8]) -> Vec<u8> {
    [words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>(), rest.to_vec()].concat()
}

/// A malformed body: the record's type, the bytes, and the error.
type Malformed = (RecordType, Vec<u8>, BodyError);

fn assert_refused(cases: &[Malformed]) {
    for (record_type, body, error) in cases {
        assert_eq!(Body::parse(*record_type, body), Err(*error), "{record_type}");
    }
}

fn reserved(field: &'static str, value: u64) -> BodyError {
    BodyError::Reserved { field, value }
}

#[test]
fn malformed_page_data_headers() {
    let page = [0; 4096];
    let case = |body, error| (RecordType::PageData, body, error);
    assert_refused(&[
        case(words(&[0; 4], &[]), BodyError::Value { field: "count", value: 0 }),
        case(words(&[1, 0, 0], &[]), BodyError::TooShort { length: 12, least: 16 }),
        case(words(&[1, 9, 0, 0], &page), reserved("PAGE_DATA's header", 9)),
        case(words(&[2, 0, 0, 0], &[]), BodyError::Length { length: 16, expected: 24 }),
        case(
            words(&[u32::MAX, 0, 0, 0], &page),
            BodyError::Length { length: 4112, expected: 8 + u64::from(u32::MAX) * 8 },
        ),
        case(words(&[1, 0, 0, 0], &page[1..]), BodyError::Length { length: 4111, expected: 4112 }),
        case(words(&[1, 0, 0, 0xf << 28], &page), BodyError::Length { length: 4112, expected: 16 }),
    ]);
}

#[test]
fn malformed_pfns_of_page_data() {
    let page = [0; 4096];
    let case = |body, error| (RecordType::PageData, body, error);
    assert_refused(&[
        case(
            words(&[2, 0, 0, 0xf << 28, 5, 0x5000_0000], &page),
            BodyError::PageType { index: 1, page_type: 5 },
        ),
        case(words(&[1, 0, 0, 0x8000_0000], &page), BodyError::PageType { index: 0, page_type: 8 }),
        case(
            words(&[1, 0, 7, 0x0010_0000], &page),
            BodyError::PfnReserved { index: 0, entry: 0x0010_0000_0000_0007 },
        ),
    ]);
}

#[test]
fn malformed_bodies_of_pv_guests() {
    let info = |body, error| (RecordType::X86PvInfo, body, error);
    assert_refused(&[
        info(vec![8, 4, 1, 0, 0, 0, 0, 0], reserved("X86_PV_INFO", 1 << 32)),
        info(vec![8, 4, 0, 0, 1, 0, 0, 0], reserved("X86_PV_INFO", 1)),
        info(vec![5, 4, 0, 0, 0, 0, 0, 0], BodyError::Value { field: "guest_width", value: 5 }),
        info(vec![4, 4, 0, 0, 0, 0, 0, 0], BodyError::Value { field: "pt_levels", value: 4 }),
        (
            RecordType::X86PvVcpuXsave,
            words(&[0, 1, 0, 0, 0, 0], &[]),
            reserved("the vCPU header", 1),
        ),
    ]);
}

#[test]
fn malformed_bodies_of_hvm_guests() {
    let params = |body, error| (RecordType::HvmParams, body, error);
    assert_refused(&[
        params(words(&[0, 1], &[]), reserved("HVM_PARAMS' header", 1)),
        params(words(&[2, 0, 0, 0, 0, 0], &[]), BodyError::Length { length: 24, expected: 40 }),
        params(
            words(&[u32::MAX, 0, 0, 0, 0, 0], &[]),
            BodyError::Length { length: 24, expected: 8 + u64::from(u32::MAX) * 16 },
        ),
    ]);
}

#[test]
fn malformed_bodies_of_all_guests() {
    let not_empty = BodyError::Length { length: 1, expected: 0 };
    assert_refused(&[
        (RecordType::End, vec![0], not_empty),
        (RecordType::Verify, vec![0], not_empty),
        (RecordType::X86TscInfo, words(&[0, 0, 0, 0, 0, 2], &[]), reserved("X86_TSC_INFO", 2)),
        (RecordType::X86MsrPolicy, words(&[1, 1, 0, 0], &[]), reserved("an MSR's flags", 1)),
        (
            RecordType::CheckpointDirtyPfnList,
            vec![0; 9],
            BodyError::Entries { length: 9, fixed: 0, entry: 8 },
        ),
    ]);
}

#[test]
fn records_without_content_of_old_xen_are_tolerated() {
    assert_same(RecordType::HvmParams, &[0; 8]);
    for record_type in
        [RecordType::X86PvVcpuExtended, RecordType::X86PvVcpuXsave, RecordType::X86PvVcpuMsrs]
    {
        assert_same(record_type, &[0; 8]);
    }
}

#[test]
fn page_data_that_cannot_be_written() {
    let page = [0; 4096];
    let entry = |page_type| PageEntry { pfn: 1, page_type };
    let write = |pages: &[Page<'_>]| migrate_stream::writer::page_data(&mut Vec::new(), pages);
    assert_eq!(write(&[]), Err(BodyError::Value { field: "count", value: 0 }));
    let good = Page { entry: entry(PageType::NoTab), contents: Some(&page) };
    let mismatches = [
        Page { entry: entry(PageType::NoTab), contents: None },
        Page { entry: entry(PageType::Xtab), contents: Some(&page) },
    ];
    for bad in mismatches {
        assert_eq!(write(&[good, bad]), Err(BodyError::PageContents { index: 1 }));
    }
    assert!(matches!(write(&vec![good; 40_000]), Err(BodyError::TooLong { .. })));
}

#[test]
fn emulator_records() {
    let header = [2_u32, 1].map(u32::to_le_bytes).concat();
    let body = [&header, b"physmap/1/size\x001000\0empty\0\0".as_slice()].concat();
    let emulator = Emulator::parse(&body).unwrap();
    assert_eq!((emulator.id, emulator.index), (EmulatorId::QemuUpstream, 1));
    let pairs: Vec<_> = emulator.xenstore_pairs().unwrap().collect();
    let expected: [(&[u8], &[u8]); 2] = [(b"physmap/1/size", b"1000"), (b"empty", b"")];
    assert_eq!(pairs, expected);
    let mut written = Vec::new();
    emulator.write(&mut written);
    assert_eq!(written, body);

    let pairs =
        |data: &'static [u8]| Emulator { data, ..emulator }.xenstore_pairs().map(Iterator::count);
    assert_eq!(pairs(b""), Ok(0));
    assert_eq!(pairs(b"key\0value"), Err(BodyError::NotTerminated));
    assert_eq!(pairs(b"key\0"), Err(BodyError::OddStrings { strings: 1 }));
    assert_eq!(Emulator::parse(&body[..7]), Err(BodyError::TooShort { length: 7, least: 8 }));
    let unknown = [3_u32, 0].map(u32::to_le_bytes).concat();
    assert_eq!(Emulator::parse(&unknown), Err(BodyError::Value { field: "emulator_id", value: 3 }));
}

#[test]
fn malformed_optional_data() {
    assert_eq!(xl::OptionalData::parse(&[0; 3]), Err(xl::XlError::Truncated { have: 3, need: 4 }));
    let huge = xl::OptionalData::parse(&[0xff; 9]);
    assert_eq!(huge, Err(xl::XlError::Truncated { have: 9, need: 4 + u64::from(u32::MAX) }));
    assert_eq!(xl::OptionalData::parse(&[2, 0, 0, 0, b'{', b'}']), Err(xl::XlError::NotTerminated));
    assert_eq!(xl::OptionalData::parse(&[2, 0, 0, 0, 0, 0]), Err(xl::XlError::NotTerminated));
    let not_text = [2, 0, 0, 0, 0xff, 0];
    assert_eq!(xl::OptionalData::parse(&not_text).unwrap().json(), Err(xl::XlError::NotUtf8));
    assert_eq!(xl::OptionalData::parse(&[0; 4]).unwrap().json(), Ok(None));
    let mut out = Vec::new();
    assert_eq!(
        migrate_stream::writer::xl_header(&mut out, "a\0b"),
        Err(xl::XlError::NotTerminated)
    );
    let long = "x".repeat(16 << 20);
    assert!(matches!(
        migrate_stream::writer::xl_header(&mut out, &long),
        Err(xl::XlError::TooLong(_))
    ));
}

#[test]
fn a_stream_has_the_records_that_were_written() {
    let types = |stream| {
        libxc_records(&(Start::Libxc, stream))
            .into_iter()
            .map(|record| record.0)
            .collect::<Vec<_>>()
    };
    use RecordType as T;
    let pages = [T::PageData; 4];
    let hvm = [T::X86CpuidPolicy, T::X86MsrPolicy, T::StaticDataEnd];
    let hvm =
        [&hvm, pages.as_slice(), &[T::X86TscInfo, T::HvmContext, T::HvmParams, T::End]].concat();
    assert_eq!(types(pvh(&some_batches())), hvm);
}
