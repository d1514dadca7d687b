//! The source's data path to a peer that knows nothing of frames: libxl's stream as it is, on one
//! connection.
//!
//! What comes from libxl, or from the feed, goes through the same parser and the same counts as in
//! [`crate::send`]. A part counts as restored when the connection has taken it, as a stock peer
//! tells nothing more: see [`crate::backlog`].

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use migrate_stream::frame::FrameKind;

use crate::broken::Broken;
use crate::drain::drain;
use crate::feed::{Fed, Taker, take_all};
use crate::meter::{Meter, Sizes};
use crate::split::{Part, Splitter, count_zero_pages_of};
use rxl_core::io::{Cancel, Guarded};
use rxl_core::worker::Worker;

/// When the parts of a stream that was copied had gone.
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    /// When the last page was read from libxl.
    pub last_page: Option<Instant>,
    /// When the stream's last byte was written.
    pub stream_end: Instant,
}

/// A running copy. Dropping it gives the connection up, and waits until libxl's stream has been
/// read to its end.
pub struct Copier(Worker);

impl Copier {
    /// Starts copying from `stream`, with the records of `fed` where rxl makes them itself.
    /// `on_end` is called once: at the first failure, or when every byte has been written. `cancel`
    /// ends the writing, not the reading.
    pub fn start(
        stream: Guarded,
        fed: Fed,
        connection: Guarded,
        cancel: Cancel,
        meter: Arc<Meter>,
        on_end: impl FnOnce(Result<Copied, Broken>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared = meter.clone();
        let run = move || {
            let mut splitter = Splitter::new(stream, &fed.buffers);
            let mut copy = Copy { connection, meter: &shared, parts: 0, last_page: None };
            match take_all(&mut splitter, &fed.parts, &mut copy) {
                Ok(()) => {
                    on_end(Ok(Copied { last_page: copy.last_page, stream_end: Instant::now() }))
                }
                Err(broken) => {
                    shared.backlog.close();
                    on_end(Err(broken));
                    // Whoever feeds finds that nobody takes it.
                    drop(fed.parts);
                    drain(splitter.into_input());
                }
            }
        };
        let stop = move || {
            cancel.pull();
            meter.backlog.close();
        };
        Worker::start("copy", stop, run).map(Self)
    }

    /// Gives the data up: nothing more is written, and libxl's stream is read to its end.
    pub fn abandon(&self) {
        self.0.stop();
    }
}

struct Copy<'a> {
    connection: Guarded,
    meter: &'a Meter,
    parts: u64,
    last_page: Option<Instant>,
}

impl Taker for Copy<'_> {
    /// Does not wait: all that was read before has been written already.
    fn hold(&self, _pfns: u64) -> Result<(), Broken> {
        Ok(())
    }

    fn put(&mut self, part: Part) -> Result<(), Broken> {
        let length = part.raw.len() as u64;
        self.meter.read(length);
        if !part.batches.is_empty() {
            self.last_page = Some(part.read_at);
        }
        let iterations = self.meter.iterations_of(&part);
        let zero_pages = if part.kind == FrameKind::Pages { count_zero_pages_of(&part) } else { 0 };
        self.connection
            .write_all(&part.raw)
            .map_err(|error| Broken::PlainConnection(Arc::new(error)))?;
        self.meter.written(length);
        let sizes = Sizes { stream: length, wire: length };
        self.meter.packed(&part.batches, &iterations, zero_pages, sizes);
        self.parts += 1;
        self.meter.backlog.restored(self.parts);
        Ok(())
    }
}
