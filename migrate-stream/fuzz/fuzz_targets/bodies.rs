//! libxc record bodies: a body that parses is written the same. The first byte is the record's
//! type.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrate_stream::libxc::{Body, RecordType};

fn look_into(body: &Body<'_>) {
    match body {
        Body::PageData(pages) => assert_eq!(pages.pages().count(), pages.count()),
        Body::P2mFrames(frames) => assert_ne!(frames.frames().count(), 0),
        Body::HvmParams(params) => drop(params.params().collect::<Vec<_>>()),
        Body::CpuidPolicy(policy) => assert_ne!(policy.leaves().count(), 0),
        Body::MsrPolicy(policy) => assert_ne!(policy.msrs().count(), 0),
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&record_type, bytes)) = data.split_first() else { return };
    if let Ok(body) = Body::parse(RecordType::from(u32::from(record_type)), bytes) {
        look_into(&body);
        let mut written = Vec::new();
        body.write(&mut written);
        assert_eq!(written, bytes);
    }
});
