//! Xen's verify-stream-v2 decides: it accepts what the writer composes, and refuses what the reader
//! refuses.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output};

use common::*;
use migrate_stream::libxc::{Body, RecordType};
use migrate_stream::reader::Start;

/// Runs Xen's checker on a stream.
fn run(whole: &Whole) -> Output {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&whole.1).unwrap();
    let format = match whole.0 {
        Start::XlFile => "xl",
        Start::Libxl => "libxl",
        Start::Libxc => "libxc",
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle.sh");
    Command::new(script).arg(format).arg(file.path()).output().unwrap()
}

/// The checker's verdict: `None` when it accepts the stream, else the text of its exception.
fn verdict(whole: &Whole) -> Option<String> {
    let output = run(whole);
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => None,
        Some(1) => Some(said.trim_end().lines().last().unwrap_or_default().to_owned()),
        _ => panic!("the checker did not judge: {}\n{said}", output.status),
    }
}

#[test]
fn xen_accepts_what_the_writer_composes() {
    let batches = some_batches();
    // The checker fails on EMULATOR_XENSTORE_DATA under every Python 3, so no HVM stream is tried.
    for libxc in [pvh(&batches), pv(&batches), pvh(&[])] {
        let libxl = in_libxl(&libxc, false);
        for whole in [(Start::XlFile, in_xl(&libxl)), (Start::Libxl, libxl), (Start::Libxc, libxc)]
        {
            assert_eq!(verdict(&whole), None);
            read(&whole).unwrap();
        }
    }
}

#[test]
fn xen_accepts_the_captured_streams() {
    for path in save_files() {
        let mut bytes = Vec::new();
        open_save_file(&path).read_to_end(&mut bytes).unwrap();
        assert_eq!(verdict(&(Start::XlFile, bytes)), None, "{}", path.display());
    }
}

/// Reads the stream as a restorer would, its framing and every body. Returns the error's text.
fn refused_here(whole: &Whole) -> Option<String> {
    if let Err(error) = read(whole) {
        return Some(error.to_string());
    }
    let bodies = libxc_records(whole);
    bodies
        .iter()
        .find_map(|(record_type, _, body)| Body::parse(*record_type, body).err())
        .map(|error| error.to_string())
}

#[test]
fn xen_refuses_what_is_refused_here() {
    let stream = in_libxl(&pvh(&some_batches()), false);
    let whole = (Start::Libxl, stream);
    let records = libxc_records(&whole);
    let at = |wanted| records.iter().find(|record| record.0 == wanted).unwrap().1;
    let (pages, context, tsc) =
        (at(RecordType::PageData), at(RecordType::HvmContext), at(RecordType::X86TscInfo));
    let damages: [(&str, usize, u8); 10] = [
        ("libxl ident", 0, b'M'),
        ("libxc version", 24 + 15, 9),
        ("domain type", 24 + 24, 7),
        ("record type", tsc, 0x55),
        ("record length", tsc + 4, 16),
        ("pfn count", pages + 8, 8),
        ("reserved word of PAGE_DATA", pages + 12, 1),
        ("page type", pages + 16 + 7, 0x50),
        ("reserved bits of a pfn", pages + 16 + 6, 0x10),
        ("padding", context + 8 + 1003, 1),
    ];
    for (what, at, value) in damages {
        let mut damaged = whole.clone();
        damaged.1[at] = value;
        let (here, xen) = (refused_here(&damaged), verdict(&damaged));
        assert!(here.is_some() && xen.is_some(), "{what}: here {here:?}, Xen's checker {xen:?}");
    }
    let truncated = (whole.0, whole.1[..whole.1.len() - 3].to_vec());
    assert!(refused_here(&truncated).is_some() && verdict(&truncated).is_some());
}
