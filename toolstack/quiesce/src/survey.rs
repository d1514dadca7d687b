//! Before an epoch: who has ranks of the job, and whether all of them were found.
//!
//! ```text
//!  coordinator         this host            other hosts, all at once
//!    | lock survey ------> | (another's comes first)
//!    | lock agents ------> |
//!    | survey -----------> | which ranks are there? those of the domains that move name the job
//!    | unlock survey ----> |
//!    | boot ------------------------------------> | a host that has two names is asked once
//!    | lock, survey, unlock --------------------> | as here
//!    |   (until all ranks of the job are found: who has not answered by then is left)
//! ```
//! An agent obeys whoever has the latest epoch, and a survey is a command. So surveys of one host
//! come one after the other, and an agent that another coordinator has locked is left alone: it may
//! be about to be frozen. Locks of agents with ranks of the job are kept.
//!
//! Two coordinators of one job may meet: each has locked the domain that it moves, and finds the
//! other's. The one whose epoch is older waits for the other, which gives up.
//!
//! What a guest says of its ranks is its own word. One that is malformed, silent, or of another
//! owner ([`Owners`]) keeps no job from being found but its own.

mod complete;
mod elsewhere;
mod visit;

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::error::{JobBusy, NotFound, NotQuiesced, not_ranks};
use crate::host::AgentHost;
use crate::members::{JobMember, Mover};
use crate::nodes::AgentGuest;
use crate::owners::Owners;
use rxl_agent_protocol::{Stamp, Token};
use rxl_core::deadlines;
use rxl_core::level::Level;
use rxl_core::text::one_line;
use rxl_report::mpi::MpiPart;
use visit::{Found, Part, await_free, give_back, visit};

/// What is to be found, and where.
struct Search<'a> {
    /// This host first, then the targets, then others.
    hosts: &'a [AgentHost],
    owners: &'a Owners,
    movers: &'a [Mover],
    level: Level,
    /// The movers' names in xenstore, in their order.
    names: Vec<String>,
}

/// What a search has found.
pub(crate) enum Survey {
    Job(Box<JobFound>),
    /// No rank runs in the domains that move.
    NoRank(Box<MpiPart>),
}

/// The domains of a job.
pub(crate) struct JobFound {
    /// The domains that move come first, in their order.
    pub(crate) members: Vec<JobMember>,
    pub(crate) stamp: Stamp,
    /// The launcher's name for the job, where there is one job alone.
    pub(crate) job: Option<Token>,
    pub(crate) figures: MpiPart,
}

/// What tells two coordinators of one job apart, the first to come first: the epoch, and where that
/// is the same, the boot of the host and the number of the domain that a coordinator moves.
type Seniority = (u64, String, u32);

/// The launchers' names for the jobs of the domains that move.
type Jobs = BTreeSet<String>;

/// What [`crate::coordinator::Coordinator::survey`] does, on the runtime.
pub(crate) async fn survey(
    hosts: &[AgentHost],
    owners: &Owners,
    movers: &[Mover],
    level: Level,
) -> Result<Survey, NotFound> {
    let Some(here) = hosts.first() else { return Err(NotQuiesced::NoHost.into()) };
    let guests = here.guests().await?;
    let name = |mover: &Mover| {
        let found = guests.iter().find(|guest| guest.domid == mover.domid);
        found.map_or_else(String::new, |guest| guest.name.clone())
    };
    let names = movers.iter().map(name).collect();
    Search { hosts, owners, movers, level, names }.run().await
}

impl Search<'_> {
    async fn run(&self) -> Result<Survey, NotFound> {
        let (home, jobs) = self.at_home().await?;
        let mut warnings = self.unclaimed().await?;
        if jobs.is_empty() {
            return Ok(Survey::NoRank(Box::new(complete::no_rank(self, warnings)?)));
        }
        let mut found = home;
        if matches!(self.level, Level::Job | Level::Require) {
            let elsewhere = self.elsewhere(&found, &jobs).await?;
            complete::check(self, &found, &elsewhere.parts, &elsewhere.troubles, &jobs)?;
            elsewhere.parts.into_iter().for_each(|part| found.add(part));
        }
        warnings.extend(complete::warnings(self, &found, &jobs));
        Ok(Survey::Job(Box::new(self.job(found, jobs, warnings))))
    }

    /// This host's part, with the jobs of the domains that move. These come first in it.
    async fn at_home(&self) -> Result<(Part, Jobs), NotFound> {
        self.settle(0, None, |part| {
            part.mine.sort_by_key(|found| self.place(found));
            for (index, mover) in self.movers.iter().enumerate() {
                if let Some(held) = part.held.iter().find(|held| held.domid == mover.domid) {
                    return Err(JobBusy::Held(held.name.clone()).into());
                }
                let moving = part.mine.get_mut(index).filter(|found| found.domid == mover.domid);
                let moving = moving.ok_or(NotQuiesced::NoAgent(mover.domid))?;
                moving.trouble.take().map_or(Ok(()), Err)?;
            }
            Ok(shared_jobs(self.moving(part))?)
        })
        .await
    }

    /// What looks like ranks in the domains that move, and is none that their agents know. A freeze
    /// would not stop it.
    async fn unclaimed(&self) -> Result<Vec<String>, NotFound> {
        let (Some(here), mut all) = (self.hosts.first(), Vec::new()) else { return Ok(Vec::new()) };
        for (mover, name) in self.movers.iter().zip(&self.names) {
            let Some(unclaimed) = here.unclaimed(mover.domid).await? else { continue };
            let name = one_line(name);
            if self.level == Level::Require {
                return Err(NotQuiesced::Unclaimed { name, unclaimed }.into());
            }
            all.push(not_ranks(&name, &unclaimed));
        }
        Ok(all)
    }

    /// Visits a host until no other coordinator is in the way there. Keeps the agents with ranks of
    /// the jobs that `jobs` finds, and of the domains that move. `own`: this coordinator's epoch,
    /// where it has one already.
    async fn settle(
        &self,
        index: usize,
        own: Option<u64>,
        jobs: impl Fn(&mut Part) -> Result<Jobs, NotFound>,
    ) -> Result<(Part, Jobs), NotFound> {
        let Some(host) = self.hosts.get(index) else { return Ok((Part::default(), Jobs::new())) };
        let until = Instant::now() + deadlines::SURVEY_TURN;
        loop {
            let mut part = visit(host, index, |guest| self.asks(index, guest)).await?;
            let jobs = jobs(&mut part)?;
            let contender = part.held.iter().find(|held| held.has_ranks_of(&jobs));
            let Some(contender) = contender.filter(|_| self.level != Level::Domain) else {
                let is_kept =
                    |found: &Found| self.moves(index, found.domid) || found.has_ranks_of(&jobs);
                let (kept, rest): (_, Vec<_>) = part.mine.into_iter().partition(is_kept);
                give_back(host, &rest).await?;
                part.mine = kept;
                part.note_troubles(rest);
                return Ok((part, jobs));
            };
            let theirs = (contender.epoch, host.boot().await?.to_string(), contender.domid);
            if theirs < self.seniority(own.unwrap_or(part.epoch)).await? || Instant::now() >= until
            {
                return Err(JobBusy::Held(contender.name.clone()).into());
            }
            give_back(host, &part.mine).await?;
            await_free(host, contender.domid, until).await?;
        }
    }

    /// Whether an agent is asked at all: a job's ranks are in domains of one owner, and at level
    /// domain the others do not matter.
    fn asks(&self, host: usize, guest: &AgentGuest) -> bool {
        let shares = || self.names.iter().any(|moving| self.owners.share(moving, &guest.name));
        self.moves(host, guest.domid) || (self.level != Level::Domain && shares())
    }

    async fn seniority(&self, epoch: u64) -> Result<Seniority, NotFound> {
        let boot = match self.hosts.first() {
            Some(here) => here.boot().await?.to_string(),
            None => String::new(),
        };
        let first = self.movers.iter().map(|mover| mover.domid).min();
        Ok((epoch, boot, first.unwrap_or_default()))
    }

    fn moves(&self, host: usize, domid: u32) -> bool {
        host == 0 && self.movers.iter().any(|mover| mover.domid == domid)
    }

    fn is_target(&self, host: usize) -> bool {
        self.movers.iter().any(|mover| mover.to == host)
    }

    /// The place among the domains that move; after all of them for others.
    fn place(&self, found: &Found) -> usize {
        let place = self.movers.iter().position(|mover| mover.domid == found.domid);
        place.filter(|_| found.host == 0).unwrap_or(self.movers.len())
    }

    /// The domains that move, in their order.
    fn moving<'p>(&self, home: &'p Part) -> &'p [Found] {
        home.mine.get(..self.movers.len()).unwrap_or(&home.mine)
    }

    fn job(&self, found: Part, jobs: Jobs, warnings: Vec<String>) -> JobFound {
        let first = found.mine.iter().flat_map(|found| &found.rows).next().cloned();
        let launcher = first.as_ref().map_or_else(String::new, |row| row.launcher.to_string());
        let size = first.as_ref().map_or(0, |row| row.size);
        let names = jobs.iter().cloned().collect();
        let figures = MpiPart::new(self.level, found.epoch, names, launcher, size);
        JobFound {
            stamp: Stamp { epoch: found.epoch, sequence: 1 },
            job: first.map(|row| row.id).filter(|_| jobs.len() == 1),
            figures: MpiPart { warnings, ..figures },
            members: self.members(found, &jobs),
        }
    }

    fn members(&self, found: Part, jobs: &Jobs) -> Vec<JobMember> {
        let member = |(index, found): (usize, Found)| JobMember {
            ranks: found.ranks_of(jobs).map(|(_, rank)| rank).collect(),
            host: found.host,
            domid: found.domid,
            name: found.name,
            to: self.movers.get(index).map(|mover| mover.to),
            away: false,
            arrived: None,
        };
        found.mine.into_iter().enumerate().map(member).collect()
    }
}

/// The jobs of the domains that move. One epoch holds one job still, or all those of a single
/// domain.
fn shared_jobs(moving: &[Found]) -> Result<Jobs, NotQuiesced> {
    let Some(first) = moving.first() else { return Ok(Jobs::new()) };
    let jobs = first.jobs();
    match moving.iter().find(|found| found.jobs() != jobs) {
        Some(other) => Err(NotQuiesced::DifferentJobs(first.name.clone(), other.name.clone())),
        None => Ok(jobs),
    }
}

/// An epoch that is later than any before it on hosts whose clocks agree: milliseconds since 1970.
pub fn epoch_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis());
    u64::try_from(now).unwrap_or(1)
}
