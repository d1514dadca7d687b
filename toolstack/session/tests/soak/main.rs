//! Random migrations between two hosts in memory, each with random faults, and what has to hold
//! whatever happens.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod dice;
mod guard;
mod host;
mod inward;
mod link;
mod node;
mod outward;
mod places;
mod plan;
mod proc;
mod recovery;
mod session;
mod tally;
mod truth;
mod world;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use tally::Tally;
use world::Flaw;

/// Sessions at once: most of a session's time it waits.
const AT_ONCE: u64 = 32;

/// Sessions of one run of the test.
const SESSIONS: u64 = 10_000;

/// Failures that are told in full.
const TOLD: usize = 3;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// In memory where there is such a file system: the records are written as on any other.
fn directory() -> TempDir {
    let shm = Path::new("/dev/shm");
    let made = tempfile::Builder::new().prefix("rxl-soak-").tempdir_in(shm);
    made.or_else(|_| tempfile::tempdir()).unwrap()
}

struct Found {
    tally: Tally,
    sessions: u64,
    failures: Vec<String>,
}

impl Found {
    /// A rare place may need some sessions more.
    fn is_enough(&self, sessions: u64) -> bool {
        sessions < SESSIONS || self.tally.missed().is_empty()
    }
}

/// Runs so many sessions, or until some have failed.
fn soak(sessions: u64, flaw: Option<Flaw>, seed_of: impl Fn(u64) -> u64 + Sync) -> Found {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let found = Mutex::new(Found { tally: Tally::default(), sessions: 0, failures: Vec::new() });
    let work = || {
        let dir = directory();
        while !stop.load(Ordering::SeqCst) {
            let index = next.fetch_add(1, Ordering::SeqCst);
            if index >= sessions
                && (index >= 2 * sessions || found.lock().unwrap().is_enough(sessions))
            {
                return;
            }
            let seed = seed_of(index);
            let outcome = session::run(seed, dir.path(), flaw);
            let mut found = found.lock().unwrap();
            found.sessions += 1;
            found.tally.count(&outcome);
            if !outcome.wrong.is_empty() {
                let wrong = outcome.wrong.join("\n  ");
                found.failures.push(format!("seed {seed}:\n  {wrong}\n{}", outcome.told));
                stop.store(flaw.is_some() || found.failures.len() >= TOLD, Ordering::SeqCst);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..number("RXL_SOAK_AT_ONCE").unwrap_or(AT_ONCE).min(sessions) {
            scope.spawn(work);
        }
    });
    found.into_inner().unwrap()
}

/// `RXL_SOAK_SESSIONS` says how many; `RXL_SOAK_SEED` repeats one seed so often.
#[test]
fn whatever_goes_wrong_one_domain_runs() {
    let once = number("RXL_SOAK_SEED");
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let first = once.unwrap_or(since.as_micros() as u64);
    let sessions =
        number("RXL_SOAK_SESSIONS").unwrap_or(if once.is_some() { 100 } else { SESSIONS });
    println!("{sessions} sessions, from seed {first} on");
    let began = Instant::now();
    let found = soak(sessions, None, |index| if once.is_some() { first } else { first + index });
    let seconds = began.elapsed().as_secs_f64();
    println!("{}", found.tally.table());
    println!("{seconds:.1} s, {:.0} sessions a second", found.sessions as f64 / seconds);
    assert!(found.failures.is_empty(), "{}", found.failures.join("\n"));
    if once.is_none() && sessions >= SESSIONS {
        assert_eq!(found.tally.missed(), [], "nothing struck there");
    }
}

/// What each fault that is put in leads to, and after how many sessions that was seen.
#[test]
fn each_flaw_that_is_put_in_is_found() {
    let flaws = [Flaw::FenceNotRecorded, Flaw::NobodyAsks, Flaw::SilenceIsNo, Flaw::SilenceIsGo];
    for flaw in flaws {
        let found = soak(SESSIONS, Some(flaw), |index| index);
        println!("{flaw:?}: after {} sessions", found.sessions);
        let first = found.failures.first().expect("it is not found");
        println!("{}", first.lines().take(3).collect::<Vec<_>>().join("\n"));
    }
}
