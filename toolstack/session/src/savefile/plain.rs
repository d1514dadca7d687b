//! Writes libxl's stream as it is, for `--plain`.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use migrate_stream::reader::{Start, StreamReader};

use rxl_core::io::Guarded;
use rxl_core::worker::Worker;
use rxl_datapath::broken::Broken;
use rxl_datapath::drain::drain;

/// Bytes copied at once.
const BUFFER: usize = 1 << 20;

/// The running copy. Dropping it stops the writing, and waits until libxl's stream has been read to
/// its end.
pub struct Copy {
    worker: Worker,
}

impl Copy {
    /// Starts copying; `on_end` hears of the first failure at once, or of the bytes when all have
    /// been written.
    ///
    /// The stream is read until its end whatever happens: libxl's save helper must not meet a
    /// closed pipe.
    pub fn start(
        stream: Guarded,
        file: File,
        on_end: impl FnOnce(Result<u64, Broken>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = stopped.clone();
        let run = move || {
            let mut stream = stream;
            let copied = copy(&mut stream, file, &flag);
            let failed = copied.is_err();
            on_end(copied);
            if failed {
                drain(stream);
            }
        };
        let stop = move || stopped.store(true, Ordering::SeqCst);
        Ok(Self { worker: Worker::start("copy", stop, run)? })
    }

    /// Nothing more is written.
    pub fn abandon(&self) {
        self.worker.stop();
    }
}

/// The parser sees what is written: a stream that is not whole must not be kept.
fn copy(stream: &mut impl Read, mut file: File, stopped: &AtomicBool) -> Result<u64, Broken> {
    let mut reader = StreamReader::new(Start::Libxl);
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = stream.read(&mut buffer).map_err(|e| Broken::LibxlRead(Arc::new(e)))?;
        if stopped.load(Ordering::SeqCst) {
            return Err(Broken::GivenUp);
        }
        if length == 0 {
            reader.finish().map_err(|e| Broken::from(e))?;
            return Ok(reader.offset());
        }
        let read = buffer.get(..length).unwrap_or_default();
        let mut rest = read;
        while reader.next(&mut rest).map_err(|e| Broken::from(e))?.is_some() {}
        if !rest.is_empty() {
            return Err(Broken::LibxlTail { offset: reader.offset() });
        }
        file.write_all(read).map_err(|e| Broken::peer(e))?;
    }
}
