//! libxl's emulator records: a body that parses is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrate_stream::libxl::Emulator;

fuzz_target!(|data: &[u8]| {
    if let Ok(emulator) = Emulator::parse(data) {
        if let Ok(pairs) = emulator.xenstore_pairs() {
            let bytes: usize = pairs.map(|(key, value)| key.len() + value.len() + 2).sum();
            assert_eq!(bytes, emulator.data.len());
        }
        let mut written = Vec::new();
        emulator.write(&mut written);
        assert_eq!(written, data);
    }
});
