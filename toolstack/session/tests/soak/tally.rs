//! What was struck where, and what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::places::{Place, When, all};
use crate::plan::Action;
use crate::session::{Ending, Outcome};

/// The columns of the table.
const KINDS: [&str; 9] =
    ["kill", "+guard", "stop", "power", "cut", "late", "host", "recover", "other"];

const ENDINGS: [Ending; 4] =
    [Ending::AtSource, Ending::AtTarget, Ending::BootedAtSource, Ending::BootedAtTarget];

fn kind(action: &Action) -> usize {
    match action {
        Action::Kill { guard_too: false } => 0,
        Action::Kill { guard_too: true } => 1,
        Action::Stop { .. } => 2,
        Action::PowerLoss { .. } => 3,
        Action::Cut(_) => 4,
        Action::Stall { .. } => 5,
        Action::HostFails { .. } => 6,
        Action::Recover { .. } => 7,
        Action::Interrupt { .. } | Action::NoDisk { .. } => 8,
    }
}

#[derive(Clone, Copy, Default)]
struct Row {
    struck: [u64; KINDS.len()],
    /// The last is for those whose host lost its power when the migration was over, or had not
    /// begun.
    endings: [u64; ENDINGS.len() + 1],
}

#[derive(Default)]
pub struct Tally {
    sessions: u64,
    rows: BTreeMap<Place, Row>,
    total: Row,
}

impl Tally {
    pub fn count(&mut self, outcome: &Outcome) {
        self.sessions += 1;
        let ending = ENDINGS.iter().position(|ending| Some(*ending) == outcome.ending);
        let ending = ending.unwrap_or(ENDINGS.len());
        for (place, action) in &outcome.hits {
            for row in [self.rows.entry(*place).or_default(), &mut self.total] {
                row.struck[kind(action)] += 1;
            }
            self.rows.entry(*place).or_default().endings[ending] += 1;
        }
        self.total.endings[ending] += 1;
    }

    /// Calls at which nothing ever struck, before or after them.
    pub fn missed(&self) -> Vec<Place> {
        let call = |place: &Place| (place.side, place.role, place.call);
        let struck: BTreeSet<_> = self.rows.keys().map(call).collect();
        all().filter(|place| !struck.contains(&call(place))).collect()
    }

    pub fn table(&self) -> String {
        let mut table = String::new();
        let _ = write!(table, "{:38}", "struck at");
        for kind in KINDS {
            let _ = write!(table, "{kind:>8}");
        }
        let _ = writeln!(table, "  ends at: source  target  source*  target*  nowhere");
        for (place, row) in &self.rows {
            let when = if place.when == When::Before { "before" } else { "after" };
            let name = format!("{:?} {:?} {when} {}", place.side, place.role, place.call);
            line(&mut table, &name.to_lowercase(), row);
        }
        line(&mut table, &format!("{} sessions", self.sessions), &self.total);
        table.push_str("\n* booted from its disk. nowhere: its host lost its power before the ");
        table.push_str("migration had a record, or after that had ended\n");
        table
    }
}

fn line(table: &mut String, name: &str, row: &Row) {
    let _ = write!(table, "{name:38}");
    for struck in row.struck {
        let _ = write!(table, "{struck:>8}");
    }
    let [source, target, source_booted, target_booted, nowhere] = row.endings;
    let booted = format!("{source_booted:>9}{target_booted:>9}");
    let _ = writeln!(table, "{source:>17}{target:>8}{booted}{nowhere:>9}");
}
