//! The functions that decide: the crate's own, or with a fault put into one of them.

use rxl_handover::questions::{Reply, SourceAnswer, TargetAnswer, TargetQuestion};
use rxl_handover::source::{self, SourceEvent, SourceState, SourceStep};
use rxl_handover::target::{self, TargetEvent, TargetState, TargetStep};
use rxl_handover::{Presence, State};

/// What both hosts go by.
#[derive(Clone, Copy)]
pub struct Rules {
    pub source_after: fn(SourceState, SourceEvent) -> Option<SourceState>,
    pub source_step: fn(SourceState, Presence, Option<TargetAnswer>) -> SourceStep,
    pub answer_claim: fn(Option<SourceState>, Presence, bool) -> Reply<SourceEvent, SourceAnswer>,
    pub answer_runs: fn(Option<SourceState>, bool) -> (SourceAnswer, bool),
    pub target_after: fn(TargetState, TargetEvent) -> Option<TargetState>,
    pub target_step: fn(TargetState, Presence, Option<SourceAnswer>) -> TargetStep,
    pub answer_target: AnswerTarget,
    /// The source's session records Committing before GO.
    pub go_is_recorded: bool,
    /// A recovery of the target's record has the domain's lock while it acts. One of the source's
    /// always has.
    pub target_locks: bool,
    /// A target that failed to boot the domain gives it back.
    pub failed_boot_gives_back: bool,
    /// A session that gives up runs the domain on although it could not record that.
    pub runs_on_unrecorded: bool,
    /// What is read from a record is on the disk before anything follows from it.
    pub reads_sync: bool,
    /// Kills, losses of power and ends of guests, in all. None: any number of them.
    pub faults: Option<u8>,
    /// How many processes may at once be answering a question that nobody waits for.
    pub stale_servers: usize,
}

pub type AnswerTarget =
    fn(Option<TargetState>, TargetQuestion, Presence, bool) -> Reply<TargetEvent, TargetAnswer>;

impl Rules {
    /// The crate's own.
    pub fn own(faults: Option<u8>) -> Self {
        Self {
            source_after: |state, event| state.after(event).ok(),
            source_step: source::step,
            answer_claim: source::answer_claim,
            answer_runs: source::answer_runs,
            target_after: |state, event| state.after(event).ok(),
            target_step: target::step,
            answer_target: target::answer,
            go_is_recorded: true,
            target_locks: true,
            failed_boot_gives_back: false,
            runs_on_unrecorded: false,
            reads_sync: true,
            faults,
            stale_servers: 1,
        }
    }
}
