//! The target's half of the data path: connections, decoders, and the sink of the stream.

use std::io::{BufReader, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver as Queue, Sender as Jobs, bounded};
use migrate_stream::frame::{Digest, FRAME_HEADER_LEN, FrameHeader, FrameKind, Totals};

use crate::broken::{Broken, Verdict, caught};
use crate::buffers::{Buffer, Buffers};
use crate::codec::{Decoder, read_end};
use crate::packing::Packing;
use crate::sink::StreamSink;
use crate::window::{PutError, Window};
use rxl_core::io::{Cancel, Guarded};
use rxl_core::worker::Worker;

/// Number of bytes read at once where frames are small.
const READ_AHEAD: usize = 128 << 10;

/// Sums over a stream that was received, each frame verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub frames: u64,
    /// Length of libxl's stream, in bytes.
    pub stream_bytes: u64,
    /// The digest over all frames, in hexadecimal.
    pub digest: String,
    /// When the sink had taken the last byte.
    pub stream_end: Instant,
    /// When the sink had finished: all of the stream is then where it belongs.
    pub finished: Instant,
}

/// A running receiver. Dropping it gives the data up: libxl meets the end of its stream early, and
/// the restore fails.
pub struct Receiver {
    _worker: Worker,
}

impl Receiver {
    /// Starts rebuilding the stream from the connections into `sink`. `on_end` is called once: at
    /// the first failure, or when every byte has been taken. `on_restored` is called after each
    /// frame with the number of frames that the sink has taken.
    pub fn start(
        connections: Vec<Guarded>,
        sink: Box<dyn StreamSink>,
        cancel: Cancel,
        on_restored: impl Fn(u64) + Send + Sync + 'static,
        on_end: impl FnOnce(Result<Received, Broken>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let packing = Packing { compress: true, level: 0, threads: Packing::default_threads() };
        let run = Run {
            on_restored: Box::new(on_restored),
            window: Window::new(packing.window()),
            threads: packing.threads,
            payloads: Arc::default(),
            records: Arc::default(),
            verdict: Verdict::new(on_end),
            cancel: cancel.clone(),
        };
        let worker = Worker::with_cancel("receive", cancel, move || run.run(connections, sink))?;
        Ok(Self { _worker: worker })
    }
}

/// A frame on its way to a worker.
struct Job {
    header: FrameHeader,
    payload: Buffer,
}

/// A frame on its way to the sink.
struct Decoded {
    header: FrameHeader,
    raw: Buffer,
}

/// The pipe from which libxl reads the stream.
pub struct Pipe(pub Guarded);

impl StreamSink for Pipe {
    fn put(&mut self, raw: &[u8]) -> Result<(), Broken> {
        self.0.write_all(raw).map_err(|error| Broken::LibxlWrite(Arc::new(error)))
    }

    fn finish(&mut self) -> Result<(), Broken> {
        Ok(())
    }
}

struct Run {
    on_restored: Box<dyn Fn(u64) + Send + Sync>,
    window: Window<Decoded>,
    threads: usize,
    payloads: Arc<Buffers>,
    records: Arc<Buffers>,
    verdict: Verdict<Received>,
    cancel: Cancel,
}

impl Run {
    fn run(&self, connections: Vec<Guarded>, sink: Box<dyn StreamSink>) {
        let announced = Mutex::new(None);
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| self.guarded(caught("write", || self.write(sink))));
            std::thread::scope(|scope| {
                let (jobs, queue) = bounded(self.window.width());
                for _ in 0..self.threads {
                    let queue = queue.clone();
                    scope.spawn(move || self.guarded(caught("decompress", || self.work(&queue))));
                }
                for connection in connections {
                    let (jobs, announced) = (jobs.clone(), &announced);
                    let read = move || self.read(connection, &jobs, announced);
                    scope.spawn(move || self.guarded(caught("read", read)));
                }
            });
            self.window.seal();
            // `caught` holds its panics.
            writer.join().unwrap_or(Err(Broken::GivenUp))
        });
        self.verdict.give(written);
    }

    /// Reports a failure and stops the other threads.
    fn guarded<T>(&self, result: Result<T, Broken>) -> Result<T, Broken> {
        if let Err(broken) = &result {
            self.verdict.give(Err(broken.clone()));
            self.cancel.pull();
            self.window.close();
        }
        result
    }

    /// Reads one connection until its end frame.
    fn read(
        &self,
        from: Guarded,
        jobs: &Jobs<Job>,
        announced: &Mutex<Option<Totals>>,
    ) -> Result<(), Broken> {
        let mut from = BufReader::with_capacity(READ_AHEAD, from);
        loop {
            let mut header = [0; FRAME_HEADER_LEN];
            from.read_exact(&mut header).map_err(cut)?;
            let header = FrameHeader::parse(&header).map_err(Broken::FrameHeader)?;
            if header.kind == FrameKind::End {
                let payload = self.read_payload(&mut from, &header)?;
                return self.end(announced, read_end(&header, &payload).map_err(Broken::EndFrame)?);
            }
            // Room first: then what waits in memory is bounded, whatever the peer sends.
            if self.window.admit(header.sequence).is_err() {
                return Ok(());
            }
            let payload = self.read_payload(&mut from, &header)?;
            if jobs.send(Job { header, payload }).is_err() {
                return Ok(());
            }
        }
    }

    fn read_payload(&self, from: &mut impl Read, header: &FrameHeader) -> Result<Buffer, Broken> {
        let length = header.wire_len as usize;
        let mut payload = self.payloads.take_stale();
        payload.grow(length);
        payload.truncate(length);
        from.read_exact(&mut payload).map_err(cut)?;
        Ok(payload)
    }

    /// Compares a connection's totals with those of the others: all end with the same.
    fn end(&self, announced: &Mutex<Option<Totals>>, totals: Totals) -> Result<(), Broken> {
        let mut announced = announced.lock().unwrap_or_else(PoisonError::into_inner);
        if announced.replace(totals).is_some_and(|earlier| earlier != totals) {
            return Err(Broken::Totals);
        }
        self.window.finish(totals.frames);
        Ok(())
    }

    fn work(&self, queue: &Queue<Job>) -> Result<(), Broken> {
        let mut decoder = Decoder::new().map_err(Broken::Decoder)?;
        for Job { header, mut payload } in queue {
            let mut raw = self.records.take();
            let sequence = header.sequence;
            let decoded = decoder.decode(&header, &mut payload, &mut raw);
            decoded.map_err(|error| Broken::Frame { sequence, error })?;
            drop(payload);
            match self.window.put(sequence, Decoded { header, raw }) {
                Ok(()) => {}
                Err(PutError::Closed) => return Ok(()),
                Err(PutError::OutOfPlace) => return Err(Broken::FrameTwice { sequence }),
            }
        }
        Ok(())
    }

    fn write(&self, mut sink: Box<dyn StreamSink>) -> Result<Received, Broken> {
        let mut digest = Digest::new();
        loop {
            match self.window.take() {
                Ok(Some((sequence, Decoded { header, raw }))) => {
                    digest.frame(&header);
                    sink.put(&raw)?;
                    (self.on_restored)(sequence + 1);
                }
                Ok(None) => break,
                Err(_) => return Err(Broken::FramesMissing),
            }
        }
        let stream_end = Instant::now();
        sink.finish()?;
        // A pipe is closed by this.
        drop(sink);
        let totals = digest.totals();
        Ok(Received {
            frames: totals.frames,
            stream_bytes: totals.bytes,
            digest: totals.digest.to_string(),
            stream_end,
            finished: Instant::now(),
        })
    }
}

fn cut(error: std::io::Error) -> Broken {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Broken::ConnectionCut,
        _ => Broken::Connection(Arc::new(error)),
    }
}
