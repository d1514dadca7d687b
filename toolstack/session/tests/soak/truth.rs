//! What the two hosts' states have to be, whatever goes wrong.

use rxl_core::domain::{DomId, RunState};
use rxl_core::names::{INCOMING, MIGRATED_AWAY};

use crate::node::Node;
use crate::places::Side;

pub const NAME: &str = "dom3";

/// One domain on one host, in one boot of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    pub side: Side,
    pub boot: usize,
    pub domid: DomId,
}

/// What a copy's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// That of the domain which was to move.
    Original,
    /// What was restored from the stream.
    Restored,
    /// None from before: it was booted.
    Fresh,
    /// A copy that libxl had not completed.
    HalfBuilt,
}

/// What has run, and the first thing that was wrong.
#[derive(Default)]
pub struct Truth {
    pub original: Option<Copied>,
    pub booted: Vec<Copied>,
    pub half_built: Vec<Copied>,
    /// The original was run on after it had been suspended.
    original_ran_on: bool,
    restored_ran: bool,
    fresh_ran: bool,
    pub leave_paused: bool,
    /// The host that had the domain lost its power, and no record says that it should run there.
    pub ended_by_itself: bool,
    pub wrong: Vec<String>,
}

/// A domain of this migration, as it is found.
#[derive(Clone, Debug)]
pub struct Seen {
    pub copied: Copied,
    pub name: String,
    pub state: RunState,
    pub log_dirty: bool,
}

pub fn seen(nodes: &[Node; 2]) -> Vec<Seen> {
    let mut all = Vec::new();
    for side in [Side::Source, Side::Target] {
        let node = &nodes[side as usize];
        let Some(boot) = node.power() else { continue };
        for kept in node.memory().domains() {
            let copied = Copied { side, boot, domid: kept.domain.domid };
            let (name, state) = (kept.domain.name, kept.domain.state);
            all.push(Seen { copied, name, state, log_dirty: kept.log_dirty });
        }
    }
    all
}

impl Truth {
    pub fn new(original: Option<Copied>, leave_paused: bool) -> Self {
        Self { original, leave_paused, ..Self::default() }
    }

    pub fn memory_of(&self, copied: Copied) -> Memory {
        if self.original == Some(copied) {
            Memory::Original
        } else if self.booted.contains(&copied) {
            Memory::Fresh
        } else if self.half_built.contains(&copied) {
            Memory::HalfBuilt
        } else {
            Memory::Restored
        }
    }

    fn is_wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// A call has been made that may have let `copied` run, which was in this state before it.
    pub fn look(&mut self, nodes: &[Node; 2], before: Option<RunState>, copied: Option<Copied>) {
        let all = seen(nodes);
        let running = all.iter().filter(|seen| seen.state == RunState::Running).count();
        if running > 1 {
            self.is_wrong(format!("two run: {all:?}"));
        }
        for seen in &all {
            let is_called = copied == Some(seen.copied);
            self.note(seen, is_called.then_some(before).flatten());
        }
    }

    fn note(&mut self, seen: &Seen, before: Option<RunState>) {
        let runs = seen.state == RunState::Running;
        // A user may let it run as soon as it has its name.
        let may_run = self.leave_paused && seen.copied.side == Side::Target && seen.name == NAME;
        match self.memory_of(seen.copied) {
            Memory::Original if runs && before == Some(RunState::Suspended) => {
                self.original_ran_on = true;
                if self.restored_ran || self.fresh_ran {
                    self.is_wrong(format!("old memory runs at the source: {seen:?}"));
                }
            }
            Memory::Restored if (runs || may_run) && !self.restored_ran => {
                self.restored_ran = true;
                if self.original_ran_on || self.fresh_ran {
                    self.is_wrong(format!("old memory runs at the target: {seen:?}"));
                }
            }
            Memory::Fresh if runs => {
                self.fresh_ran = true;
                if nodes_never_off(seen) {
                    self.is_wrong(format!("booted where no power was lost: {seen:?}"));
                }
            }
            Memory::HalfBuilt if runs || may_run => {
                self.is_wrong(format!("what was not complete runs: {seen:?}"));
            }
            _ => {}
        }
    }

    /// Everything is settled: one domain, under its own name, and nothing else. None where its host
    /// lost its power before the migration had a record there, or after that had ended.
    pub fn end(&mut self, nodes: &[Node; 2]) -> Option<Copied> {
        let all = seen(nodes);
        if all.is_empty() && self.ended_by_itself {
            return None;
        }
        if let [only] = &all[..]
            && only.name == NAME
            && !only.log_dirty
            && self.runs(only)
        {
            return Some(only.copied);
        }
        let suffixed = |name: &str| name.ends_with(INCOMING) || name.ends_with(MIGRATED_AWAY);
        let left = all.iter().filter(|seen| suffixed(&seen.name)).count();
        self.is_wrong(format!("at the end, {left} left over: {all:?}"));
        None
    }

    fn runs(&self, seen: &Seen) -> bool {
        let paused = self.leave_paused && seen.copied.side == Side::Target;
        seen.state == if paused { RunState::Paused } else { RunState::Running }
    }
}

fn nodes_never_off(seen: &Seen) -> bool {
    seen.copied.boot == 1
}
