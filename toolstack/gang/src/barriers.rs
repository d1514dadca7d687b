//! Which barrier the members have come to, and what lets them past. See [`crate`] for the
//! order.

use std::time::{Duration, Instant};

use crate::seats::{Seats, Step};
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_core::level::Level;
use rxl_core::text::one_line;
use rxl_quiesce::Mover;
use rxl_quiesce::cluster::Agents;
use rxl_quiesce::coordinator::{Coordinator, Surveyed};
use rxl_quiesce::error::{NotFound, NotQuiesced};
use rxl_report::mpi::MpiPart;
use rxl_session::gang_words::{Ended, FromMember, Place, ToMember, Told};
use rxl_session::job::{job_is_busy, required, too_long, unasked, warn_of};

/// What is to be held still.
pub struct Quiesce {
    /// How far the job is to be held still.
    pub level: Level,
    /// The job is only to be looked for; none of it is held still.
    pub dry_run: bool,
    /// Where agents are to be found; none where nothing is held still.
    pub agents: Option<Agents>,
    /// Each member's target, an index into the agents' hosts.
    pub targets: Vec<usize>,
}

/// How far the gang has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Checking,
    Copying,
    Frozen,
    Flushed,
    /// All have been told to go: nothing is given up together any more.
    Gone,
    /// Given up: members clean up.
    Aborted,
    /// Nobody is waited for any more.
    Open,
}

/// The gang, as its leader knows it. What is to be said is given to `say`: a member's place, and
/// the word.
pub struct Gang<S> {
    say: S,
    seats: Seats,
    stage: Stage,
    deadline: Option<Instant>,
    quiesce: Quiesce,
    epoch: Option<Coordinator>,
    failure: Option<Failure>,
    first: Option<usize>,
}

/// What came of a gang.
pub struct GangOutcome {
    /// What each member has ended with, in their order.
    pub members: Vec<Ended>,
    /// Why the gang as a whole has failed, if it has.
    pub failure: Option<Failure>,
    /// The member that failed first.
    pub first: Option<usize>,
}

impl<S: FnMut(usize, &ToMember)> Gang<S> {
    /// A gang of members that move these domains, by the names that the user gave.
    pub fn new(names: &[String], quiesce: Quiesce, say: S) -> Self {
        Self {
            say,
            seats: Seats::new(names),
            stage: Stage::Checking,
            deadline: Some(Instant::now() + deadlines::GANG_PREPARE),
            quiesce,
            epoch: None,
            failure: None,
            first: None,
        }
    }

    /// When [`Gang::expired`] is to be called, if nothing comes before.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// All members have ended.
    pub fn is_over(&self) -> bool {
        self.seats.all_at(Step::Ended)
    }

    /// A member has said something.
    pub fn heard(&mut self, member: usize, word: FromMember) {
        tracing::debug!(member, ?word, "gang");
        match word {
            FromMember::Prepared { name, domid } => {
                if let Some(seat) = self.seats.get_mut(member) {
                    (seat.name, seat.domid) = (one_line(&name), domid);
                }
                self.reached(member, Step::Prepared);
            }
            FromMember::Stop => self.reached(member, Step::Stop),
            FromMember::Suspend => self.reached(member, Step::Suspend),
            FromMember::Ready => self.reached(member, Step::Ready),
            FromMember::Suspended => {
                if let Some(epoch) = &mut self.epoch {
                    epoch.suspended(member);
                }
            }
            FromMember::Unasked if (Stage::Copying..Stage::Gone).contains(&self.stage) => {
                self.alone(unasked())
            }
            // The others go their own ways already.
            FromMember::Unasked => {}
            FromMember::Cancel => self.fail(format!("{} was cancelled", self.seats.name(member))),
            FromMember::Failing { what } => self.failing(member, &what),
            FromMember::Settled(place) => self.settled(member, place),
            FromMember::Ended(ended) => self.ended(member, *ended),
        }
        self.advance();
    }

    /// A member's line has ended. One that had not said its last word has died: its save helper
    /// lets the guest run on.
    pub fn lost(&mut self, member: usize) {
        if self.seats.step(member) == Step::Ended {
            return;
        }
        let settled = self.seats.step(member) == Step::Settled;
        let (place, exit) = match self.stage {
            _ if settled => (None, Exit::MovedWithWarnings),
            Stage::Gone | Stage::Open => (Some(Place::Elsewhere), Exit::Undecided),
            _ => (Some(Place::Source), Exit::FailedSourceRuns),
        };
        let failure = Failure::new(exit, "the process that moved it has died");
        let failure = failure.next("`xl list` on both hosts shows where it is");
        if let Some(place) = place {
            self.settled(member, place);
        }
        self.ended(member, Ended { failure: Some(Told::from(&failure)), ..Ended::default() });
        self.advance();
    }

    /// The user wants it to stop: too late below the line.
    pub fn interrupted(&mut self) {
        match self.stage {
            Stage::Open => self.tell(&ToMember::Abort { reason: "asked".into() }),
            _ => self.fail("asked".into()),
        }
    }

    /// The deadline has passed. False when there is nothing left to wait for.
    pub fn expired(&mut self) -> bool {
        let late = |step| self.seats.late(step);
        self.deadline = None;
        let what = match self.stage {
            Stage::Checking => format!("{} could not begin in time", late(Step::Prepared)),
            Stage::Copying => {
                format!("pre-copy of {} did not come to its end in time", late(Step::Stop))
            }
            Stage::Frozen => {
                format!("the last live iteration of {} took too long", late(Step::Suspend))
            }
            Stage::Flushed => format!("{} was not ready in time", late(Step::Ready)),
            Stage::Gone => {
                self.close();
                return true;
            }
            Stage::Aborted | Stage::Open => return false,
        };
        self.failure = Some(Failure::new(Exit::FailedSourceRuns, what.clone()));
        self.fail(what);
        true
    }

    /// What came of it. A member that has not ended has been given up.
    pub fn outcome(self) -> GangOutcome {
        let stuck = || Failure::new(Exit::Undecided, "the process that moved it did not end");
        let end = |ended: Option<Ended>| {
            let none = || Ended { failure: Some(Told::from(&stuck())), ..Ended::default() };
            ended.unwrap_or_else(none)
        };
        GangOutcome {
            members: self.seats.into_ends().map(end).collect(),
            failure: self.failure,
            first: self.first,
        }
    }

    /// The first at a barrier starts its clock.
    fn reached(&mut self, member: usize, step: Step) {
        if let Some(seat) = self.seats.get_mut(member) {
            seat.step = seat.step.max(step);
        }
        let patience = match (self.stage, step) {
            (Stage::Copying, Step::Stop | Step::Suspend) => deadlines::GANG_STOP,
            (Stage::Flushed, Step::Ready) => deadlines::GANG_READY,
            _ => return,
        };
        self.deadline.get_or_insert_with(|| Instant::now() + patience);
    }

    fn advance(&mut self) {
        match self.stage {
            Stage::Checking if self.seats.all_at(Step::Prepared) => self.begin(),
            Stage::Copying if self.seats.all_at(Step::Stop) => self.freeze(),
            Stage::Flushed if self.seats.all_at(Step::Ready) => self.go(),
            Stage::Gone if self.seats.all_at(Step::Settled) => self.close(),
            _ => {}
        }
        // A domain may have come to the second of them without the first.
        if self.stage == Stage::Frozen && self.seats.all_at(Step::Suspend) {
            self.flush();
        }
    }

    fn enter(&mut self, stage: Stage, patience: Option<Duration>) {
        (self.stage, self.deadline) = (stage, patience.map(|patience| Instant::now() + patience));
    }

    fn tell(&mut self, word: &ToMember) {
        for member in self.seats.running() {
            (self.say)(member, word);
        }
    }

    fn begin(&mut self) {
        let level = self.quiesce.level;
        let Some(agents) = self.quiesce.agents.take() else { return self.open(None) };
        let movers = self.seats.iter().zip(&self.quiesce.targets);
        let movers: Vec<_> =
            movers.map(|(seat, to)| Mover { domid: seat.domid, to: *to }).collect();
        match Coordinator::survey(agents.hosts, &agents.owners, &movers, level) {
            Ok(Surveyed::Job(epoch)) if self.quiesce.dry_run => self.open(Some(epoch.figures())),
            Ok(Surveyed::Job(epoch)) => self.begin_together(*epoch),
            Ok(Surveyed::NoRank(figures)) => {
                warn_of(&figures);
                self.open(Some(*figures));
            }
            Err(NotFound::Busy(by)) => self.refuse(job_is_busy(by)),
            Err(NotFound::Not(problem)) => self.without(problem),
        }
    }

    fn without(&mut self, problem: NotQuiesced) {
        if self.quiesce.level == Level::Require {
            return self.refuse(required(&problem));
        }
        tracing::warn!("the MPI job is not quiesced: {problem}");
        self.open(Some(MpiPart::none(self.quiesce.level, problem.to_string())));
    }

    fn begin_together(&mut self, epoch: Coordinator) {
        let figures = epoch.figures();
        warn_of(&figures);
        self.epoch = Some(epoch);
        self.enter(Stage::Copying, None);
        self.tell(&ToMember::Begin { figures: Some(Box::new(figures)), together: true });
    }

    /// Each for itself from the beginning.
    fn open(&mut self, figures: Option<MpiPart>) {
        self.enter(Stage::Open, None);
        self.tell(&ToMember::Begin { figures: figures.map(Box::new), together: false });
    }

    fn freeze(&mut self) {
        match self.epoch.as_mut().map_or(Ok(()), Coordinator::freeze) {
            Ok(()) => {
                self.enter(Stage::Frozen, Some(deadlines::GANG_FLUSH));
                self.tell(&ToMember::Frozen);
            }
            Err(problem) => self.alone(problem),
        }
    }

    fn flush(&mut self) {
        match self.epoch.as_mut().map_or(Ok(()), Coordinator::flush) {
            Ok(()) => {
                self.enter(Stage::Flushed, None);
                let figures = self.figures();
                self.tell(&ToMember::Flushed { figures });
            }
            Err(problem) => self.alone(problem),
        }
    }

    /// The job could not be held still: it runs, and each goes on for itself, or nobody does.
    fn alone(&mut self, problem: NotQuiesced) {
        if self.quiesce.level == Level::Require {
            return self.refuse(required(&problem));
        }
        tracing::warn!("the MPI job is not quiesced: {problem}");
        let mut figures = self.figures();
        figures.problem = Some(problem.to_string());
        self.epoch = None;
        self.enter(Stage::Open, None);
        self.tell(&ToMember::Alone { figures });
    }

    fn go(&mut self) {
        if let Some(Err(problem)) = self.epoch.as_ref().map(Coordinator::check_outage) {
            return self.refuse(too_long(problem));
        }
        let agent_command = self.epoch.as_mut().map_or_else(String::new, Coordinator::hold);
        self.enter(Stage::Gone, Some(deadlines::GANG_SETTLE));
        self.tell(&ToMember::Go { agent_command });
    }

    /// All that have gone have arrived, or will not.
    fn close(&mut self) {
        let closed = self.epoch.as_mut().map_or(Ok(()), Coordinator::settle);
        let mut figures = self.figures();
        if let Err(problem) = closed {
            tracing::warn!("{problem}");
            figures.problem = Some(problem.to_string());
        }
        self.epoch = None;
        self.enter(Stage::Open, Some(deadlines::GANG_END));
        self.tell(&ToMember::Closed { figures });
    }

    fn figures(&self) -> Box<MpiPart> {
        let none = || MpiPart::none(self.quiesce.level, String::new());
        Box::new(self.epoch.as_ref().map_or_else(none, Coordinator::figures))
    }

    fn refuse(&mut self, failure: Failure) {
        let what = failure.what.clone();
        self.failure = Some(failure);
        self.fail(what);
    }

    /// Above the line the first failure is everybody's.
    fn fail(&mut self, reason: String) {
        if self.stage >= Stage::Gone {
            return;
        }
        self.enter(Stage::Aborted, Some(deadlines::GANG_END));
        self.tell(&ToMember::Abort { reason });
        if let Some(epoch) = &mut self.epoch {
            epoch.abort();
        }
    }

    fn failing(&mut self, member: usize, what: &str) {
        self.first.get_or_insert(member);
        self.fail(format!("{}: {}", self.seats.name(member), one_line(what)));
    }

    fn settled(&mut self, member: usize, place: Place) {
        self.reached(member, Step::Settled);
        if let Some(epoch) = &mut self.epoch {
            match place {
                Place::Target { domid } => epoch.arrived(member, domid),
                Place::Source => epoch.returned(member),
                Place::Elsewhere => {}
            }
        }
        if self.stage == Stage::Aborted {
            let figures = self.figures();
            (self.say)(member, &ToMember::Closed { figures });
        }
    }

    fn ended(&mut self, member: usize, ended: Ended) {
        if let Some(failure) = &ended.failure {
            self.failing(member, &failure.what);
        }
        if let Some(seat) = self.seats.get_mut(member) {
            seat.ended = Some(ended);
        }
        self.reached(member, Step::Ended);
    }
}
