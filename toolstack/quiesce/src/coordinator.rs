//! The steps of one epoch, over all domains of a job. See [`crate`] for their order.

mod arrival;

use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::error::{AgentsError, NotFound, NotQuiesced};
use crate::everyone::{self, Each};
use crate::figures::{self, Better, Cut};
use crate::host::{AgentHost, Hosts};
use crate::keeper::Keeper;
use crate::members::{JobMember, Mover};
use crate::owners::Owners;
use crate::survey::{JobFound, Survey, survey};
use rxl_agent_protocol::{Command, Connection, Prepare, Stamp, State, Status, Token, Verb};
use rxl_core::deadlines;
use rxl_core::level::Level;
use rxl_core::units::ms;
use rxl_link::runtime::runtime;
use rxl_report::mpi::MpiPart;

/// One epoch. Dropping it before its end thaws the job.
///
/// Its calls block until agents have answered, or their deadline is over; meanwhile the runtime
/// waits for all hosts at once.
pub struct Coordinator {
    hosts: Hosts,
    members: Vec<JobMember>,
    stamp: Stamp,
    phase: Phase,
    frozen_at: Option<Instant>,
    suspended_at: Option<Instant>,
    keeper: Option<Keeper>,
    job: Option<Token>,
    figures: MpiPart,
    runtime: Handle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Surveyed,
    Frozen,
    Flushed,
    Over,
}

/// What a survey has found.
pub enum Surveyed {
    /// The domains of a job.
    Job(Box<Coordinator>),
    /// No rank runs in the domains that move: what the report says of that.
    NoRank(Box<MpiPart>),
}

impl Coordinator {
    /// Finds the job of these domains of the first host, and all domains of it. From here on a
    /// domain that moves is known by its place among them.
    ///
    /// Until it is dropped no other coordinator commands their agents.
    pub fn survey(
        hosts: Vec<AgentHost>,
        owners: &Owners,
        movers: &[Mover],
        level: Level,
    ) -> Result<Surveyed, NotFound> {
        let runtime = runtime().map_err(NotQuiesced::Runtime)?;
        let hosts: Hosts = hosts.into();
        let found = runtime.block_on(survey(&hosts, owners, movers, level))?;
        let JobFound { members, stamp, job, mut figures } = match found {
            Survey::Job(found) => *found,
            Survey::NoRank(figures) => return Ok(Surveyed::NoRank(figures)),
        };
        figures.domains = members.iter().map(|member| member.describe(&hosts)).collect();
        if movers.len() > 1 {
            let moving = members.iter().filter(|member| member.to.is_some());
            figures.gang = moving.map(|member| member.name.clone()).collect();
        }
        let keeper = Some(Keeper::start(&runtime, hosts.clone(), stamp.epoch));
        Ok(Surveyed::Job(Box::new(Self {
            hosts,
            members,
            stamp,
            phase: Phase::Surveyed,
            frozen_at: None,
            suspended_at: None,
            keeper,
            job,
            figures,
            runtime,
        })))
    }

    /// Whether the ranks stand still.
    pub fn is_frozen(&self) -> bool {
        matches!(self.phase, Phase::Frozen | Phase::Flushed)
    }

    /// Prepares and freezes all domains of the job. On an error all of them run.
    pub fn freeze(&mut self) -> Result<(), NotQuiesced> {
        let frozen = self.prepare_all().and_then(|()| self.freeze_all());
        frozen.and_then(|()| self.begin_flush()).inspect_err(|_| self.abort())
    }

    fn prepare_all(&mut self) -> Result<(), NotQuiesced> {
        let begun = Instant::now();
        let prepare = Verb::Prepare(Prepare {
            lease: deadlines::PREPARE_ANSWER + deadlines::LEASE,
            deadline: deadlines::PREPARE,
            pause: deadlines::ANNOUNCED_PAUSE,
            job: self.job.clone(),
        });
        for (index, status) in self.all(&prepare, deadlines::PREPARE_ANSWER)? {
            let Status::Ready(ready) = status else { return Err(self.answered(index, status)) };
            self.check_patience(index, ready.patience)?;
            figures::prepared(&mut self.figures, &ready);
        }
        self.figures.prepare = Some(ms(begun.elapsed()));
        Ok(())
    }

    /// An agent refuses by itself what its connections do not bear. One that is of two minds is
    /// heard now: later its job would have been frozen in vain.
    fn check_patience(&self, index: usize, patience: Option<Duration>) -> Result<(), NotQuiesced> {
        let pause = deadlines::ANNOUNCED_PAUSE;
        match patience.filter(|patience| *patience < pause) {
            Some(patience) => {
                Err(NotQuiesced::Impatient { name: self.name(index), patience, pause })
            }
            None => Ok(()),
        }
    }

    fn freeze_all(&mut self) -> Result<(), NotQuiesced> {
        let begun = Instant::now();
        self.frozen_at = Some(begun);
        let freeze = Verb::Freeze { lease: deadlines::LEASE, deadline: deadlines::FREEZE };
        for (index, status) in self.all(&freeze, deadlines::FREEZE)? {
            let Status::Frozen(frozen) = status else { return Err(self.answered(index, status)) };
            figures::frozen(&mut self.figures, &frozen);
        }
        self.figures.freeze = Some(ms(begun.elapsed()));
        self.phase = Phase::Frozen;
        if let Some(keeper) = &self.keeper {
            let places = self.members.iter().map(|member| (member.host, member.domid));
            keeper.places().are(places.collect());
        }
        Ok(())
    }

    /// Has agents begin while what moves makes its last live iteration. Their answers are not
    /// waited for: what counts is the cut that [`Self::flush`] finds, but what has to be sent again
    /// until then has had the time of that iteration.
    fn begin_flush(&mut self) -> Result<(), NotQuiesced> {
        let flush = self.flush_within(deadlines::SHORTEST_FLUSH);
        let command = self.next(&flush);
        self.runtime.block_on(everyone::tell(&self.hosts, &self.members, &command))
    }

    fn flush_within(&self, deadline: Duration) -> Verb {
        // At level domain the others send on.
        Verb::Flush { lease: deadlines::LEASE, deadline, room: self.figures.level != Level::Domain }
    }

    /// Waits until nothing of the job is on the wire, and looks whether both ends of every
    /// connection say so. A cut that is not clean is written down, and no reason to stop: TCP
    /// carries what is left over.
    pub fn flush(&mut self) -> Result<(), NotQuiesced> {
        if self.phase != Phase::Frozen {
            return Ok(());
        }
        let begun = Instant::now();
        let mut until = begun + deadlines::FLUSH;
        let (mut last_look, mut least) = (true, u64::MAX);
        loop {
            let left =
                until.saturating_duration_since(Instant::now()).max(deadlines::SHORTEST_FLUSH);
            let go_on = match self.flush_once(left)? {
                Better::Not => false,
                // However late: nothing moves any more, so the next look is true, unless others
                // send on.
                Better::ByLooking => Instant::now() < until || std::mem::take(&mut last_look),
                Better::BySending { after, left } => {
                    if left < least {
                        let longer = Instant::now() + deadlines::FLUSH_STEP;
                        until = until.max(longer.min(begun + deadlines::LONGEST_FLUSH));
                    }
                    least = least.min(left);
                    Instant::now() + after < until
                }
            };
            if !go_on {
                break;
            }
        }
        self.figures.flush = Some(ms(begun.elapsed()));
        self.phase = Phase::Flushed;
        Ok(())
    }

    fn flush_once(&mut self, deadline: Duration) -> Result<Better, NotQuiesced> {
        let flush = self.flush_within(deadline);
        let command = self.next(&flush);
        let mut cut = Cut::default();
        for (index, (status, ends)) in self.all_with(&command, deadline, with_cut)? {
            let Status::Flushed(flushed) = status else { return Err(self.answered(index, status)) };
            cut.add(&flushed, ends);
        }
        Ok(cut.judge(&mut self.figures))
    }

    /// Ends the epoch where it is: the ranks run, here and elsewhere. Agents that cannot be told do
    /// it by themselves.
    pub fn abort(&mut self) {
        if self.phase == Phase::Over {
            return;
        }
        self.keeper = None;
        self.phase = Phase::Over;
        if let Err(error) = self.all(&Verb::Abort, deadlines::AGENT_SLACK) {
            tracing::warn!("{error}: the ranks run on when their lease ends");
        }
        self.figures.application_pause = self.frozen_at.map(|at| ms(at.elapsed()));
    }

    /// What was measured so far.
    pub fn figures(&self) -> MpiPart {
        self.figures.clone()
    }

    /// All domains' answers but of those that are away, each no later than the deadline and some
    /// slack.
    fn all(&mut self, verb: &Verb, deadline: Duration) -> Result<Each<Status>, NotQuiesced> {
        let command = self.next(verb);
        self.all_with(&command, deadline, async |_, _, state| Ok(state.status))
    }

    /// The same, with what `take` fetches for each.
    fn all_with<T>(
        &self,
        command: &Command,
        deadline: Duration,
        take: impl AsyncFn(&AgentHost, &JobMember, State) -> Result<T, AgentsError>,
    ) -> Result<Each<T>, NotQuiesced> {
        let deadline = deadline + deadlines::AGENT_SLACK;
        self.runtime.block_on(everyone::ask(&self.hosts, &self.members, command, deadline, take))
    }

    fn next(&mut self, verb: &Verb) -> Command {
        self.stamp = self.stamp.next();
        Command { stamp: self.stamp, verb: verb.clone() }
    }

    /// An agent has not done what it was told to.
    fn answered(&self, index: usize, status: Status) -> NotQuiesced {
        NotQuiesced::Answered { name: self.name(index), status }
    }

    fn name(&self, index: usize) -> String {
        self.members.get(index).map_or_else(String::new, |member| member.name.clone())
    }
}

/// An answer to a flush, with the connections that it announces.
async fn with_cut(
    host: &AgentHost,
    member: &JobMember,
    state: State,
) -> Result<(Status, Vec<Connection>), AgentsError> {
    let cut = match &state.status {
        Status::Flushed(flushed) => host.cut(member.domid, flushed.chunks).await?,
        _ => Vec::new(),
    };
    Ok((state.status, cut))
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.abort();
    }
}
