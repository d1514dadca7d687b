//! The incremental reader: any split gives the same events, and every malformed stream an error
//! that says where.

mod common;

use common::*;
use migrate_stream::libxc::RecordType;
use migrate_stream::reader::{Event, Start, StreamReader};
use migrate_stream::{libxl, writer};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_split_gives_the_same_events(whole in stream(), lengths in prop::collection::vec(1_usize..5000, 1..40)) {
        let reading = read(&whole).unwrap();
        prop_assert_eq!(&read_in_pieces(&whole, &lengths).unwrap(), &reading);
        prop_assert_eq!(reading.events.last().map(String::as_str), Some("End"));
    }

    #[test]
    fn reading_what_is_wanted_never_reads_past_the_end(whole in stream(), behind in 0_usize..100) {
        let stream = [whole.1.clone(), vec![0xaa; behind]].concat();
        let mut reader = StreamReader::new(whole.0);
        let mut at = 0;
        while !reader.is_complete() {
            let end = at + reader.wanted() as usize;
            let mut piece = &stream[at..end];
            while reader.next(&mut piece).unwrap().is_some() {}
            prop_assert!(piece.is_empty());
            at = end;
        }
        prop_assert_eq!(at, whole.1.len());
        prop_assert_eq!(reader.offset(), at as u64);
        let mut rest = &stream[at..];
        prop_assert_eq!(reader.next(&mut rest), Ok(None));
        prop_assert_eq!(rest.len(), behind);
    }

    #[test]
    fn a_damaged_stream_never_panics(
        whole in stream(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        lengths in prop::collection::vec(1_usize..3000, 1..10),
    ) {
        let mut bytes = whole.1;
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let mut reader = StreamReader::new(whole.0);
        let mut rest = bytes.as_slice();
        for &length in lengths.iter().cycle() {
            let (mut piece, after) = rest.split_at(length.min(rest.len()));
            let before = reader.offset();
            let length = piece.len() as u64;
            let mut result = Ok(());
            loop {
                match reader.next(&mut piece) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => { result = Err(error); break }
                }
            }
            prop_assert!(reader.offset() <= before + length);
            rest = after;
            if result.is_err() {
                prop_assert_eq!(reader.next(&mut piece).err(), result.err());
                prop_assert_eq!(reader.finish(), result);
                break;
            }
            if rest.is_empty() { break }
        }
    }

    #[test]
    fn noise_never_panics(bytes: Vec<u8>, which in 0..3) {
        let start = [Start::XlFile, Start::Libxl, Start::Libxc][which as usize];
        let mut reader = StreamReader::new(start);
        let mut input = bytes.as_slice();
        while let Ok(Some(_)) = reader.next(&mut input) {}
    }
}

#[test]
fn the_events_of_a_save_file() {
    let whole = (Start::XlFile, in_xl(&in_libxl(&pvh(&[vec![(7, Fill::Zero)]]), true)));
    let reading = read(&whole).unwrap();
    let names: Vec<&str> =
        reading.events.iter().filter_map(|event| event.split([' ', '(']).next()).collect();
    let record = ["LibxcRecord", "RecordEnd"];
    let with_body = |name| [name, "", "RecordEnd"];
    let mut expected =
        vec!["XlHeader", "", "XlOptionalEnd", "LibxlHeader", "LibxlRecord", "RecordEnd"];
    expected.extend(["ImageHeader", "DomainHeader"]);
    expected.extend([with_body("LibxcRecord"), with_body("LibxcRecord")].concat());
    expected.extend(record);
    expected.extend([with_body("LibxcRecord"); 4].concat());
    expected.extend(record);
    expected.extend([with_body("LibxlRecord"); 2].concat());
    expected.extend(["LibxlRecord", "RecordEnd", "End"]);
    let same = |(name, expected): (&&str, &&str)| expected.is_empty() || name == expected;
    assert_eq!(names.len(), expected.len(), "{names:#?}");
    assert!(names.iter().zip(&expected).all(same), "{names:#?}");
}

#[test]
fn bodies_are_borrowed_from_the_input() {
    let stream = pvh(&some_batches());
    let (mut reader, mut input) = (StreamReader::new(Start::Libxc), stream.as_slice());
    let mut bodies = 0;
    while let Some(event) = reader.next(&mut input).unwrap() {
        if let Event::Body(piece) = event {
            assert!(stream.as_ptr_range().contains(&piece.as_ptr()));
            bodies += 1;
        }
    }
    assert_eq!(bodies, 9);
}

#[test]
fn the_reader_is_small() {
    assert!(size_of::<StreamReader>() <= 256, "{}", size_of::<StreamReader>());
}

#[test]
fn unknown_optional_records_pass() {
    let mut stream = pvh(&some_batches());
    stream.truncate(stream.len() - 8);
    let optional = RecordType::Unknown(0x8000_1234);
    writer::libxc_record(&mut stream, optional, b"who knows").unwrap();
    writer::libxc_end(&mut stream);
    let records = libxc_records(&(Start::Libxc, stream));
    let (record_type, _, body) = &records[records.len() - 2];
    assert_eq!((*record_type, body.as_slice()), (optional, b"who knows".as_slice()));
}

#[test]
fn version_2_is_read_without_static_data_end() {
    let mut stream = pvh(&[]);
    let records = libxc_records(&(Start::Libxc, stream.clone()));
    let tsc = records.iter().find(|record| record.0 == RecordType::X86TscInfo).unwrap().1;
    stream.drain(40..tsc);
    stream.splice(40..40, page_data(&[(1, Fill::Zero)], false));
    stream[15] = 2;
    read(&(Start::Libxc, stream)).unwrap();
}

#[test]
fn every_truncation_is_an_error() {
    let stream = in_xl(&in_libxl(&pvh(&[vec![(1, Fill::Zero), (2, Fill::Hole)]]), true));
    for length in 0..stream.len() {
        let error = read(&(Start::XlFile, stream[..length].to_vec())).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("the stream ends at byte {length}, ")), "{length}: {text}");
        assert!(error.offset <= length as u64);
    }
}

/// A stream that is changed in one place, and the error's text.
struct Malformed {
    stream: Vec<u8>,
    start: Start,
    at: usize,
    bytes: &'static [u8],
    error: String,
}

fn check(cases: &[Malformed]) {
    for case in cases {
        let mut stream = case.stream.clone();
        stream[case.at..case.at + case.bytes.len()].copy_from_slice(case.bytes);
        let error = read(&(case.start, stream)).expect_err(&case.error);
        assert_eq!(error.to_string(), case.error);
        assert!(!error.to_string().contains('\n'));
    }
}

#[test]
fn malformed_xl_headers() {
    let stream = in_xl(&in_libxl(&pvh(&[]), false));
    let case = |at, bytes, error: &str| Malformed {
        stream: stream.clone(),
        start: Start::XlFile,
        at,
        bytes,
        error: format!("xl save header at byte 0: {error}"),
    };
    check(&[
        case(0, b"x", "no xl save header (its magic is missing)"),
        case(31, b"x", "no xl save header (its magic is missing)"),
        case(32, &[1, 2, 3, 4], "saved by a big-endian host, which is not supported"),
        case(32, &[0], "byte order mark 0x01020300, expected 0x01020304"),
        case(36, &[7], "unknown mandatory flags 0x4"),
        case(36, &[1], "the stream is in the legacy format (flag 2 is not set)"),
        case(44, &[1, 0, 0, 1], "optional data of 16777217 bytes, at most 16777216 are accepted"),
    ]);
}

#[test]
fn malformed_libxl_streams() {
    let stream = in_libxl(&pvh(&[]), true);
    let end = stream.len() - 8;
    let (context, xenstore) = (end - 352, end - 352 - 48);
    let case = |at, bytes, error: &str| Malformed {
        stream: stream.clone(),
        start: Start::Libxl,
        at,
        bytes,
        error: error.into(),
    };
    let unknown = "not known and not optional";
    check(&[
        case(
            0,
            b"M",
            "libxl stream header at byte 0: ident 0x4d6962786c466d74, expected \"LibxlFmt\"",
        ),
        case(11, &[3], "libxl stream header at byte 0: version 3, expected 2"),
        case(
            15,
            &[1],
            "libxl stream header at byte 0: big-endian records, which are not supported",
        ),
        case(15, &[4], "libxl stream header at byte 0: reserved options 0x4"),
        case(16, &[6], &format!("libxl record of type 0x00000006 at byte 16: {unknown}")),
        case(
            16,
            &[6, 0, 0, 0x80],
            &format!("libxl record of type 0x80000006 at byte 16: {unknown}"),
        ),
        case(16, &[0], "libxl record END at byte 16: comes before LIBXC_CONTEXT"),
        case(20, &[1], "libxl record LIBXC_CONTEXT at byte 16: length 1, expected 0"),
        case(
            xenstore,
            &[1, 0, 0, 0, 0],
            &format!("libxl record LIBXC_CONTEXT at byte {xenstore}: comes a second time"),
        ),
        case(
            xenstore + 4,
            &[7],
            &format!(
                "libxl record EMULATOR_XENSTORE_DATA at byte {xenstore}: length 7, expected at \
                 least 8"
            ),
        ),
        case(
            xenstore + 47,
            &[1],
            &format!("libxl record EMULATOR_XENSTORE_DATA at byte {xenstore}: padding is not zero"),
        ),
        case(
            context,
            &[4, 0, 0, 0, 0, 0],
            &format!(
                "libxl record CHECKPOINT_END at byte {context}: belongs to a checkpointed stream, \
                 which is not supported"
            ),
        ),
        case(
            context,
            &[5],
            &format!(
                "libxl record CHECKPOINT_STATE at byte {context}: belongs to a checkpointed \
                 stream, which is not supported"
            ),
        ),
        case(end + 4, &[8], &format!("libxl record END at byte {end}: length 8, expected 0")),
    ]);
}

#[test]
fn malformed_libxc_headers() {
    let stream = pvh(&[]);
    let case = |at, bytes, error: &str| Malformed {
        stream: stream.clone(),
        start: Start::Libxc,
        at,
        bytes,
        error: error.into(),
    };
    let (image, domain) = ("libxc image header at byte 0", "libxc domain header at byte 24");
    check(&[
        case(0, &[0], &format!("{image}: marker 0x00ffffffffffffff, expected all ones")),
        case(8, &[0], &format!("{image}: id 0x00454e46, expected \"XENF\"")),
        case(15, &[1], &format!("{image}: version 1, expected 2 or 3")),
        case(15, &[4], &format!("{image}: version 4, expected 2 or 3")),
        case(17, &[1], &format!("{image}: big-endian records, which are not supported")),
        case(16, &[1], &format!("{image}: reserved options 0x100")),
        case(18, &[1], &format!("{image}: reserved bytes are not zero")),
        case(23, &[1], &format!("{image}: reserved bytes are not zero")),
        case(24, &[3], &format!("{domain}: domain type 0x3, expected 1 (x86 PV) or 2 (x86 HVM)")),
        case(28, &[13], &format!("{domain}: page shift 13, expected 12")),
        case(30, &[1], &format!("{domain}: reserved bytes are not zero")),
    ]);
}

/// Cases of one libxc stream: which record (by type), what is put at an offset from its header, and
/// the error.
fn check_records(libxc: &[u8], cases: &[(RecordType, usize, &'static [u8], &str)]) {
    let whole = (Start::Libxl, in_libxl(libxc, false));
    let records = libxc_records(&whole);
    let malformed: Vec<Malformed> = cases
        .iter()
        .map(|&(record_type, at, bytes, error)| {
            let offset = records.iter().find(|record| record.0 == record_type).unwrap().1;
            let name = if at == 0 {
                RecordType::from(u32::from_le_bytes(*bytes.first_chunk().unwrap()))
            } else {
                record_type
            };
            let error = format!("libxc record {name} at byte {offset}: {error}");
            Malformed { stream: whole.1.clone(), start: whole.0, at: offset + at, bytes, error }
        })
        .collect();
    check(&malformed);
}

#[test]
fn malformed_libxc_lengths() {
    let too_long = "length 134217729, at most 134217728 is allowed";
    check_records(
        &pvh(&some_batches()),
        &[
            (RecordType::End, 4, &[1], "length 1, expected 0"),
            (RecordType::StaticDataEnd, 4, &[16], "length 16, expected 0"),
            (RecordType::PageData, 4, &[15, 0, 0, 0], "length 15, expected at least 16"),
            (RecordType::PageData, 4, &[1, 0, 0, 8], too_long),
            (RecordType::X86TscInfo, 4, &[16], "length 16, expected 24"),
            (RecordType::HvmContext, 4, &[0, 0], "length 0, expected at least 1"),
            (RecordType::HvmParams, 4, &[41], "length 41 is not 8 and a multiple of 16"),
            (RecordType::HvmParams, 4, &[7], "length 7, expected at least 8"),
            (RecordType::X86CpuidPolicy, 4, &[73], "length 73 is not 0 and a multiple of 24"),
            (RecordType::X86MsrPolicy, 4, &[0], "length 0, expected at least 16"),
        ],
    );
    check_records(
        &pv(&some_batches()),
        &[
            (RecordType::X86PvInfo, 4, &[16], "length 16, expected 8"),
            (RecordType::X86PvP2mFrames, 4, &[8], "length 8, expected at least 16"),
            (RecordType::X86PvP2mFrames, 4, &[17], "length 17 is not 8 and a multiple of 8"),
            (RecordType::SharedInfo, 4, &[1], "length 4097, expected 4096"),
            (RecordType::X86PvVcpuBasic, 4, &[7, 0], "length 7, expected at least 8"),
            (RecordType::X86PvVcpuBasic, 4, &[9, 0], "length 9, expected 5176"),
            (RecordType::X86PvVcpuExtended, 4, &[137], "length 137, at most 136 is allowed"),
            (RecordType::X86PvVcpuXsave, 4, &[23, 0], "length 23, expected at least 24"),
            (RecordType::X86PvVcpuMsrs, 4, &[25], "length 25 is not 8 and a multiple of 16"),
        ],
    );
}

#[test]
fn misplaced_libxc_records() {
    let checkpointed = "belongs to a checkpointed stream, which is not supported";
    let foreign = "does not belong to a guest of this type";
    check_records(
        &pvh(&some_batches()),
        &[
            (RecordType::HvmContext, 0, &[0x13, 0, 0, 0], "not known and not optional"),
            (RecordType::HvmContext, 1003 + 8, &[1], "padding is not zero"),
            (RecordType::X86TscInfo, 0, &[0x11, 0, 0, 0], "comes after STATIC_DATA_END"),
            (RecordType::HvmContext, 0, &[0xe, 0, 0, 0, 0, 0], checkpointed),
            (RecordType::X86TscInfo, 0, &[0xf, 0, 0, 0], checkpointed),
            (RecordType::HvmContext, 0, &[0xb, 0, 0, 0], "is deprecated"),
            (RecordType::HvmContext, 0, &[0x4, 0, 0, 0, 8, 0], foreign),
        ],
    );
    check_records(
        &pv(&some_batches()),
        &[
            (RecordType::X86PvVcpuMsrs, 0, &[0x9, 0, 0, 0], foreign),
            (RecordType::X86PvVcpuExtended, 0, &[0x10, 0, 0, 0, 0], "comes a second time"),
            (RecordType::X86TscInfo, 0, &[0x2, 0, 0, 0, 8], "comes a second time"),
        ],
    );
}

/// The error of a libxc stream from which the first record of this type is taken.
fn error_without(removed: RecordType, mut stream: Vec<u8>) -> String {
    let records = libxc_records(&(Start::Libxc, stream.clone()));
    let at = records.iter().position(|record| record.0 == removed).unwrap();
    stream.drain(records[at].1..records[at + 1].1);
    read(&(Start::Libxc, stream)).unwrap_err().to_string()
}

#[test]
fn missing_libxc_records() {
    assert_eq!(
        error_without(RecordType::StaticDataEnd, pv(&some_batches())),
        "libxc record X86_PV_P2M_FRAMES at byte 160: comes before STATIC_DATA_END"
    );
    assert_eq!(
        error_without(RecordType::X86PvInfo, pv(&some_batches())),
        "libxc record X86_PV_P2M_FRAMES at byte 152: comes before X86_PV_INFO"
    );
    assert_eq!(
        error_without(RecordType::StaticDataEnd, pvh(&some_batches())),
        "libxc record PAGE_DATA at byte 144: comes before STATIC_DATA_END"
    );
    let stream = pvh(&[]);
    let end = stream.len() - 16;
    assert_eq!(
        error_without(RecordType::StaticDataEnd, stream),
        format!("libxc record END at byte {end}: comes before STATIC_DATA_END")
    );
}

#[test]
fn version_2_has_no_version_3_records() {
    let mut stream = pvh(&[]);
    stream[15] = 2;
    let text = read(&(Start::Libxc, stream)).unwrap_err().to_string();
    assert_eq!(text, "libxc record X86_CPUID_POLICY at byte 40: is not of stream version 2");
}

#[test]
fn a_libxl_stream_needs_a_libxc_stream() {
    let mut stream = Vec::new();
    writer::libxl_header(&mut stream);
    let body = [2_u32, 0].map(u32::to_le_bytes).concat();
    writer::libxl_record(&mut stream, libxl::RecordType::EmulatorContext, &body).unwrap();
    writer::libxl_end(&mut stream);
    let text = read(&(Start::Libxl, stream)).unwrap_err().to_string();
    assert_eq!(text, "libxl record END at byte 32: comes before LIBXC_CONTEXT");
}
