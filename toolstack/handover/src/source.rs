//! The source's end of a handover.

use serde::{Deserialize, Serialize};

use crate::questions::{Reply, SourceAnswer, TargetAnswer, TargetQuestion, reply};
use crate::{OutOfOrder, Presence, State};

/// What the source's record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceState {
    /// The domain is being saved. GO was not said.
    Leaving,
    /// GO may have been said.
    Committing,
    /// The target asked whether it may run the domain, and was told that it may.
    Granted,
    /// The domain stays here: it is to be run on, if it does not run yet.
    Returning,
    /// The domain runs here, or nothing of it was left to run.
    Returned,
    /// The target has the domain, and the copy here is destroyed.
    Released,
}

/// What happens to the source's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceEvent {
    /// GO is about to be said.
    Commit,
    /// The target's claim is about to be answered: it may run the domain.
    Grant,
    /// The domain stays, and GO was never said.
    Stay,
    /// Not one byte of GO has left. Only the session that was to say it can know.
    NotSaid,
    /// The target's record says that the target will never run it.
    TargetAborted,
    /// It runs here again, or nothing is left to run.
    RunsHere,
    /// The target's record says that the target has it, and the copy here is destroyed.
    Destroyed,
}

impl State for SourceState {
    type Event = SourceEvent;

    const SIDE: &'static str = "source";
    const FIRST: Self = Self::Leaving;

    fn after(self, event: SourceEvent) -> Result<Self, OutOfOrder> {
        use SourceEvent as E;
        match (self, event) {
            (Self::Leaving, E::Commit) => Ok(Self::Committing),
            (Self::Committing | Self::Granted, E::Grant) => Ok(Self::Granted),
            (Self::Leaving | Self::Returning, E::Stay) => Ok(Self::Returning),
            // Not from Granted: the claim's answer was another GO.
            (Self::Committing | Self::Returning, E::NotSaid) => Ok(Self::Returning),
            (Self::Committing | Self::Granted | Self::Returning, E::TargetAborted) => {
                Ok(Self::Returning)
            }
            (Self::Returning | Self::Returned, E::RunsHere) => Ok(Self::Returned),
            (Self::Committing | Self::Granted | Self::Released, E::Destroyed) => Ok(Self::Released),
            (state, event) => Err(OutOfOrder::new(state, event)),
        }
    }

    fn is_final(self) -> bool {
        matches!(self, Self::Returned | Self::Released)
    }
}

/// The answer to a target that holds a complete copy. `at_work`: a session or a guard here has the
/// domain's lock.
pub fn answer_claim(
    state: Option<SourceState>,
    copy: Presence,
    at_work: bool,
) -> Reply<SourceEvent, SourceAnswer> {
    use SourceAnswer as A;
    use SourceEvent as E;
    match state {
        None => reply([None, None], A::Unknown),
        Some(SourceState::Leaving) if at_work => reply([None, None], A::Busy),
        // No memory is left here, and the guest has not run since it was suspended: what ran on
        // here after that is recorded.
        Some(SourceState::Leaving) if copy == Presence::PowerLost => {
            reply([Some(E::Commit), Some(E::Grant)], A::Go)
        }
        Some(SourceState::Leaving) => reply([Some(E::Stay), None], A::Stays),
        Some(SourceState::Committing | SourceState::Granted) => {
            reply([Some(E::Grant), None], A::Go)
        }
        Some(SourceState::Returning | SourceState::Returned) => reply([None, None], A::Stays),
        Some(SourceState::Released) => reply([None, None], A::Go),
    }
}

/// What to do about the source's record where nobody is at work on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStep {
    /// Nothing is left to do.
    Nothing,
    /// Record the event; the domain then runs on here.
    RunOn(SourceEvent),
    /// Record the event, boot the domain from its disk where no domain of its name is here, and
    /// record that it runs here.
    Boot(SourceEvent),
    /// Record the event, and go on from there.
    Record(SourceEvent),
    /// Nothing is left here to run: record the event, and that it is over.
    Close(SourceEvent),
    /// Ask the target.
    Ask(TargetQuestion),
    /// Destroy the copy here, if there is one, and record that.
    Release,
    /// The target cannot say yet.
    Wait,
}

impl SourceStep {
    /// The step in words, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Nothing => "nothing is left to do",
            Self::RunOn(_) => "it would run on here",
            Self::Boot(_) => "it would be booted from its disk",
            Self::Record(_) => "the target would be asked to run it",
            Self::Close(_) => "the record would be closed",
            Self::Ask(TargetQuestion::Fence) => "the target would be asked to give it up",
            Self::Ask(TargetQuestion::HandOver) => "the target would be asked to run it",
            Self::Release => "the copy here would be destroyed",
            Self::Wait => "the target would be asked again",
        }
    }
}

/// What is to be done, with the target's answer where it has been asked.
pub fn step(state: SourceState, copy: Presence, heard: Option<TargetAnswer>) -> SourceStep {
    use SourceEvent as E;
    use SourceStep as S;
    match (state, copy) {
        (SourceState::Returned | SourceState::Released, _) => S::Nothing,
        (SourceState::Leaving, Presence::There) => S::RunOn(E::Stay),
        // The target may hold the only copy of the memory.
        (SourceState::Leaving, Presence::PowerLost) => S::Record(E::Commit),
        (SourceState::Leaving, Presence::Gone) => S::Close(E::Stay),
        (SourceState::Returning, Presence::There) => S::RunOn(E::Stay),
        (SourceState::Returning, Presence::PowerLost) => S::Boot(E::Stay),
        (SourceState::Returning, Presence::Gone) => S::Close(E::Stay),
        (SourceState::Committing | SourceState::Granted, copy) => committed_step(copy, heard),
    }
}

fn committed_step(copy: Presence, heard: Option<TargetAnswer>) -> SourceStep {
    use SourceEvent::TargetAborted;
    use SourceStep as S;
    use TargetAnswer as A;
    match (heard, copy) {
        (None, Presence::There) => S::Ask(TargetQuestion::Fence),
        // Whoever destroyed the copy here relies on the one there.
        (None, Presence::PowerLost | Presence::Gone) => S::Ask(TargetQuestion::HandOver),
        // What belongs there may still be given back. Until it has run, the copy here is kept.
        (Some(A::Busy | A::Taken), _) => S::Wait,
        (Some(A::Running), _) => S::Release,
        (Some(A::Aborted | A::Unknown), Presence::There) => S::RunOn(TargetAborted),
        (Some(A::Aborted | A::Unknown), Presence::PowerLost) => S::Boot(TargetAborted),
        (Some(A::Aborted | A::Unknown), Presence::Gone) => S::Close(TargetAborted),
    }
}

/// The answer to a target that runs the domain. The copy here is destroyed before it is given,
/// where `destroy` says so.
pub fn answer_runs(state: Option<SourceState>, at_work: bool) -> (SourceAnswer, bool) {
    match state {
        None => (SourceAnswer::Unknown, false),
        Some(SourceState::Released) => (SourceAnswer::Released, false),
        Some(_) if at_work => (SourceAnswer::Busy, false),
        Some(SourceState::Committing | SourceState::Granted) => (SourceAnswer::Released, true),
        // Cannot be: the target took what was never given.
        Some(SourceState::Leaving | SourceState::Returning | SourceState::Returned) => {
            (SourceAnswer::Stays, false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_here_is_destroyed_once_the_other_has_run_and_not_before() {
        for state in [SourceState::Committing, SourceState::Granted] {
            for copy in [Presence::There, Presence::PowerLost, Presence::Gone] {
                let after = |answer| step(state, copy, Some(answer));
                assert_eq!(after(TargetAnswer::Taken), SourceStep::Wait);
                assert_eq!(after(TargetAnswer::Running), SourceStep::Release);
            }
        }
    }
}
