//! Save files of real guests: the reader parses them however they are split, and their records are
//! written the same.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::Read;
use std::path::Path;

use common::*;
use migrate_stream::frame::pages::{pack, unpack};
use migrate_stream::iterations::{Batch, Iterations};
use migrate_stream::libxc::{Body, RecordHeader};
use migrate_stream::reader::{Event, Start, StreamReader};
use migrate_stream::xl::OptionalData;
use proptest::prelude::RngCore;
use proptest::test_runner::{RngAlgorithm, TestRng};

/// Collects the pieces of each record and checks the record when it is whole.
#[derive(Default)]
struct Check {
    libxc: Option<RecordHeader>,
    body: Vec<u8>,
    packed: Vec<u8>,
    rebuilt: Vec<u8>,
    iterations: Iterations,
    pages: u64,
}

impl Check {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::XlOptionalData(piece) | Event::Body(piece) => self.body.extend_from_slice(piece),
            Event::XlOptionalEnd => self.config(),
            Event::LibxcRecord { header, .. } => self.libxc = Some(header),
            Event::LibxlRecord { .. } => self.libxc = None,
            Event::RecordEnd => self.record(),
            _ => return,
        }
        if matches!(event, Event::XlOptionalEnd | Event::RecordEnd) {
            self.body.clear();
        }
    }

    fn config(&mut self) {
        let optional = OptionalData::parse(&self.body).unwrap();
        assert!(optional.json().unwrap().unwrap().starts_with('{'));
        let mut written = Vec::new();
        optional.write(&mut written);
        assert!(written == self.body);
    }

    fn record(&mut self) {
        let Some(header) = self.libxc else { return };
        let body = Body::parse(header.record_type, &self.body)
            .unwrap_or_else(|error| panic!("{}: {error}", header.record_type));
        self.rebuilt.clear();
        self.rebuilt.extend_from_slice(&header.to_bytes());
        body.write(&mut self.rebuilt);
        assert!(self.rebuilt[8..] == self.body, "{} is written otherwise", header.record_type);
        if let Body::PageData(pages) = body {
            self.pages += pages.contents_count() as u64;
            self.iterations.record(&Batch::of(&pages));
            self.page_data();
        }
    }

    /// Packs the record that has just been rebuilt.
    fn page_data(&mut self) {
        let record = std::mem::take(&mut self.rebuilt);
        self.packed.clear();
        let stats = pack(&record, &mut self.packed).unwrap();
        assert_eq!(stats.crc32, crc32fast::hash(&record));
        assert_eq!(unpack(&self.packed, record.len() as u32, &mut self.rebuilt), Ok(stats));
        assert!(self.rebuilt == record, "a record is rebuilt otherwise");
    }
}

/// Reads a save file in pieces whose lengths `length` chooses.
fn check(path: &Path, mut length: impl FnMut(&StreamReader) -> usize) -> Check {
    let (mut stream, mut check) = (open_save_file(path), Check::default());
    let (mut reader, mut buffer) = (StreamReader::new(Start::XlFile), Vec::new());
    while !reader.is_complete() {
        buffer.resize(length(&reader), 0);
        let got = stream.read(&mut buffer).unwrap();
        assert_ne!(got, 0, "{}", reader.finish().unwrap_err());
        let mut piece = &buffer[..got];
        while let Some(event) =
            reader.next(&mut piece).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        {
            check.take(event);
        }
        assert!(piece.is_empty());
    }
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "bytes after the end of the stream");
    check
}

#[test]
fn random_splits() {
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for path in save_files() {
        // Short pieces as often as long ones.
        let check = check(&path, |_| 1 + rng.next_u32() as usize % (1 << (rng.next_u32() % 18)));
        assert!(check.pages > 0);
        let number = check.iterations.current().number;
        assert_eq!(number, 0, "a save that is not live has one iteration");
    }
}

#[test]
fn exactly_what_is_wanted() {
    for path in save_files() {
        assert!(check(&path, |reader| reader.wanted() as usize).pages > 0);
    }
}
