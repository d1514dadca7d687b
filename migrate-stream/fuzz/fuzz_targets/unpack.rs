//! Packed pages: no more than the decoded length (the first four bytes) is allocated, and a record
//! that was unpacked can be packed again with the same content.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrate_stream::frame::pages::{pack, unpack};

fuzz_target!(|data: &[u8]| {
    let Some((decoded_len, packed)) = data.split_first_chunk() else { return };
    let decoded_len = u32::from_le_bytes(*decoded_len);
    let mut record = Vec::new();
    match unpack(packed, decoded_len, &mut record) {
        Ok(stats) => {
            assert_eq!(record.len(), decoded_len as usize);
            let again = pack(&record, &mut Vec::new()).expect("an unpacked record is a record");
            assert_eq!((again.batch, again.crc32), (stats.batch, stats.crc32));
        }
        Err(_) => assert_eq!(record.capacity(), 0),
    }
});
