//! A receiver of progress that shows nothing.

use rxl_report::progress::{Progress, Snapshot};

/// Shows no progress; prints messages, which the test harness keeps unless the test fails.
pub struct Silent;

impl Progress for Silent {
    fn show(&mut self, _snapshot: &Snapshot) {}

    fn say(&mut self, text: &str) {
        eprintln!("{text}");
    }

    fn end(&mut self) {}
}
