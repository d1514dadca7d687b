//! rxl's frames: a packed record is rebuilt byte for byte, and malformed frames are refused before
//! anything is allocated for them.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::*;
use migrate_stream::frame::crc::Crc32;
use migrate_stream::frame::pages::{PackError, UnpackError, is_zero, pack, scatter, unpack};
use migrate_stream::frame::*;
use migrate_stream::iterations::Batch as Counts;
use migrate_stream::libxc::BodyError;
use proptest::prelude::*;

fn batch() -> impl Strategy<Value = common::Batch> {
    prop::collection::vec((0..1_u64 << 52, fill()), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn records_are_rebuilt_byte_for_byte(batch in batch(), tables: bool, before: Vec<u8>) {
        let record = page_data(&batch, tables);
        let mut packed = before.clone();
        let stats = pack(&record, &mut packed).unwrap();
        prop_assert_eq!(stats.crc32, crc32fast::hash(&record));
        let zero = batch.iter().filter(|page| matches!(page.1, Fill::Zero)).count() as u32;
        let holes = batch.iter().filter(|page| matches!(page.1, Fill::Hole)).count() as u32;
        let pfns = batch.len() as u32;
        let (first_pfn, last_pfn) = (batch[0].0, batch[batch.len() - 1].0);
        let counts = Counts { first_pfn, last_pfn, pfns, data_pages: pfns - holes };
        prop_assert_eq!(stats.batch, counts);
        prop_assert_eq!(stats.zero_pages, zero);

        prop_assert_eq!(&packed[..before.len()], &before);
        let packed = &packed[before.len()..];
        let scattered = scatter(&record).unwrap();
        prop_assert_eq!(scattered.stats, stats);
        let runs = scattered.runs.into_iter().flat_map(|run| &record[run]);
        prop_assert!(scattered.head.iter().chain(runs).eq(packed));
        prop_assert!(packed.len() <= record.len() + pages::MAX_OVERHEAD as usize);
        let mut rebuilt = before.clone();
        prop_assert_eq!(unpack(packed, record.len() as u32, &mut rebuilt), Ok(stats));
        prop_assert_eq!(&rebuilt[..before.len()], &before);
        prop_assert_eq!(&rebuilt[before.len()..], &record);
    }

    #[test]
    fn damaged_pages_are_refused_or_told_by_the_crc(
        batch in batch(),
        at: prop::sample::Index,
        flip in 1_u8..,
    ) {
        let record = page_data(&batch, true);
        let mut packed = Vec::new();
        let stats = pack(&record, &mut packed).unwrap();
        let at = at.index(packed.len());
        packed[at] ^= flip;
        let mut rebuilt = Vec::new();
        match unpack(&packed, record.len() as u32, &mut rebuilt) {
            Ok(damaged) => prop_assert_ne!(damaged.crc32, stats.crc32),
            Err(_) => prop_assert_eq!(rebuilt.capacity(), 0),
        }
    }

    #[test]
    fn noise_never_panics(bytes: Vec<u8>, decoded_len in 0..MAX_DECODED + 9) {
        let mut out = Vec::new();
        let _ = unpack(&bytes, decoded_len, &mut out);
        prop_assert!(out.capacity() <= decoded_len as usize);
        let _ = pack(&bytes, &mut Vec::new());
        if let Some(header) = bytes.first_chunk() {
            let _ = FrameHeader::parse(header);
        }
    }

    #[test]
    fn headers_survive(
        sequence: u64,
        decoded_len in 1..=MAX_DECODED,
        crc32: u32,
        wire_crc32: u32,
        wire in any::<prop::sample::Index>(),
        zstd: bool,
    ) {
        let codec = if zstd { Codec::Zstd } else { Codec::None };
        let wire_len = if zstd { 1 + wire.index(decoded_len as usize) as u32 } else { decoded_len };
        let header = FrameHeader {
            kind: FrameKind::Bytes,
            codec,
            sequence,
            decoded_len,
            packed_len: decoded_len,
            wire_len,
            crc32,
            wire_crc32,
        };
        prop_assert_eq!(FrameHeader::parse(&header.to_bytes()), Ok(header));
    }

    #[test]
    fn any_flipped_bit_of_a_header_is_found(bit in 0..FRAME_HEADER_LEN * 8) {
        let mut bytes = HEADER.to_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(FrameHeader::parse(&bytes).is_err());
    }
}

const HEADER: FrameHeader = FrameHeader {
    kind: FrameKind::Pages,
    codec: Codec::Zstd,
    sequence: 77,
    decoded_len: 8208,
    packed_len: 8204,
    wire_len: 91,
    crc32: 0xdead_beef,
    wire_crc32: 0x0403_0201,
};

#[test]
fn a_header_is_laid_out_as_documented() {
    let bytes = HEADER.to_bytes();
    assert_eq!(bytes[..16], *b"RXLF\x01\x01\0\0\x4d\0\0\0\0\0\0\0");
    assert_eq!(
        bytes[16..32],
        [0x10, 0x20, 0, 0, 0x0c, 0x20, 0, 0, 91, 0, 0, 0, 0xef, 0xbe, 0xad, 0xde]
    );
    assert_eq!(bytes[32..36], [1, 2, 3, 4]);
    assert_eq!(bytes[36..], crc32fast::hash(&bytes[..36]).to_le_bytes());
}

/// Parses [`HEADER`] with `value` put at offset `at`, and with the checksum that goes with it.
fn changed(at: usize, value: &[u8]) -> Result<FrameHeader, FrameError> {
    let mut bytes = HEADER.to_bytes();
    bytes[at..at + value.len()].copy_from_slice(value);
    let crc = crc32fast::hash(&bytes[..36]);
    bytes[36..].copy_from_slice(&crc.to_le_bytes());
    FrameHeader::parse(&bytes)
}

#[test]
fn malformed_headers() {
    let length =
        |field, length, least, most| Err(FrameError::Length { field, length, least, most });
    assert_eq!(changed(0, b"XXLF"), Err(FrameError::Magic(u32::from_le_bytes(*b"XXLF"))));
    assert_eq!(changed(4, &[3]), Err(FrameError::Kind(3)));
    assert_eq!(changed(5, &[2]), Err(FrameError::Codec(2)));
    assert_eq!(changed(6, &[1]), Err(FrameError::Flags(1)));
    assert_eq!(changed(6, &[0, 1]), Err(FrameError::Flags(0x100)));
    let over = (MAX_DECODED + 1).to_le_bytes();
    assert_eq!(changed(16, &over), length("decoded", MAX_DECODED + 1, 24, MAX_DECODED));
    assert_eq!(changed(16, &[23, 0]), length("decoded", 23, 24, MAX_DECODED));
    assert_eq!(changed(16, &[0xff; 4]), length("decoded", u32::MAX, 24, MAX_DECODED));
    assert_eq!(changed(20, &[0xff; 4]), length("packed", u32::MAX, 1, 8208 + 132));
    assert_eq!(changed(20, &[0; 4]), length("packed", 0, 1, 8208 + 132));
    assert_eq!(changed(24, &[0xff; 4]), length("wire", u32::MAX, 1, 8204));
    assert_eq!(changed(24, &[0]), length("wire", 0, 1, 8204));
    assert_eq!(changed(5, &[0]), length("wire", 91, 8204, 8204));
    assert_eq!(changed(4, &[0]), length("packed", 8204, 8208, 8208));
    assert_eq!(changed(4, &[2]), length("decoded", 8208, 0, 0));
    assert_eq!(changed(16, &[0x10, 0x20]), Ok(HEADER));
    let text = changed(16, &[0xff; 4]).unwrap_err().to_string();
    assert_eq!(text, "frame's decoded length is 4294967295, expected 24 to 4259840");
}

#[test]
fn an_end_frame_holds_the_totals() {
    let mut digest = Digest::new();
    digest.frame(&HEADER);
    digest.frame(&FrameHeader { sequence: 78, ..HEADER });
    let totals = digest.totals();
    assert_eq!((totals.frames, totals.bytes), (2, 2 * 8208));
    assert_eq!(Totals::parse(&totals.to_bytes()), totals);
    assert_eq!(totals.digest.to_string().len(), 64);
    let len = TOTALS_LEN as u32;
    let end = FrameHeader {
        kind: FrameKind::End,
        codec: Codec::None,
        decoded_len: 0,
        packed_len: len,
        wire_len: len,
        ..HEADER
    };
    assert_eq!(FrameHeader::parse(&end.to_bytes()), Ok(end));
}

#[test]
fn a_digest_is_the_sha256_of_its_frames() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(Digest::new().totals().digest.to_string(), empty);
    let mut digest = Digest::new();
    digest.frame(&FrameHeader { sequence: 0, decoded_len: 0, crc32: 0, ..HEADER });
    // The SHA-256 of 16 zero bytes.
    let zeroes = "374708fff7719dd5979ec875d56cd2286f6d3cf7ec317a3b25632aab28ec37bb";
    assert_eq!(digest.totals().digest.to_string(), zeroes);
}

#[test]
fn a_digest_tells_loss_reordering_duplication_and_content() {
    let frame = |sequence, crc32| FrameHeader { sequence, crc32, ..HEADER };
    let of = |frames: &[FrameHeader]| {
        let mut digest = Digest::new();
        frames.iter().for_each(|frame| digest.frame(frame));
        digest.totals()
    };
    let sent = of(&[frame(0, 5), frame(1, 6), frame(2, 7)]);
    assert_eq!(sent, of(&[frame(0, 5), frame(1, 6), frame(2, 7)]));
    let others: [&[FrameHeader]; 4] = [
        &[frame(0, 5), frame(1, 6)],
        &[frame(1, 6), frame(0, 5), frame(2, 7)],
        &[frame(0, 5), frame(1, 6), frame(1, 6), frame(2, 7)],
        &[frame(0, 5), frame(1, 9), frame(2, 7)],
    ];
    for other in others {
        assert_ne!(sent.digest, of(other).digest);
    }
}

#[test]
fn records_that_do_not_pack() {
    let record = page_data(&[(1, Fill::Zero), (2, Fill::Noise(9))], false);
    let refused = |record: &[u8]| {
        let mut out = Vec::new();
        let error = pack(record, &mut out).unwrap_err();
        assert_eq!(out.capacity(), 0);
        error
    };
    assert_eq!(refused(&[]), PackError::NotPageData);
    assert_eq!(refused(&record[1..]), PackError::NotPageData);
    assert_eq!(refused(&record[..record.len() - 1]), PackError::NotPageData);
    let mut bad = record.clone();
    bad[8] = 3;
    // The third pfn of the list is then the first bytes of the zero page: pfn 0.
    assert_eq!(
        refused(&bad),
        PackError::Body(BodyError::Length { length: 8216, expected: 8 + 24 + 3 * 4096 })
    );
    let long: common::Batch = (0..1040).map(|pfn| (pfn, Fill::Zero)).collect();
    let long = page_data(&long, false);
    assert_eq!(refused(&long), PackError::TooLong(long.len()));
}

#[test]
fn the_longest_record_of_libxc_fits() {
    let batch: common::Batch = (0..1024).map(|pfn| (pfn, Fill::Noise(pfn))).collect();
    let record = page_data(&batch, false);
    let mut packed = Vec::new();
    pack(&record, &mut packed).unwrap();
    assert!(packed.len() > record.len());
    let header = FrameHeader {
        codec: Codec::None,
        decoded_len: record.len() as u32,
        packed_len: packed.len() as u32,
        wire_len: packed.len() as u32,
        ..HEADER
    };
    assert_eq!(header.check_lengths(), Ok(()));
    let mut rebuilt = Vec::new();
    unpack(&packed, record.len() as u32, &mut rebuilt).unwrap();
    assert!(rebuilt == record);
}

#[test]
fn malformed_packed_pages() {
    let record = page_data(&[(1, Fill::Zero), (2, Fill::Noise(9)), (3, Fill::Hole)], false);
    let record_len = record.len() as u32;
    let mut packed = Vec::new();
    pack(&record, &mut packed).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<u8>), decoded_len| {
        let (mut packed, mut out) = (packed.clone(), Vec::new());
        change(&mut packed);
        let error = unpack(&packed, decoded_len, &mut out).unwrap_err();
        assert_eq!(out.capacity(), 0);
        error
    };
    let length = |length, expected| UnpackError::Length { length, expected };
    let whole = packed.len();
    assert_eq!(whole, 4 + 24 + 1 + 4096);
    assert_eq!(refused(&|_| {}, MAX_DECODED + 1), UnpackError::DecodedLength(MAX_DECODED + 1));
    assert_eq!(refused(&|_| {}, 23), UnpackError::DecodedLength(23));
    let made = u64::from(record_len);
    assert_eq!(
        refused(&|_| {}, record_len + 8),
        UnpackError::RecordLength { made, expected: record_len + 8 }
    );
    assert_eq!(refused(&|packed| packed.truncate(3), record_len), length(3, 4));
    assert_eq!(refused(&|packed| packed.truncate(27), record_len), length(27, 28));
    assert_eq!(refused(&|packed| packed.truncate(28), record_len), length(28, 29));
    assert_eq!(
        refused(&|packed| packed.truncate(whole - 1), record_len),
        length(whole - 1, whole as u64)
    );
    assert_eq!(refused(&|packed| packed.push(0), record_len), length(whole + 1, whole as u64));
    let many = |packed: &mut Vec<u8>| packed[..4].fill(0xff);
    assert_eq!(refused(&many, record_len), length(whole, 4 + u64::from(u32::MAX) * 8));
    let none = |packed: &mut Vec<u8>| packed[..4].fill(0);
    assert_eq!(refused(&none, 24), UnpackError::RecordLength { made: 16, expected: 24 });
    assert_eq!(refused(&|packed| packed[28] |= 4, record_len), UnpackError::BitmapPadding);
    assert_eq!(refused(&|packed| packed[28] |= 2, record_len), length(whole, 29));
    assert_eq!(refused(&|packed| packed[28] = 0, record_len), length(whole, whole as u64 + 4096));
    let page_type = BodyError::PageType { index: 0, page_type: 5 };
    assert_eq!(refused(&|packed| packed[11] = 0x50, record_len), UnpackError::Body(page_type));
}

#[test]
fn zero_pages_are_told() {
    assert!(is_zero(&[0; 4096]));
    assert!(is_zero(&[]));
    for at in 0..4096 {
        let mut page = [0; 4096];
        page[at] = 0x80;
        assert!(!is_zero(&page), "byte {at}");
    }
    assert!(!is_zero(&[0, 0, 1]));
}

#[test]
fn crc_of_pieces_is_that_of_the_whole() {
    let mut crc = Crc32::new();
    crc.update(b"1234");
    crc.update(b"56789");
    assert_eq!(crc.value(), 0xcbf4_3926);
}

#[test]
fn preambles_survive() {
    let preamble = Preamble {
        purpose: Purpose::Data,
        connection: 0x0102,
        migration: MigrationId([7; 16]),
        token: Token::new([9; 32]),
    };
    let bytes = preamble.to_bytes();
    assert_eq!(bytes[..16], *b"RXLDATA1\x01\0\x01\0\x02\x01\0\0");
    let parsed = Preamble::parse(&bytes).unwrap();
    assert_eq!(parsed.to_bytes(), bytes);
    assert_eq!((parsed.purpose, parsed.connection), (Purpose::Data, 0x0102));
    assert_eq!(parsed.migration.to_string(), "07".repeat(16));
    let control = Preamble { purpose: Purpose::Control, ..preamble };
    assert_eq!(Preamble::parse(&control.to_bytes()).unwrap().purpose, Purpose::Control);
}

#[test]
fn malformed_preambles() {
    let purpose = Purpose::Data;
    let (migration, token) = (MigrationId([7; 16]), Token::new([9; 32]));
    let good = Preamble { purpose, connection: 0, migration, token }.to_bytes();
    let changed = |at: usize, value| {
        let mut bytes = good;
        bytes[at] = value;
        Preamble::parse(&bytes).unwrap_err()
    };
    assert_eq!(changed(7, b'2'), PreambleError::Magic);
    assert_eq!(changed(9, 1), PreambleError::Version(0x101));
    assert_eq!(changed(10, 3), PreambleError::Purpose(3));
    for reserved in [11, 14, 15] {
        assert_eq!(changed(reserved, 1), PreambleError::Reserved);
    }
}

#[test]
fn tokens_match_themselves_only_and_are_not_printed() {
    let token = Token::new([0xab; 32]);
    assert!(token.matches(&Token::new([0xab; 32])));
    for at in 0..32 {
        let mut other = token.reveal();
        other[at] ^= 1;
        assert!(!token.matches(&Token::new(other)), "byte {at}");
    }
    let preamble =
        Preamble { purpose: Purpose::Data, connection: 0, migration: MigrationId([0; 16]), token };
    let text = format!("{preamble:?}");
    assert!(text.contains("Token(..)") && !text.contains("171") && !text.contains("ab"), "{text}");
}
