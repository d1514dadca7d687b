//! Old behaviours and tempting shortcuts, each put into the rules alone: the model has to find what
//! is wrong with it, or it proves nothing about the others.

use rxl_handover::questions::{TargetAnswer, TargetQuestion};
use rxl_handover::source::{self, SourceEvent, SourceState, SourceStep};
use rxl_handover::target::{self, TargetState, TargetStep};
use rxl_handover::{Presence, State};

use crate::rules::Rules;
use crate::{NEVER_OLD, NEVER_STUCK};

/// A fault that is put in, and how it shows.
pub struct Fault {
    pub name: &'static str,
    pub put: fn(&mut Rules),
    /// The property that it breaks first.
    pub breaks: &'static str,
    /// Steps of the shortest way there. docs/decisions/0034-presumed-abort.md names them too.
    pub steps: usize,
}

pub const FAULTS: [Fault; 12] = [
    Fault {
        name: "a held copy that never asks",
        put: never_claims,
        breaks: NEVER_STUCK,
        steps: 10,
    },
    Fault {
        name: "a source that runs on from Committing unasked",
        put: runs_on_unasked,
        breaks: NEVER_OLD,
        steps: 20,
    },
    Fault {
        name: "GO that is said and not recorded",
        put: |rules| rules.go_is_recorded = false,
        breaks: NEVER_OLD,
        steps: 20,
    },
    Fault {
        name: "NotSaid after a claim was granted",
        put: not_said_from_granted,
        breaks: NEVER_OLD,
        steps: 22,
    },
    Fault {
        name: "a target that settles by time",
        put: settles_by_time,
        breaks: NEVER_OLD,
        steps: 26,
    },
    Fault {
        name: "a fence that is not recorded",
        put: fence_without_record,
        breaks: NEVER_OLD,
        steps: 23,
    },
    Fault {
        name: "a source that destroys its copy at Taken",
        put: releases_at_taken,
        breaks: NEVER_STUCK,
        steps: 23,
    },
    Fault {
        name: "an aborted copy whose session was killed",
        put: leaves_aborted,
        breaks: NEVER_STUCK,
        steps: 9,
    },
    Fault {
        name: "a failed boot that gives the domain back",
        put: |rules| rules.failed_boot_gives_back = true,
        breaks: NEVER_OLD,
        steps: 30,
    },
    Fault {
        name: "a source that runs on though that could not be recorded",
        put: |rules| rules.runs_on_unrecorded = true,
        breaks: NEVER_OLD,
        steps: 19,
    },
    Fault {
        name: "a line that is read before it is on the disk",
        put: |rules| rules.reads_sync = false,
        breaks: NEVER_OLD,
        steps: 25,
    },
    Fault {
        name: "recoveries at the target without the domain's lock",
        // No other fault is needed.
        put: |rules| (rules.target_locks, rules.faults) = (false, Some(0)),
        breaks: NEVER_OLD,
        steps: 35,
    },
];

fn never_claims(rules: &mut Rules) {
    rules.target_step = |state, copy, heard| match (state, copy) {
        (TargetState::Held, Presence::There) => TargetStep::Wait,
        _ => target::step(state, copy, heard),
    };
}

fn runs_on_unasked(rules: &mut Rules) {
    rules.source_step = |state, copy, heard| match (state, copy) {
        (SourceState::Committing, Presence::There) => SourceStep::RunOn(SourceEvent::NotSaid),
        _ => source::step(state, copy, heard),
    };
}

fn not_said_from_granted(rules: &mut Rules) {
    rules.source_after = |state, event| match (state, event) {
        (SourceState::Granted, SourceEvent::NotSaid) => Some(SourceState::Returning),
        _ => state.after(event).ok(),
    };
}

fn settles_by_time(rules: &mut Rules) {
    rules.target_step = |state, copy, heard| match (state, copy) {
        (TargetState::Running, Presence::There | Presence::Gone) => TargetStep::Settle,
        _ => target::step(state, copy, heard),
    };
}

fn fence_without_record(rules: &mut Rules) {
    rules.answer_target = |state, question, copy, at_work| {
        let mut reply = target::answer(state, question, copy, at_work);
        if question == TargetQuestion::Fence {
            reply.events = [None, None];
        }
        reply
    };
}

fn releases_at_taken(rules: &mut Rules) {
    rules.source_step = |state, copy, heard| match (state, heard) {
        (SourceState::Committing | SourceState::Granted, Some(TargetAnswer::Taken)) => {
            SourceStep::Release
        }
        _ => source::step(state, copy, heard),
    };
}

fn leaves_aborted(rules: &mut Rules) {
    rules.target_step = |state, copy, heard| match state {
        TargetState::Aborted => TargetStep::Nothing,
        _ => target::step(state, copy, heard),
    };
}
