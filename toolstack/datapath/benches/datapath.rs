//! The data path in one process: 512 MiB of guest memory from its source, over a pair of sockets,
//! into memory again.
//!
//! `cargo bench -p rxl-datapath` prints, for each way in and each codec, the median of five runs:
//! GB of stream a second, and processor seconds of the whole process. `cargo bench -p rxl-datapath
//! -- feed-none 1` runs one way once. Compare two builds by turns, on a machine that does nothing
//! else.
//!
//! A quarter of the pages is zero, half compresses to about a third, a quarter is random. `feed`
//! copies them into records, as rxl does from a guest's mapping; `pipe` has another thread write
//! the stream, as libxl's save helper does. The sink copies each record once, as into a new guest.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::error::Error;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use migrate_stream::libxc::{DomainHeader, DomainType, PAGE_SIZE, PageEntry, PageType, RecordType};
use migrate_stream::writer;
use rxl_core::io::{Cancel, Guarded, pipe};
use rxl_datapath::broken::Broken;
use rxl_datapath::feed::{Feed, feed};
use rxl_datapath::meter::Meter;
use rxl_datapath::packing::Packing;
use rxl_datapath::receive::Receiver;
use rxl_datapath::send::Sender;
use rxl_datapath::sink::StreamSink;

type Failure = Box<dyn Error + Send + Sync>;

const PAGES: usize = (512 << 20) / PAGE_SIZE;
const BATCH: usize = 1024;
/// Longest wait for bytes in a run, and for its end.
const STALL: Duration = Duration::from_secs(60);
/// `USER_HZ` of every Linux that rxl runs on: ticks a second in /proc/self/stat.
const TICKS: f64 = 100.0;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let only = arguments.next();
    let runs = arguments.next().map_or(Ok(5), |runs| runs.parse::<usize>())?;
    let memory = memory();
    for (way, fed) in [("feed", true), ("pipe", false)] {
        for (codec, compress) in [("none", false), ("zstd", true)] {
            let name = format!("{way}-{codec}");
            if only.as_ref().is_some_and(|only| *only != name) {
                continue;
            }
            let packing = Packing { compress, level: 1, threads: Packing::default_threads() };
            let runs: Result<Vec<_>, _> = (0..runs).map(|_| run(&memory, fed, packing)).collect();
            let (mut rates, mut cpu): (Vec<f64>, Vec<f64>) = runs?.into_iter().unzip();
            println!("{name} {:.2} GB/s {:.2} CPU s", median(&mut rates), median(&mut cpu));
        }
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// GB of stream a second, and seconds of processor time.
fn run(memory: &Arc<Vec<u8>>, fed: bool, packing: Packing) -> Result<(f64, f64), Failure> {
    let (cancel, meter) = (Cancel::new()?, Arc::new(Meter::default()));
    let guarded = |fd: OwnedFd| Guarded::new(fd, cancel.clone(), Some(STALL));
    let (here, there) = UnixStream::pair()?;
    let (reading, writing) = pipe()?;
    let (sent, ends) = channel();
    let (cpu, began) = (cpu_seconds()?, Instant::now());
    let told = meter.clone();
    let receiver = Receiver::start(
        vec![guarded(there.into())?],
        Box::new(Memory(Vec::new())),
        cancel.clone(),
        move |frames| told.backlog.restored(frames),
        move |received| drop(sent.send(received)),
    )?;
    let (feed, taken) = feed(meter.clone());
    let sender = Sender::start(
        guarded(reading)?,
        taken,
        vec![guarded(here.into())?],
        cancel.clone(),
        packing,
        meter,
        |_| {},
    )?;
    let memory = memory.clone();
    let source = std::thread::spawn(move || save(&memory, fed.then_some(feed), writing.into()));
    let received = ends.recv_timeout(STALL)??;
    source.join().map_err(|_| "the source panicked")??;
    drop((sender, receiver));
    let seconds = began.elapsed().as_secs_f64();
    Ok((received.stream_bytes as f64 / 1e9 / seconds, cpu_seconds()? - cpu))
}

/// Takes what is received, one copy for each record.
struct Memory(Vec<u8>);

impl StreamSink for Memory {
    fn put(&mut self, raw: &[u8]) -> Result<(), Broken> {
        self.0.clear();
        self.0.extend_from_slice(raw);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Broken> {
        Ok(())
    }
}

/// Writes a whole stream: pages into the feed if there is one, all the rest into the pipe.
fn save(memory: &[u8], feed: Option<Feed>, mut pipe: std::fs::File) -> Result<(), Failure> {
    let (mut before, mut head) = (Vec::new(), Vec::new());
    writer::libxl_header(&mut before);
    writer::libxc_context(&mut before);
    writer::image_header(&mut head);
    let header = DomainHeader { domain_type: DomainType::Hvm, xen_major: 4, xen_minor: 17 };
    writer::domain_header(&mut head, header);
    writer::static_data_end(&mut head);
    let (mut tail, mut end) = (Vec::new(), Vec::new());
    writer::libxc_record(&mut tail, RecordType::HvmContext, &[0x5a; 3000])?;
    writer::libxc_end(&mut tail);
    writer::libxl_end(&mut end);
    pipe.write_all(&before)?;
    if let Some(mut feed) = feed {
        let mut buffer = feed.buffer();
        buffer.extend_from_slice(&head);
        feed.bytes(buffer)?;
        feed.begin_iteration(PAGES as u64, false);
        for (index, pages) in memory.chunks(BATCH * PAGE_SIZE).enumerate() {
            let mut record = feed.buffer();
            page_data(&mut record, index, pages)?;
            feed.pages(record)?;
        }
        let mut buffer = feed.buffer();
        buffer.extend_from_slice(&tail);
        feed.bytes(buffer)?;
    } else {
        pipe.write_all(&head)?;
        let mut record = Vec::new();
        for (index, pages) in memory.chunks(BATCH * PAGE_SIZE).enumerate() {
            record.clear();
            page_data(&mut record, index, pages)?;
            pipe.write_all(&record)?;
        }
        pipe.write_all(&tail)?;
    }
    Ok(pipe.write_all(&end)?)
}

fn page_data(record: &mut Vec<u8>, index: usize, pages: &[u8]) -> Result<(), Failure> {
    let first = index * BATCH;
    let entries: Vec<_> = (first..first + pages.len() / PAGE_SIZE)
        .map(|pfn| PageEntry { pfn: pfn as u64, page_type: PageType::NoTab })
        .collect();
    record.resize(writer::page_data_head_len(entries.len()), 0);
    record.extend_from_slice(pages);
    Ok(writer::page_data_head(record, &entries)?)
}

/// The guest's memory: pages of zeroes, of words with few bits, and of noise.
fn memory() -> Arc<Vec<u8>> {
    let mut memory = vec![0; PAGES * PAGE_SIZE];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for (index, page) in memory.chunks_exact_mut(PAGE_SIZE).enumerate() {
        let mask = match index % 4 {
            0 => continue,
            1 => u64::MAX,
            _ => 0x0f0f,
        };
        for word in page.chunks_exact_mut(8) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            word.copy_from_slice(&(random & mask).to_le_bytes());
        }
    }
    Arc::new(memory)
}

/// User and system time of this process so far, in seconds (proc(5): fields 14 and 15 of stat).
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/self/stat")?;
    let ticks: Result<Vec<f64>, _> =
        fields.split_whitespace().skip(11).take(2).map(str::parse).collect();
    Ok(ticks?.iter().sum::<f64>() / TICKS)
}
