//! The source's half of the data path: from libxl's pipe or a feed to the connections.

use std::io::{IoSlice, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};
use migrate_stream::frame::Digest;

use crate::backlog::ends_live_iteration;
use crate::broken::{Broken, Verdict, caught};
use crate::buffers::Buffers;
use crate::codec::{Encoded, Encoder, end_frame};
use crate::drain::drain;
use crate::feed::{Fed, Taker, take_all};
use crate::meter::{Meter, Sizes};
use crate::packing::Packing;
use crate::split::{Part, Splitter};
use crate::window::Window;
use rxl_core::io::{Cancel, Guarded};
use rxl_core::worker::Worker;

/// Most pieces that one `writev` takes (Linux, limits.h: `IOV_MAX`).
const MAX_SLICES: usize = 1024;

/// Sums over a stream that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub frames: u64,
    /// Length of libxl's stream, in bytes.
    pub stream_bytes: u64,
    /// The digest over all frames, in hexadecimal.
    pub digest: String,
    /// When the last page was read from libxl.
    pub last_page: Option<Instant>,
    /// When the stream's last byte was read from libxl.
    pub stream_end: Instant,
}

/// A running sender. Dropping it gives the connections up, and waits until libxl's stream has been
/// read to its end.
pub struct Sender(Worker);

impl Sender {
    /// Starts moving what comes from `stream` to the connections. `on_end` is called once: at the
    /// first failure, or when every byte has been written.
    ///
    /// `cancel` ends the writing. The stream is read until its end even then: libxl's save helper
    /// must not meet a closed pipe, or it dies without switching log-dirty mode off.
    ///
    /// Records that rxl makes itself come from `fed`, in place of a libxc stream in `stream`.
    pub fn start(
        stream: Guarded,
        fed: Fed,
        connections: Vec<Guarded>,
        cancel: Cancel,
        packing: Packing,
        meter: Arc<Meter>,
        on_end: impl FnOnce(Result<Sent, Broken>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let run = Run {
            window: Window::new(packing.window()),
            records: fed.buffers,
            payloads: Arc::default(),
            digest: Mutex::new(Digest::new()),
            verdict: Verdict::new(on_end),
            cancel: cancel.clone(),
            packing,
            meter: meter.clone(),
        };
        let stop = move || {
            cancel.pull();
            meter.backlog.close();
        };
        Worker::start("send", stop, move || run.run(stream, fed.parts, connections)).map(Self)
    }

    /// Gives the data up: nothing more is written, and libxl's stream is read to its end without
    /// being held.
    pub fn abandon(&self) {
        self.0.stop();
    }
}

/// A part on its way to a worker.
struct Job {
    sequence: u64,
    part: Part,
    /// Indices of the iterations to which its records belong.
    iterations: Vec<usize>,
}

struct Run {
    window: Window<Encoded>,
    records: Arc<Buffers>,
    payloads: Arc<Buffers>,
    digest: Mutex<Digest>,
    verdict: Verdict<Sent>,
    cancel: Cancel,
    packing: Packing,
    meter: Arc<Meter>,
}

/// When the stream's last page and last byte were read.
struct Ends {
    last_page: Option<Instant>,
    end: Instant,
}

impl Run {
    fn run(&self, stream: Guarded, fed: Receiver<Part>, connections: Vec<Guarded>) {
        let read = std::thread::scope(|scope| {
            let (jobs, queue) = bounded(self.packing.window());
            for _ in 0..self.packing.threads.max(1) {
                let queue = queue.clone();
                scope.spawn(move || self.guarded(caught("compress", || self.work(&queue))));
            }
            for connection in connections {
                scope.spawn(move || self.guarded(caught("write", || self.write(connection))));
            }
            drop(queue);
            self.guarded(caught("split", || self.split(stream, fed, &jobs)))
        });
        // After a failure this does nothing: it has been reported by now.
        self.verdict.give(read.map(|read| self.sent(&read)));
    }

    /// Reports a failure and stops the other threads.
    fn guarded<T>(&self, result: Result<T, Broken>) -> Result<T, Broken> {
        if let Err(broken) = &result {
            self.verdict.give(Err(broken.clone()));
            self.cancel.pull();
            self.meter.backlog.close();
            self.window.close();
        }
        result
    }

    fn split(
        &self,
        stream: Guarded,
        fed: Receiver<Part>,
        jobs: &crossbeam_channel::Sender<Job>,
    ) -> Result<Ends, Broken> {
        let mut splitter = Splitter::new(stream, &self.records);
        let mut queue = Queue { run: self, jobs, sequence: 0, last_page: None };
        let result = take_all(&mut splitter, &fed, &mut queue).map(|()| {
            self.window.finish(queue.sequence);
            Ends { last_page: queue.last_page, end: Instant::now() }
        });
        let result = self.guarded(result);
        if result.is_err() {
            // Whoever feeds finds that nobody takes it.
            drop(fed);
            drain(splitter.into_input());
        }
        result
    }

    /// Waits before the end of a live iteration until the target has what was sent before: see
    /// [`crate::backlog`].
    fn hold(&self, frames: u64, pfns: u64) -> Result<(), Broken> {
        let held = ends_live_iteration(&self.meter.iterations(), pfns);
        if held {
            self.meter.backlog.wait(frames)?;
        }
        Ok(())
    }

    fn work(&self, queue: &Receiver<Job>) -> Result<(), Broken> {
        let mut encoder = Encoder::new(self.packing, self.payloads.clone())?;
        for Job { sequence, part: Part { kind, raw, batches, .. }, iterations } in queue {
            let stream = raw.len() as u64;
            let encoded = encoder.encode(kind, sequence, raw)?;
            let sizes = Sizes { stream, wire: encoded.header.wire_len.into() };
            self.meter.packed(&batches, &iterations, encoded.zero_pages, sizes);
            if self.window.put(sequence, encoded).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes frames to one connection. The connections take them in turn, so that each carries an
    /// ascending sequence.
    fn write(&self, mut connection: Guarded) -> Result<(), Broken> {
        while let Some(Encoded { header, payload, .. }) = self.next_frame() {
            let bytes = header.to_bytes();
            write_frame(&mut connection, &bytes, payload.pieces())?;
            self.meter.written(bytes.len() as u64 + u64::from(header.wire_len));
        }
        if self.cancel.pulled() {
            return Ok(());
        }
        let totals = self.digest.lock().unwrap_or_else(PoisonError::into_inner).totals();
        let (header, payload) = end_frame(&totals);
        write_frame(&mut connection, &header.to_bytes(), [payload.as_slice()].into_iter())
    }

    /// Takes the next frame and digests it, under one lock, so that the digest sees the frames in
    /// order.
    fn next_frame(&self) -> Option<Encoded> {
        let mut digest = self.digest.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, encoded) = self.window.take().ok()??;
        digest.frame(&encoded.header);
        Some(encoded)
    }

    fn sent(&self, read: &Ends) -> Sent {
        let totals = self.digest.lock().unwrap_or_else(PoisonError::into_inner).totals();
        Sent {
            frames: totals.frames,
            stream_bytes: totals.bytes,
            digest: totals.digest.to_string(),
            last_page: read.last_page,
            stream_end: read.end,
        }
    }
}

/// Numbers the parts and hands them to the workers.
struct Queue<'a> {
    run: &'a Run,
    jobs: &'a crossbeam_channel::Sender<Job>,
    sequence: u64,
    last_page: Option<Instant>,
}

impl Taker for Queue<'_> {
    fn hold(&self, pfns: u64) -> Result<(), Broken> {
        self.run.hold(self.sequence, pfns)
    }

    fn put(&mut self, part: Part) -> Result<(), Broken> {
        self.run.meter.read(part.raw.len() as u64);
        if !part.batches.is_empty() {
            self.last_page = Some(part.read_at);
        }
        let (iterations, sequence) = (self.run.meter.iterations_of(&part), self.sequence);
        self.run.window.admit(sequence).map_err(|_| Broken::GivenUp)?;
        self.jobs.send(Job { sequence, part, iterations }).map_err(|_| Broken::GivenUp)?;
        self.sequence += 1;
        Ok(())
    }
}

/// Writes header and payload together: one call where the connection takes them, and one packet
/// less.
fn write_frame<'a>(
    connection: &mut Guarded,
    header: &'a [u8],
    payload: impl Iterator<Item = &'a [u8]>,
) -> Result<(), Broken> {
    let mut slices: Vec<_> = std::iter::once(header).chain(payload).map(IoSlice::new).collect();
    let mut rest = slices.as_mut_slice();
    // Empty pieces at the front are passed over: a write of nothing would look like the end.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let next = rest.get(..MAX_SLICES).unwrap_or(rest);
        match connection.write_vectored(next) {
            Ok(0) => return Err(Broken::ConnectionCut),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) => return Err(Broken::Connection(Arc::new(error))),
        }
    }
    Ok(())
}
