//! A member's line to the leader of its gang, and what has been said on it.

use std::time::Instant;

use super::{Stop, given_up};
use crate::events::{Event, Events};
use crate::gang_member::GangMember;
use crate::gang_words::{FromMember, ToMember};
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_report::mpi::MpiPart;

/// A member's line, and what has been said on it.
pub(super) struct LeaderLine {
    pub(super) member: GangMember,
    /// The barriers are kept.
    pub(super) together: bool,
    pub(super) asked: Option<Asked>,
    pub(super) frozen: bool,
    /// The iteration after the freeze has begun.
    pub(super) last_iteration: bool,
    pub(super) flushed: bool,
    pub(super) go: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    Stop,
    Suspend,
    Ready,
}

impl LeaderLine {
    /// `together`: the barriers are to be kept.
    pub(super) fn new(member: GangMember, together: bool) -> Self {
        let (asked, go) = (None, None);
        let (frozen, last_iteration, flushed) = (false, false, false);
        Self { member, together, asked, frozen, last_iteration, flushed, go }
    }

    /// Tells the leader how far this member has come, once.
    pub(super) fn ask(&mut self, what: Asked) {
        if !self.together || self.asked >= Some(what) {
            return;
        }
        self.asked = Some(what);
        self.member.say(match what {
            Asked::Stop => &FromMember::Stop,
            Asked::Suspend => &FromMember::Suspend,
            Asked::Ready => &FromMember::Ready,
        });
    }

    pub(super) fn stop(&mut self) -> Stop {
        self.ask(Asked::Stop);
        if !self.together {
            Stop::Now
        } else if !self.frozen {
            Stop::NotYet
        } else if std::mem::replace(&mut self.last_iteration, true) {
            Stop::Now
        } else {
            Stop::OneIteration
        }
    }

    pub(super) fn may_suspend(&mut self) -> bool {
        self.ask(Asked::Suspend);
        !self.together || self.flushed
    }
}

/// Waits until the leader lets all members begin: the job's figures, and whether the barriers are
/// to be kept.
pub(super) fn await_begin<D: Send + 'static>(
    events: &Events<D>,
) -> Result<(Option<Box<MpiPart>>, bool), Failure> {
    let deadline = Instant::now() + deadlines::BEGIN;
    loop {
        match events.next(deadline) {
            Some(Event::Gang(ToMember::Begin { figures, together })) => {
                return Ok((figures, together));
            }
            Some(Event::Gang(ToMember::Abort { reason })) => return Err(given_up(&reason)),
            Some(Event::Interrupt) => {
                return Err(Failure::new(Exit::Cancelled, "cancelled before anything began"));
            }
            Some(Event::Control(incoming)) => {
                let what =
                    format!("the target has not waited for the other domains ({incoming:?})");
                return Err(Failure::new(Exit::FailedSourceRuns, what));
            }
            Some(_) => {}
            None => {
                return Err(Failure::new(
                    Exit::FailedSourceRuns,
                    "the other domains were not ready to begin in time",
                ));
            }
        }
    }
}
