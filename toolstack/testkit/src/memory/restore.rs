//! Restores in memory: a stream is read as libxl reads it.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use migrate_stream::reader::{Start, StreamReader};

use super::{Summing, failed};
use rxl_core::host_error::HostError;

/// Takes a stream as libxl does: it must be whole and well-formed.
pub(super) fn read_stream(
    mut input: Summing<File>,
    aborted: &AtomicBool,
    limit: Option<u64>,
) -> Result<(u64, u32), HostError> {
    let mut reader = StreamReader::new(Start::Libxl);
    let mut buffer = vec![0; 1 << 20];
    while !reader.is_complete() {
        let got = input.file.read(&mut buffer).map_err(|e| failed("restore", e))?;
        if aborted.load(Ordering::SeqCst) {
            return Err(HostError::Aborted("restore"));
        }
        if got == 0 {
            reader.finish().map_err(|e| failed("restore", e))?;
        }
        if limit.is_some_and(|limit| input.bytes > limit) {
            return Err(failed("restore", "as asked"));
        }
        let read = buffer.get(..got).unwrap_or_default();
        input.passed(read);
        let mut rest = read;
        while reader.next(&mut rest).map_err(|e| failed("restore", e))?.is_some() {}
    }
    // libxl attaches devices after the stream.
    std::thread::sleep(Duration::from_millis(1));
    Ok(input.sum())
}
