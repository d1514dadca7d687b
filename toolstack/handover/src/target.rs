//! The target's end of a handover.

use serde::{Deserialize, Serialize};

use crate::questions::{Reply, SourceAnswer, SourceQuestion, TargetAnswer, TargetQuestion};
use crate::{OutOfOrder, Presence, State};

/// What the target's record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetState {
    /// libxl is building the copy.
    Receiving,
    /// The copy is complete and paused. Whether it runs is the source's to say.
    Held,
    /// The domain belongs here: it is to be run.
    Taken,
    /// It could not be started, has not run, and is to be destroyed.
    GivingBack,
    /// It was given back: its copy here is destroyed, and never ran.
    GivenBack,
    /// The copy never runs, and is destroyed.
    Aborted,
    /// The domain was started here.
    Running,
    /// The source has destroyed its copy, and nobody will ask again.
    Settled,
}

/// What happens to the target's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetEvent {
    /// The copy is complete, and READY is about to be said.
    Hold,
    /// The source has said that it is to run.
    Take,
    /// It was started.
    Start,
    /// It could not be started, and has not run.
    CannotRun,
    /// What could not be started is destroyed.
    Destroyed,
    /// It will not run here: the source says so, or the copy is not complete.
    Abort,
    /// The source's copy is destroyed.
    Settle,
}

impl State for TargetState {
    type Event = TargetEvent;

    const SIDE: &'static str = "target";
    const FIRST: Self = Self::Receiving;

    fn after(self, event: TargetEvent) -> Result<Self, OutOfOrder> {
        use TargetEvent as E;
        match (self, event) {
            (Self::Receiving, E::Hold) => Ok(Self::Held),
            (Self::Held, E::Take) => Ok(Self::Taken),
            (Self::Taken | Self::Running, E::Start) => Ok(Self::Running),
            (Self::Taken | Self::GivingBack, E::CannotRun) => Ok(Self::GivingBack),
            (Self::GivingBack | Self::GivenBack, E::Destroyed) => Ok(Self::GivenBack),
            (Self::Receiving | Self::Held | Self::Aborted, E::Abort) => Ok(Self::Aborted),
            (Self::Running | Self::Settled, E::Settle) => Ok(Self::Settled),
            (state, event) => Err(OutOfOrder::new(state, event)),
        }
    }

    fn is_final(self) -> bool {
        matches!(self, Self::GivenBack | Self::Aborted | Self::Settled)
    }
}

/// The answer to a source, for the record as it is. `at_work`: a session or a guard there has the
/// domain's lock.
///
/// A fence does not wait for it: a session that is stopped, or still waits for GO, finds its record
/// changed and takes nothing. What is not complete is waited for: until it is, its record cannot
/// tell which domain it is, so only who has the lock can destroy it.
pub fn answer(
    state: Option<TargetState>,
    question: TargetQuestion,
    copy: Presence,
    at_work: bool,
) -> Reply<TargetEvent, TargetAnswer> {
    use TargetAnswer as A;
    use TargetEvent as E;
    let reply = |event, answer| Reply { events: [event, None], answer };
    match state {
        None => reply(None, A::Unknown),
        Some(TargetState::Aborted | TargetState::GivenBack) => reply(None, A::Aborted),
        Some(TargetState::Taken) => reply(None, A::Taken),
        Some(TargetState::Running | TargetState::Settled) => reply(None, A::Running),
        Some(TargetState::GivingBack) => reply(None, A::Busy),
        Some(TargetState::Receiving) if at_work => reply(None, A::Busy),
        Some(TargetState::Receiving) => reply(Some(E::Abort), A::Aborted),
        Some(TargetState::Held) => match (question, copy) {
            (TargetQuestion::HandOver, Presence::There) if at_work => reply(None, A::Busy),
            (TargetQuestion::HandOver, Presence::There) => reply(Some(E::Take), A::Taken),
            (TargetQuestion::Fence, _) | (_, Presence::PowerLost | Presence::Gone) => {
                reply(Some(E::Abort), A::Aborted)
            }
        },
    }
}

/// What to do about the target's record where nobody is at work on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetStep {
    /// Nothing is left to do.
    Nothing,
    /// Record that it never runs here, then destroy what was built.
    Discard,
    /// Record that the domain belongs here, and go on from there.
    Take,
    /// Give it its name, let it run, and record that.
    Run,
    /// Never resume the old memory: boot from its disk where no domain of its name is here, and
    /// record that it runs.
    Boot,
    /// It was started, and has ended since: record that it ran.
    Ended,
    /// Destroy what could not be started, and record that.
    GiveBack,
    /// Ask the source.
    Ask(SourceQuestion),
    /// Record that the source's copy is gone.
    Settle,
    /// The source cannot say yet.
    Wait,
}

impl TargetStep {
    /// The step in words, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Nothing => "nothing is left to do",
            Self::Discard => "what was received would be destroyed",
            Self::Take | Self::Run => "it would be run here",
            Self::Boot => "it would be booted from its disk",
            Self::Ended => "the record would say that it ran",
            Self::GiveBack => "the copy here would be destroyed",
            Self::Ask(SourceQuestion::Claim) => "the source would be asked for it",
            Self::Ask(SourceQuestion::Runs) => "the source would be told that it runs here",
            Self::Settle => "the record would be closed",
            Self::Wait => "the source would be asked again",
        }
    }
}

/// What is to be done, with the source's answer where it has been asked.
pub fn step(state: TargetState, copy: Presence, heard: Option<SourceAnswer>) -> TargetStep {
    use TargetStep as S;
    use {SourceAnswer as A, SourceQuestion as Q};
    match (state, copy) {
        // A fence records that it never runs here. Whoever should have destroyed it may be dead.
        (TargetState::Aborted, Presence::There) => S::Discard,
        (TargetState::Receiving, _) => S::Discard,
        (TargetState::Aborted | TargetState::GivenBack | TargetState::Settled, _) => S::Nothing,
        // The source decides; that it cannot run what was held here, it learns from the record.
        (TargetState::Held, Presence::PowerLost | Presence::Gone) => S::Discard,
        (TargetState::Held, Presence::There) => match heard {
            None => S::Ask(Q::Claim),
            Some(A::Go) => S::Take,
            Some(A::Stays | A::Unknown) => S::Discard,
            Some(A::Busy | A::Released) => S::Wait,
        },
        (TargetState::Taken, Presence::There) => S::Run,
        (TargetState::Taken, Presence::PowerLost) => S::Boot,
        (TargetState::Taken, Presence::Gone) => S::Ended,
        (TargetState::GivingBack, _) => S::GiveBack,
        // The source has not heard that it ran, so nobody else has looked after it.
        (TargetState::Running, Presence::PowerLost) => S::Boot,
        (TargetState::Running, _) => match heard {
            None => S::Ask(Q::Runs),
            Some(A::Released | A::Unknown) => S::Settle,
            Some(A::Busy | A::Go | A::Stays) => S::Wait,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_aborted_is_destroyed_even_if_its_session_is_dead() {
        let left = |copy| step(TargetState::Aborted, copy, None);
        assert_eq!(left(Presence::There), TargetStep::Discard);
        assert_eq!(left(Presence::Gone), TargetStep::Nothing);
        assert_eq!(left(Presence::PowerLost), TargetStep::Nothing);
        assert_eq!(TargetState::Aborted.after(TargetEvent::Abort), Ok(TargetState::Aborted));
    }
}
