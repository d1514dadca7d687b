//! A stream that is read to its end and forgotten.

use std::io::Read;

use rxl_core::io::Guarded;

/// Reads a stream to its end and drops what it holds, so that its writer meets no closed pipe.
pub fn drain(mut stream: Guarded) {
    let mut scrap = vec![0; 64 << 10];
    while matches!(stream.read(&mut scrap), Ok(n) if n > 0) {}
}
