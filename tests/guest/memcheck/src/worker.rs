//! Keeps writing and comparing pages at the wanted rates.

use std::thread;
use std::time::{Duration, Instant};

use crate::arguments::Load;
use crate::pattern::mix;
use crate::region::Region;
use crate::status::Status;

/// Each wake-up costs a nested guest about 2 ms.
const SLICE: Duration = Duration::from_millis(100);

/// Debt of pages that a stalled guest may make up for at once; more would only follow one stall
/// with another.
const LONGEST_DEBT: Duration = Duration::from_millis(500);

/// Runs for ever.
pub fn work(load: Load, status: &Status) {
    let mut region = Region::new(load.pattern, load.pages);
    let mut verifier = Verifier::default();
    let mut dirtied = 0_u64;
    let mut last = Instant::now();
    let (mut to_dirty, mut to_verify) =
        (Budget::new(load.dirty_rate), Budget::new(load.verify_rate));
    status.update(|counters| counters.pages = region.len() as u64);
    loop {
        thread::sleep(SLICE);
        let elapsed = last.elapsed().min(LONGEST_DEBT);
        last = Instant::now();
        for _ in 0..to_dirty.take(elapsed) {
            let index = (mix(load.pattern.seed ^ dirtied) % region.len() as u64) as usize;
            note(status, region.dirty(index));
            dirtied += 1;
        }
        for _ in 0..to_verify.take(elapsed) {
            verifier.step(&mut region, status);
        }
        status.update(|counters| counters.dirtied = dirtied);
    }
}

/// Round-robin comparison of all pages, then of the table.
#[derive(Default)]
struct Verifier {
    next: usize,
}

impl Verifier {
    fn step(&mut self, region: &mut Region, status: &Status) {
        let verified = region.verify(self.next);
        if verified.is_err() {
            region.rewrite(self.next);
        }
        note(status, verified);
        self.next += 1;
        if self.next == region.len() {
            self.next = 0;
            finish_pass(region, status);
        }
    }
}

fn finish_pass(region: &mut Region, status: &Status) {
    let verified = region.verify_table();
    if verified.is_err() {
        region.accept_table();
    }
    note(status, verified);
    let generation_sum = region.generation_sum();
    status.update(|counters| {
        counters.verified_passes += 1;
        counters.generation_sum = generation_sum;
    });
}

fn note(status: &Status, verified: Result<(), String>) {
    if let Err(error) = verified {
        eprintln!("memcheck: {error}");
        status.update(|counters| {
            counters.errors += 1;
            counters.first_error.get_or_insert(error);
        });
    }
}

/// Turns a rate and elapsed times into whole pages, keeping the remainder.
struct Budget {
    rate: u64,
    owed_nanopages: u128,
}

impl Budget {
    fn new(rate: u64) -> Self {
        Self { rate, owed_nanopages: 0 }
    }

    fn take(&mut self, elapsed: Duration) -> u64 {
        const NANO: u128 = 1_000_000_000;
        self.owed_nanopages += elapsed.as_nanos() * u128::from(self.rate);
        let pages = self.owed_nanopages / NANO;
        self.owed_nanopages %= NANO;
        pages as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;

    #[test]
    fn a_budget_loses_no_fraction() {
        let mut budget = Budget::new(30);
        let taken: u64 = (0..1000).map(|_| budget.take(Duration::from_millis(1))).sum();
        assert_eq!(taken, 30);
    }

    #[test]
    fn a_pass_visits_every_page_and_reports_it() {
        let status = Status::default();
        let mut region = Region::new(Pattern { seed: 1, entropy: 0 }, 8);
        region.rewrite(3);
        let mut verifier = Verifier::default();
        for _ in 0..8 {
            verifier.step(&mut region, &status);
        }
        let counters = status.counters();
        assert_eq!((counters.verified_passes, counters.generation_sum, counters.errors), (1, 1, 0));
    }

    #[test]
    fn the_first_of_several_errors_is_kept() {
        let status = Status::default();
        note(&status, Err("one".to_owned()));
        note(&status, Err("two".to_owned()));
        let counters = status.counters();
        assert_eq!((counters.errors, counters.first_error.as_deref()), (2, Some("one")));
    }
}
