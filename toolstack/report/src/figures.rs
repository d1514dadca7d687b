//! Parts of the report from what was counted and measured.

use std::time::Duration;

use crate::schema::{IterationPart, JudgedPart, PrecopyPart, RamPart};
use rxl_core::steering::Walker;
use rxl_core::units::ms;
use rxl_datapath::iterations::Iteration;
use rxl_precopy::policy::Measured;

const PAGE_BYTES: u64 = 4096;

impl JudgedPart {
    pub fn new(measured: &Measured) -> Self {
        Self {
            iterations: measured.iterations,
            dirty_pages: measured.dirty,
            pages_per_second: measured.pages_per_second,
            elapsed: ms(measured.elapsed),
        }
    }
}

impl PrecopyPart {
    /// The part before anything is known.
    pub fn new(limit: Duration) -> Self {
        Self {
            walker: Walker::Stock,
            downtime_limit: ms(limit),
            expected_downtime: None,
            stopped: None,
            judged: Vec::new(),
        }
    }
}

impl IterationPart {
    pub fn new(iteration: &Iteration) -> Self {
        Self {
            iteration: iteration.number,
            suspended: iteration.suspended,
            dirty_pages: iteration.dirty,
            pfns: iteration.pfns,
            pages: iteration.pages,
            zero_pages: iteration.zero_pages,
            raw_bytes: iteration.raw_bytes,
            wire_bytes: iteration.wire_bytes,
            duration: ms(iteration.ended - iteration.began),
        }
    }
}

impl RamPart {
    /// Adds up the iterations. `transferred` and `stream_bytes` are those of the whole stream, with
    /// headers and state.
    pub fn new(iterations: &[Iteration], total: u64, transferred: u64, stream_bytes: u64) -> Self {
        let sum = |of: fn(&Iteration) -> u64| iterations.iter().map(of).sum::<u64>();
        let (pages, zero) = (sum(|i| i.pages), sum(|i| i.zero_pages));
        let seconds = match (iterations.first(), iterations.last()) {
            (Some(first), Some(last)) => (last.ended - first.began).as_secs_f64(),
            _ => 0.0,
        };
        let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        let wire_while = |suspended: bool| {
            iterations.iter().filter(|i| i.suspended == suspended).map(|i| i.wire_bytes).sum()
        };
        Self {
            transferred,
            stream_bytes,
            total,
            duplicate: zero,
            normal: pages - zero,
            normal_bytes: (pages - zero) * PAGE_BYTES,
            mbps: per_second(sum(|i| i.wire_bytes) as f64 * 8.0 / 1e6),
            pages_per_second: per_second(pages as f64),
            dirty_sync_count: iterations.len() as u64,
            precopy_bytes: wire_while(false),
            downtime_bytes: wire_while(true),
        }
    }
}
