//! xl's save header and optional data: what parses is written again with the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrate_stream::xl::{HEADER_LEN, Header, OptionalData};

fuzz_target!(|data: &[u8]| {
    if let Some(Ok(header)) = data.first_chunk().map(Header::parse) {
        assert_eq!(header.to_bytes(), data[..HEADER_LEN]);
    }
    if let Ok(optional) = OptionalData::parse(data) {
        let _ = optional.json();
        let mut written = Vec::new();
        optional.write(&mut written);
        assert_eq!(written, data);
    }
});
