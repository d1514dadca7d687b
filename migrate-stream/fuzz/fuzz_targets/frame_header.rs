//! Frame headers whose checksum is made right: a header that parses has lengths within the bounds
//! and is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrate_stream::frame::{FRAME_HEADER_LEN, FrameHeader, MAX_DECODED, MAX_PACKED};

fuzz_target!(|data: [u8; FRAME_HEADER_LEN]| {
    let _ = FrameHeader::parse(&data);
    let mut bytes = data;
    let crc = migrate_stream::frame::crc::hash(&bytes[..FRAME_HEADER_LEN - 4]);
    bytes[FRAME_HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    if let Ok(header) = FrameHeader::parse(&bytes) {
        assert!(header.decoded_len <= MAX_DECODED && header.packed_len <= MAX_PACKED);
        assert!(header.wire_len <= header.packed_len);
        assert_eq!(header.to_bytes(), bytes);
    }
});
