//! PAGE_DATA records: a record that can be packed is rebuilt byte for byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrate_stream::frame::pages::{pack, unpack};

fuzz_target!(|data: &[u8]| {
    let mut packed = Vec::new();
    if let Ok(stats) = pack(data, &mut packed) {
        let mut record = Vec::new();
        assert_eq!(unpack(&packed, data.len() as u32, &mut record), Ok(stats));
        assert_eq!(record, data);
    }
});
