//! What was seen so far, and the TCP service that tells it.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const REPORT_INTERVAL: Duration = Duration::from_secs(1);
const MOST_CONNECTIONS: usize = 32;

/// A peer that takes no line for this long is given up.
const WRITE_DEADLINE: Duration = Duration::from_secs(120);

/// Everything a status line tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Pages under check; 0 until all are filled.
    pub pages: u64,
    /// Sum of the pages' generations at the end of the last pass.
    pub generation_sum: u64,
    /// Complete comparisons of all pages.
    pub verified_passes: u64,
    /// Pages rewritten so far.
    pub dirtied: u64,
    /// Damaged pages or tables found so far.
    pub errors: u64,
    /// The first of them, in words.
    pub first_error: Option<String>,
    /// Milliseconds since the start, by CLOCK_MONOTONIC.
    pub uptime_ms: u64,
    /// The longest time by which a look at the clocks was late.
    pub longest_tick_gap_ms: u64,
    /// When that was, as `uptime_ms`.
    pub longest_tick_gap_at_ms: u64,
    /// The largest jump of CLOCK_REALTIME against CLOCK_MONOTONIC, in milliseconds; negative when
    /// it went back.
    pub largest_wall_jump_ms: i64,
}

impl Counters {
    /// One line of JSON, without its newline. `sequence` counts the lines of one connection.
    fn json(&self, sequence: u64) -> String {
        let first_error =
            self.first_error.as_ref().map_or("null".to_owned(), |error| format!("\"{error}\""));
        format!(
            "{{\"sequence\":{sequence},\"pages\":{},\"generation_sum\":{},\
             \"verified_passes\":{},\"dirtied\":{},\"errors\":{},\
             \"first_error\":{first_error},\"uptime_ms\":{},\
             \"longest_tick_gap_ms\":{},\"longest_tick_gap_at_ms\":{},\
             \"largest_wall_jump_ms\":{}}}",
            self.pages,
            self.generation_sum,
            self.verified_passes,
            self.dirtied,
            self.errors,
            self.uptime_ms,
            self.longest_tick_gap_ms,
            self.longest_tick_gap_at_ms,
            self.largest_wall_jump_ms
        )
    }
}

/// [`Counters`] shared by the threads.
#[derive(Default)]
pub struct Status {
    counters: Mutex<Counters>,
}

impl Status {
    /// Changes the counters in one step.
    pub fn update(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.lock());
    }

    /// A consistent copy.
    pub fn counters(&self) -> Counters {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers connections for ever, each in a thread of its own.
pub fn serve(listener: &TcpListener, status: &Arc<Status>) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming().flatten() {
        if open.fetch_add(1, Ordering::SeqCst) >= MOST_CONNECTIONS {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (status, open) = (Arc::clone(status), Arc::clone(&open));
        thread::spawn(move || {
            if let Err(error) = report(stream, &status) {
                eprintln!("memcheck: connection: {error}");
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Sends a line a second, and one at once for each line received, until the peer closes.
fn report(mut stream: TcpStream, status: &Status) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_DEADLINE))?;
    let mut next = Instant::now();
    let mut sequence = 0;
    let mut input = [0; 256];
    loop {
        let wait = next.saturating_duration_since(Instant::now());
        let wanted = if wait.is_zero() {
            next = Instant::now() + REPORT_INTERVAL;
            1
        } else {
            stream.set_read_timeout(Some(wait))?;
            match read_some(&mut stream, &mut input)? {
                Some(0) => return Ok(()),
                Some(count) => input[..count].iter().filter(|&&byte| byte == b'\n').count(),
                None => 0,
            }
        };
        for _ in 0..wanted {
            stream.write_all(format!("{}\n", status.counters().json(sequence)).as_bytes())?;
            sequence += 1;
        }
    }
}

/// `None` when the read timeout came first.
fn read_some(stream: &mut TcpStream, input: &mut [u8]) -> std::io::Result<Option<usize>> {
    match stream.read(input) {
        Ok(count) => Ok(Some(count)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    #[test]
    fn a_connection_gets_numbered_lines_and_answers_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let status = Arc::new(Status::default());
        status.update(|counters| counters.dirtied = 42);
        thread::spawn(move || serve(&listener, &status));

        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let start = Instant::now();
        assert!(lines.next().unwrap().unwrap().starts_with("{\"sequence\":0,"));
        stream.write_all(b"\n").unwrap();
        let answer = lines.next().unwrap().unwrap();
        assert!(start.elapsed() < REPORT_INTERVAL, "did not wait for the next second");
        assert!(
            answer.starts_with("{\"sequence\":1,") && answer.contains("\"dirtied\":42"),
            "{answer}"
        );
        assert!(lines.next().unwrap().unwrap().starts_with("{\"sequence\":2,"));
    }

    #[test]
    fn the_first_error_is_null_or_a_string() {
        let mut counters = Counters::default();
        assert!(counters.json(0).contains("\"first_error\":null,"));
        counters.first_error = Some("page 1".to_owned());
        assert!(counters.json(0).contains("\"first_error\":\"page 1\","));
    }
}
