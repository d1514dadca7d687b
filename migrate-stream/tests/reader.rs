//! The incremental reader: a stream gives the same events however it is split, and a truncated or
//! damaged one an error.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::*;
use migrate_stream::libxc::RecordType;
use migrate_stream::reader::{Event, Start, StreamReader};
use migrate_stream::writer;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_split_gives_the_same_events(
        whole in stream(),
        lengths in prop::collection::vec(1_usize..5000, 1..40),
    ) {
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
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            prop_assert!(reader.offset() <= before + length);
            rest = after;
            if result.is_err() {
                prop_assert_eq!(reader.next(&mut piece).err(), result.err());
                prop_assert_eq!(reader.finish(), result);
                break;
            }
            if rest.is_empty() {
                break;
            }
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
