//! Malformed streams: the incremental reader refuses each with an error that says where and why.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::*;
use migrate_stream::libxc::RecordType;
use migrate_stream::reader::Start;
use migrate_stream::{libxl, writer};

/// A stream, the bytes to change in it, and the text of the error that this must cause.
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

/// A PVH guest's libxl stream with the records of a device model, and the offsets in it that the
/// tests change.
struct WithEmulator {
    stream: Vec<u8>,
    /// Header of EMULATOR_XENSTORE_DATA, which is 48 bytes with its padding.
    xenstore: usize,
    /// Header of EMULATOR_CONTEXT, which is 352 bytes with its padding.
    context: usize,
    /// Header of END.
    end: usize,
}

impl WithEmulator {
    fn new() -> Self {
        let stream = in_libxl(&pvh(&[]), true);
        let end = stream.len() - 8;
        let context = end - 352;
        Self { stream, xenstore: context - 48, context, end }
    }

    fn case(&self, at: usize, bytes: &'static [u8], error: String) -> Malformed {
        Malformed { stream: self.stream.clone(), start: Start::Libxl, at, bytes, error }
    }
}

#[test]
fn malformed_libxl_headers() {
    let whole = WithEmulator::new();
    let case = |at, bytes, error: &str| {
        whole.case(at, bytes, format!("libxl stream header at byte 0: {error}"))
    };
    check(&[
        case(0, b"M", "ident 0x4d6962786c466d74, expected \"LibxlFmt\""),
        case(11, &[3], "version 3, expected 2"),
        case(15, &[1], "big-endian records, which are not supported"),
        case(15, &[4], "reserved options 0x4"),
    ]);
}

#[test]
fn malformed_libxl_records() {
    let whole = WithEmulator::new();
    let (xenstore, end) = (whole.xenstore, whole.end);
    let case = |at, bytes, (name, began): (&str, usize), error: &str| {
        whole.case(at, bytes, format!("libxl record {name} at byte {began}: {error}"))
    };
    let unknown = "not known and not optional";
    check(&[
        case(16, &[6], ("of type 0x00000006", 16), unknown),
        case(16, &[6, 0, 0, 0x80], ("of type 0x80000006", 16), unknown),
        case(16, &[0], ("END", 16), "comes before LIBXC_CONTEXT"),
        case(20, &[1], ("LIBXC_CONTEXT", 16), "length 1, expected 0"),
        case(xenstore, &[1, 0, 0, 0, 0], ("LIBXC_CONTEXT", xenstore), "comes a second time"),
        case(
            xenstore + 4,
            &[7],
            ("EMULATOR_XENSTORE_DATA", xenstore),
            "length 7, expected at least 8",
        ),
        case(xenstore + 47, &[1], ("EMULATOR_XENSTORE_DATA", xenstore), "padding is not zero"),
        case(end + 4, &[8], ("END", end), "length 8, expected 0"),
    ]);
}

#[test]
fn checkpoint_records_of_libxl_are_refused() {
    let whole = WithEmulator::new();
    let context = whole.context;
    let case = |bytes, name: &str| {
        let refused = "belongs to a checkpointed stream, which is not supported";
        whole.case(context, bytes, format!("libxl record {name} at byte {context}: {refused}"))
    };
    check(&[case(&[4, 0, 0, 0, 0, 0], "CHECKPOINT_END"), case(&[5], "CHECKPOINT_STATE")]);
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

/// Checks one libxc stream with changes: the first record of a type, an offset from its header, the
/// bytes to put there, and the error.
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

/// The error of a libxc stream without its first record of this type.
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
