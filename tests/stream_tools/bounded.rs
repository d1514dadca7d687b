//! Memory does not depend on the stream: 4 GiB go through under 64 MiB, and so does what is made to
//! ask for more.

use std::io::{Read, copy, repeat};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use migrate_stream::libxc::{DomainHeader, DomainType, RecordHeader, RecordType};
use migrate_stream::{writer, xl};

use crate::program::rxl;

const LIMIT_KIB: u64 = 64 << 10;

/// Built by cargo beside the tests.
fn make_stream() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.ancestors().nth(2).unwrap().join("examples/make-stream");
    assert!(path.exists(), "{} is not built: run `cargo build --examples`", path.display());
    path
}

/// Sends a stream through `rxl stream COMMAND -`. Its peak of memory in KiB, when it has taken
/// `length` bytes of it.
fn peak(command: &str, mut stream: impl Read, length: u64) -> u64 {
    let mut child = rxl(&["stream", command, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    copy(&mut (&mut stream).take(length), &mut input).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    copy(&mut stream, &mut input).unwrap();
    drop(input);
    assert!(child.wait().unwrap().code().is_some(), "it was killed");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn four_gib_go_through_little_memory() {
    for command in ["inspect", "verify"] {
        let mut source = Command::new(make_stream())
            .args(["4096", "256"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let peak = peak(command, source.stdout.take().unwrap(), 4096 << 20);
        assert!(source.wait().unwrap().success());
        println!("{command}: {} MiB", peak >> 10);
        assert!(peak < LIMIT_KIB, "{command}: {peak} KiB");
    }
}

/// The beginning of a libxc stream.
fn begun() -> Vec<u8> {
    let mut stream = Vec::new();
    writer::image_header(&mut stream);
    writer::domain_header(
        &mut stream,
        DomainHeader { domain_type: DomainType::Hvm, xen_major: 4, xen_minor: 17 },
    );
    writer::static_data_end(&mut stream);
    stream
}

fn record(record_type: RecordType, length: u32, body: &[u8]) -> Vec<u8> {
    let mut stream = begun();
    stream.extend_from_slice(&RecordHeader { record_type, length }.to_bytes());
    stream.extend_from_slice(body);
    stream
}

#[test]
fn lengths_are_not_believed() {
    let flags = xl::FLAG_JSON | xl::FLAG_STREAM_V2;
    let xl = |optional_data_len| xl::Header {
        mandatory_flags: flags,
        optional_flags: 0,
        optional_data_len,
    };
    let length: u32 = 127 << 20;
    let holes = [(length / 8 - 1).to_le_bytes(), [0; 4]].concat();
    // Each followed by zeroes, which are normal pages, or lists of nothing: as many as it takes
    // before it is refused.
    for (what, stream, zeroes) in [
        ("a configuration of 4 GiB", xl(u32::MAX).to_bytes().to_vec(), 256 << 20),
        ("a configuration of 16 MiB", xl(xl::MAX_OPTIONAL_DATA).to_bytes().to_vec(), 16 << 20),
        ("a record of 4 GiB", record(RecordType::HvmContext, u32::MAX, &[]), 256 << 20),
        ("16 million pages in a record", record(RecordType::PageData, length, &holes), 256 << 20),
        ("a record of 16 MiB", record(RecordType::HvmContext, 16 << 20, &[]), 256 << 20),
    ] {
        for command in ["inspect", "verify"] {
            let length = stream.len() as u64 + zeroes;
            let stream = stream.as_slice().chain(repeat(0).take(zeroes));
            let peak = peak(command, stream, length);
            assert!(peak < LIMIT_KIB, "{what}: {command} took {peak} KiB");
        }
    }
}

#[test]
fn any_number_of_findings_and_runs_is_bounded() {
    let mut pattern = Vec::new();
    for number in 0..10_000_u32 {
        for record_type in
            [RecordType::Unknown(0x8000_0000 | number), RecordType::Unknown(0x4000_0000 | number)]
        {
            pattern.extend_from_slice(&RecordHeader { record_type, length: 0 }.to_bytes());
        }
    }
    for command in ["inspect", "verify"] {
        let mut stream = begun();
        (0..100).for_each(|_| stream.extend_from_slice(&pattern));
        let length = stream.len() as u64;
        let peak = peak(command, stream.as_slice(), length);
        assert!(peak < LIMIT_KIB, "{command} took {peak} KiB");
    }
}
