//! The headers, records and iterations of a stream, listed as they come.

use migrate_stream::reader::Place;

use crate::summary::{IterationPart, LibxcPart, LibxlPart, Run, Total, XlPart};
use crate::walk::Location;
use rxl_core::domain_config::DomainSummary;

/// Runs of records, and iterations, that are kept one by one; more are only counted. Xen's own
/// streams have a few of each.
const MOST_LISTED: usize = 1000;

/// What a stream holds, in lists of bounded length.
#[derive(Default)]
pub struct Listing {
    pub xl: Option<XlPart>,
    pub config: Option<DomainSummary>,
    pub libxl: Option<LibxlPart>,
    pub libxc: LibxcPart,
    pub totals: Vec<Total>,
    pub runs: Vec<Run>,
    pub runs_left_out: u64,
    /// The record before, which tells whether a run goes on.
    last: Option<Place>,
    pub iterations: Vec<IterationPart>,
    pub iterations_left_out: u64,
}

impl Listing {
    pub fn iteration(&mut self, iteration: IterationPart) {
        if self.iterations.len() < MOST_LISTED {
            self.iterations.push(iteration);
        } else {
            self.iterations_left_out += 1;
        }
    }

    /// Takes a record. `length` is the body's without padding, `bytes` the whole record's.
    pub fn record(
        &mut self,
        at: Location,
        stream: &'static str,
        record_type: String,
        length: u32,
        bytes: u64,
    ) {
        self.total(stream, &record_type, bytes);
        self.run(at, stream, record_type, length, bytes);
    }

    fn total(&mut self, stream: &'static str, record_type: &str, bytes: u64) {
        let same = |total: &&mut Total| total.stream == stream && total.record_type == record_type;
        if let Some(total) = self.totals.iter_mut().find(same) {
            total.records += 1;
            total.bytes += bytes;
        } else if self.totals.len() < MOST_LISTED {
            self.totals.push(Total { stream, record_type: record_type.into(), records: 1, bytes });
        }
    }

    fn run(
        &mut self,
        at: Location,
        stream: &'static str,
        record_type: String,
        length: u32,
        bytes: u64,
    ) {
        let continues = self.last.replace(at.place) == Some(at.place);
        if !continues && self.runs.len() == MOST_LISTED {
            self.runs_left_out += 1;
        }
        if self.runs_left_out > 0 {
            return;
        }
        match self.runs.last_mut().filter(|_| continues) {
            Some(run) => {
                run.records += 1;
                run.bytes += bytes;
                run.shortest = run.shortest.min(length);
                run.longest = run.longest.max(length);
            }
            None => {
                let (shortest, longest) = (length, length);
                self.runs.push(Run {
                    offset: at.offset,
                    stream,
                    record_type,
                    records: 1,
                    bytes,
                    shortest,
                    longest,
                });
            }
        }
    }
}
