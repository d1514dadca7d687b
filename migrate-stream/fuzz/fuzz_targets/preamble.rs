//! Preambles: a preamble that parses is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrate_stream::frame::{PREAMBLE_LEN, Preamble};

fuzz_target!(|data: [u8; PREAMBLE_LEN]| {
    if let Ok(preamble) = Preamble::parse(&data) {
        assert_eq!(preamble.to_bytes(), data);
    }
});
