//! Watches the guest's clocks for the pause and the jump that a migration makes.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::status::{Counters, Status};

/// Looks at the clocks every `interval`, for ever.
pub fn watch(interval: Duration, status: &Status) {
    let start = Instant::now();
    let mut last = (Instant::now(), SystemTime::now());
    loop {
        thread::sleep(interval);
        let now = (Instant::now(), SystemTime::now());
        let monotonic = now.0.duration_since(last.0);
        let wall_ms = signed_ms(last.1, now.1);
        status.update(|counters| {
            tick(
                counters,
                now.0.duration_since(start),
                monotonic.saturating_sub(interval),
                wall_ms - milliseconds(monotonic) as i64,
            )
        });
        last = now;
    }
}

/// Notes one tick that came `late` by CLOCK_MONOTONIC, while CLOCK_REALTIME went `wall_jump_ms`
/// further than that clock.
fn tick(counters: &mut Counters, uptime: Duration, late: Duration, wall_jump_ms: i64) {
    counters.uptime_ms = milliseconds(uptime);
    if milliseconds(late) > counters.longest_tick_gap_ms {
        counters.longest_tick_gap_ms = milliseconds(late);
        counters.longest_tick_gap_at_ms = counters.uptime_ms;
    }
    if wall_jump_ms.abs() > counters.largest_wall_jump_ms.abs() {
        counters.largest_wall_jump_ms = wall_jump_ms;
    }
}

fn signed_ms(from: SystemTime, to: SystemTime) -> i64 {
    match to.duration_since(from) {
        Ok(forward) => milliseconds(forward) as i64,
        Err(backward) => -(milliseconds(backward.duration()) as i64),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_and_its_time_are_kept() {
        let mut counters = Counters::default();
        for (at, late) in [(100, 2), (600, 500), (700, 20)] {
            tick(&mut counters, Duration::from_millis(at), Duration::from_millis(late), 0);
        }
        assert_eq!((counters.longest_tick_gap_ms, counters.longest_tick_gap_at_ms), (500, 600));
        assert_eq!((counters.largest_wall_jump_ms, counters.uptime_ms), (0, 700));
    }

    #[test]
    fn the_largest_jump_of_the_wall_clock_keeps_its_sign() {
        let mut counters = Counters::default();
        for jump in [50, -1000, 900] {
            tick(&mut counters, Duration::ZERO, Duration::ZERO, jump);
        }
        assert_eq!(counters.largest_wall_jump_ms, -1000);
    }

    #[test]
    fn a_watch_counts_time() {
        let status = std::sync::Arc::new(Status::default());
        let watched = std::sync::Arc::clone(&status);
        thread::spawn(move || watch(Duration::from_millis(1), &watched));
        let deadline = Instant::now() + Duration::from_secs(10);
        while status.counters().uptime_ms == 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(status.counters().uptime_ms > 0);
    }
}
