//! The MPI job of the domain that moves, as the session sees it: held still, or the reason why not.
//!
//! A migration of one domain has its own coordinator. A member of a gang (the crate `rxl-gang`)
//! asks its leader, and waits.

use std::path::Path;

use crate::events::Events;
use crate::gang_member::GangMember;
use crate::gang_words::{FromMember, Place, ToMember};
use rxl_core::domain::Domain;
use rxl_core::error::{Exit, Failure};
use rxl_core::level::Level;
use rxl_link::ssh::Route;
use rxl_quiesce::Mover;
use rxl_quiesce::cluster::{Agents, CLUSTER_FILE, agents};
use rxl_quiesce::coordinator::{Coordinator, Surveyed};
use rxl_quiesce::error::{JobBusy, NotFound, NotQuiesced};
use rxl_report::mpi::MpiPart;

mod leader_line;

use leader_line::{Asked, LeaderLine, await_begin};

/// The place of this host among those whose agents are asked.
pub const HERE: usize = 0;

/// The place of a migration's only target among them.
pub const TARGET: usize = 1;

/// The MPI job of the domain that moves: held still by this process, by a gang's leader, or by
/// nobody.
pub struct HeldJob {
    level: Level,
    holder: Holder,
    figures: Option<MpiPart>,
}

/// Who holds the job still.
enum Holder {
    Nobody,
    Own(Box<Coordinator>),
    Leader(LeaderLine),
}

/// What comes after a live iteration that was good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The job has just been held still: one more live iteration fetches what it has dirtied until
    /// then.
    OneIteration,
    /// The last iteration.
    Now,
    /// Others have not come so far.
    NotYet,
}

/// The hosts of the cluster, being connected to. None where nothing is to be quiesced.
pub fn reach_agents(level: Level, targets: &[Route]) -> Result<Option<Agents>, Failure> {
    if level == Level::Off {
        return Ok(None);
    }
    match agents(level, targets, Path::new(CLUSTER_FILE)) {
        Ok(agents) => Ok(Some(agents)),
        // A file that is wrong is the user's to mend, whatever the level.
        Err(failure) if level == Level::Require || failure.exit == Exit::Usage => Err(failure),
        Err(failure) => {
            tracing::warn!("{failure}: the job is not quiesced");
            Ok(None)
        }
    }
}

/// Another migration of the job is under way. Moving without would disturb that one, so no level
/// goes on.
pub fn job_is_busy(by: JobBusy) -> Failure {
    Failure::new(Exit::Busy, by.to_string())
        .caused_by(by)
        .next("try again when that is over; `rxl jobs` shows the domains of the job")
}

/// Tells what is to be known about a job that is quiesced, or not found, nevertheless.
pub fn warn_of(figures: &MpiPart) {
    figures.warnings.iter().for_each(|warning| tracing::warn!("the MPI job: {warning}"));
}

/// What `require` demands and does not get.
pub fn required(problem: &NotQuiesced) -> Failure {
    let failure =
        Failure::new(Exit::FailedSourceRuns, format!("the MPI job cannot be quiesced: {problem}"));
    failure.next("--mpi-quiesce=job moves the domain without, if need be")
}

impl HeldJob {
    /// For a migration that holds no job still.
    pub fn none() -> Self {
        Self { level: Level::Off, holder: Holder::Nobody, figures: None }
    }

    /// Finds the domain's job, and keeps other migrations of it out. With `require` what stands in
    /// the way ends the migration here. `to`: where it will run, [`HERE`] or [`TARGET`].
    pub fn find(
        level: Level,
        agents: Option<Agents>,
        domain: &Domain,
        to: usize,
    ) -> Result<Self, Failure> {
        let mut job = Self { level, ..Self::none() };
        let Some(Agents { hosts, owners }) = agents else { return Ok(job) };
        let mover = Mover { domid: domain.domid.0, to };
        match Coordinator::survey(hosts, &owners, &[mover], level) {
            Ok(Surveyed::Job(coordinator)) => {
                warn_of(&coordinator.figures());
                job.holder = Holder::Own(coordinator);
            }
            Ok(Surveyed::NoRank(figures)) => {
                warn_of(&figures);
                job.figures = Some(*figures);
            }
            Err(NotFound::Busy(by)) => return Err(job_is_busy(by)),
            Err(NotFound::Not(problem)) => job.without(problem)?,
        }
        Ok(job)
    }

    /// Tells the leader that all is checked, and waits until it is so for all others.
    pub fn join<D: Send + 'static>(
        mut member: GangMember,
        level: Level,
        domain: &Domain,
        events: &Events<D>,
    ) -> Result<Self, Failure> {
        member.say(&FromMember::Prepared { name: domain.name.clone(), domid: domain.domid.0 });
        let (figures, together) = await_begin(events)?;
        let figures = figures.map(|figures| *figures);
        let line = LeaderLine::new(member, together);
        Ok(Self { level, holder: Holder::Leader(line), figures })
    }

    /// Goes on without, or not at all.
    fn without(&mut self, problem: NotQuiesced) -> Result<(), Failure> {
        let none = || MpiPart::none(self.level, String::new());
        let mut figures = self.figures().unwrap_or_else(none);
        figures.problem = Some(problem.to_string());
        (self.figures, self.holder) = (Some(figures), Holder::Nobody);
        if self.level == Level::Require {
            return Err(required(&problem));
        }
        tracing::warn!("the MPI job is not quiesced: {problem}");
        Ok(())
    }

    /// Whether pre-copy has been found good enough: then it is not judged again.
    pub fn is_stopping(&self) -> bool {
        match &self.holder {
            Holder::Nobody => false,
            Holder::Own(coordinator) => coordinator.is_frozen(),
            Holder::Leader(line) => line.together && line.asked.is_some(),
        }
    }

    /// Pre-copy is good enough: holds the job still.
    pub fn stop(&mut self) -> Result<Stop, Failure> {
        match &mut self.holder {
            Holder::Leader(line) => Ok(line.stop()),
            Holder::Own(coordinator) if !coordinator.is_frozen() => match coordinator.freeze() {
                Ok(()) => Ok(Stop::OneIteration),
                Err(problem) => self.without(problem).map(|()| Stop::Now),
            },
            _ => Ok(Stop::Now),
        }
    }

    /// The guest is to be suspended: waits until nothing of the job is on the wire. False when
    /// others have not come so far.
    pub fn may_suspend(&mut self) -> Result<bool, Failure> {
        if let Holder::Leader(line) = &mut self.holder {
            return Ok(line.may_suspend());
        }
        self.stop()?;
        if let Holder::Own(coordinator) = &mut self.holder {
            coordinator.flush().or_else(|problem| self.without(problem))?;
        }
        Ok(true)
    }

    /// The domain that moves stands still, whichever way it came to that.
    pub fn suspended(&mut self) -> Result<(), Failure> {
        match &mut self.holder {
            Holder::Nobody => Ok(()),
            Holder::Own(coordinator) if coordinator.is_frozen() => {
                coordinator.suspended(0);
                Ok(())
            }
            Holder::Own(_) => self.without(unasked()),
            Holder::Leader(line) if !line.together => Ok(()),
            Holder::Leader(line) => {
                line.member.say(if line.flushed {
                    &FromMember::Suspended
                } else {
                    &FromMember::Unasked
                });
                Ok(())
            }
        }
    }

    /// The target has everything: tells the leader, if there is one to be waited for.
    pub fn ready(&mut self) {
        if let Holder::Leader(line) = &mut self.holder {
            line.ask(Asked::Ready);
        }
    }

    /// Whether the domain may be committed. Not for so long after its suspend that its job would
    /// not survive it: that is an error.
    pub fn may_go(&self) -> Result<bool, Failure> {
        match &self.holder {
            Holder::Nobody => Ok(true),
            Holder::Own(coordinator) => coordinator.check_outage().map(|()| true).map_err(too_long),
            Holder::Leader(line) => Ok(!line.together || line.go.is_some()),
        }
    }

    /// Whether a leader has said Go: it may have told others, too.
    pub fn was_told_go(&self) -> bool {
        matches!(&self.holder, Holder::Leader(line) if line.together && line.go.is_some())
    }

    /// Asks the leader to cancel: it may have told others to go.
    pub fn ask_cancel(&mut self) {
        if let Holder::Leader(line) = &mut self.holder {
            line.member.say(&FromMember::Cancel);
        }
    }

    /// What the leader says before the line.
    pub fn heard(&mut self, word: ToMember) -> Result<(), Failure> {
        let Holder::Leader(line) = &mut self.holder else { return Ok(()) };
        match word {
            ToMember::Frozen => line.frozen = true,
            ToMember::Flushed { figures } => {
                line.flushed = true;
                self.figures = Some(*figures);
            }
            ToMember::Alone { figures } => {
                line.together = false;
                self.figures = Some(*figures);
            }
            ToMember::Go { agent_command } => line.go = Some(agent_command),
            ToMember::Abort { reason } => return Err(given_up(&reason)),
            ToMember::Begin { .. } | ToMember::Closed { .. } => {}
        }
        Ok(())
    }

    /// The migration is given up; what is left is to clean up.
    pub fn failing(&mut self, failure: &Failure) {
        if let Holder::Leader(line) = &mut self.holder {
            line.member.say(&FromMember::Failing { what: failure.what.clone() });
        }
    }

    /// For the target: what the domain's agent is to find when it runs again.
    pub fn hold(&mut self) -> Option<String> {
        match &mut self.holder {
            Holder::Nobody => None,
            Holder::Own(coordinator) => Some(coordinator.hold()),
            Holder::Leader(line) => line.go.clone(),
        }
    }

    /// The domain runs on the target, under this number: thaws the job.
    pub fn arrived(&mut self, domid: u32) {
        self.close(Place::Target { domid });
    }

    /// The domain was suspended, as was meant, and runs on here: thaws the job, its own ranks among
    /// them.
    pub fn runs_on(&mut self) {
        if let Holder::Own(coordinator) = &mut self.holder {
            coordinator.returned(0);
            let thawed = coordinator.settle();
            self.figures = Some(ended(coordinator, thawed));
            self.holder = Holder::Nobody;
        }
    }

    /// The domain runs here: the job runs.
    pub fn returned(&mut self) {
        self.close(Place::Source);
    }

    /// Nobody knows where the domain runs, or it is not to run yet: the rest of the job runs.
    pub fn abort(&mut self) {
        self.close(Place::Elsewhere);
    }

    fn close(&mut self, place: Place) {
        match std::mem::replace(&mut self.holder, Holder::Nobody) {
            Holder::Nobody => {}
            Holder::Own(coordinator) => self.figures = Some(close_own(*coordinator, place)),
            Holder::Leader(mut line) => {
                line.member.say(&FromMember::Settled(place));
                // Where the barriers were not kept there is nothing to wait for.
                if line.together {
                    self.figures = line.member.closed().or_else(|| self.figures.take());
                }
            }
        }
    }

    /// What was measured, for the report.
    pub fn figures(&self) -> Option<MpiPart> {
        match &self.holder {
            Holder::Own(coordinator) => Some(coordinator.figures()),
            _ => self.figures.clone(),
        }
    }
}

/// A suspend that the job would not survive.
pub fn too_long(problem: NotQuiesced) -> Failure {
    Failure::new(Exit::FailedSourceRuns, problem.to_string()).caused_by(problem).next(
        "a lower --downtime-limit or --walker rxl and --restorer rxl shorten it; \
               --mpi-quiesce=off does not ask",
    )
}

/// Why a guest is suspended that the job has not been held still for.
pub fn unasked() -> NotQuiesced {
    NotQuiesced::Unasked
}

/// What the leader's Abort is to the user.
pub fn given_up(reason: &str) -> Failure {
    Failure::new(Exit::Cancelled, format!("cancelled, as {reason}"))
}

fn close_own(mut coordinator: Coordinator, place: Place) -> MpiPart {
    let closed = match place {
        Place::Target { domid } => {
            coordinator.arrived(0, domid);
            coordinator.settle()
        }
        Place::Source | Place::Elsewhere => {
            coordinator.abort();
            if place == Place::Source {
                coordinator.returned(0);
            }
            Ok(())
        }
    };
    ended(&coordinator, closed)
}

fn ended(coordinator: &Coordinator, how: Result<(), NotQuiesced>) -> MpiPart {
    let problem = how.err().map(|problem| problem.to_string());
    if let Some(problem) = &problem {
        tracing::warn!("{problem}");
    }
    MpiPart { problem, ..coordinator.figures() }
}
