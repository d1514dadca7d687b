//! One host's part of a survey: whose agents are this coordinator's, and what ranks they name.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{Jobs, epoch_now};
use crate::error::{AgentsError, JobBusy, NotFound, NotQuiesced};
use crate::host::AgentHost;
use crate::nodes::{AgentGuest, Lock};
use rxl_agent_protocol::{Command, JobRow, PROTOCOL_VERSION, Stamp, State, Status, Verb, path};
use rxl_core::deadlines;
use rxl_core::text::one_line;

/// Pause between two looks whether a lock of another's is free.
const TURN_PAUSE: Duration = Duration::from_millis(100);

/// Most that a guest's own word may put an epoch ahead of this host's clock, in milliseconds. Its
/// agent may have served a host whose clock is ahead. One that says more keeps itself from being
/// commanded, and nobody else.
const MOST_AHEAD: u64 = 24 * 60 * 60 * 1000;

/// What one host's agents have told.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// The epoch of this survey: later than any before it at these agents.
    pub(super) epoch: u64,
    /// Domains whose agents are this coordinator's alone.
    pub(super) mine: Vec<Found>,
    /// Domains whose agents are another coordinator's, with the ranks that were last found in them.
    pub(super) held: Vec<Found>,
    /// Why other agents could not be asked.
    pub(super) troubles: Vec<String>,
}

/// A domain with an agent.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) host: usize,
    pub(super) domid: u32,
    /// Its name, fit for one line.
    pub(super) name: String,
    /// The epoch that dom0 last named to it.
    pub(super) epoch: u64,
    /// The ranks that its agent has found, of all jobs.
    pub(super) rows: Vec<JobRow>,
    /// Why its agent could not be asked.
    pub(super) trouble: Option<NotQuiesced>,
}

impl Found {
    fn new(host: usize, guest: &AgentGuest) -> Self {
        let (domid, name) = (guest.domid, one_line(&guest.name));
        Self { host, domid, name, epoch: 0, rows: Vec::new(), trouble: None }
    }

    /// The launchers' names for the jobs with ranks in it.
    pub(super) fn jobs(&self) -> Jobs {
        self.rows.iter().map(|row| row.id.to_string()).collect()
    }

    /// Its ranks of these jobs, each with its job.
    pub(super) fn ranks_of(&self, jobs: &Jobs) -> impl Iterator<Item = (String, u32)> {
        let rows = self.rows.iter().filter(|row| jobs.contains(&row.id.to_string()));
        rows.flat_map(|row| row.ranks.iter().map(|rank| (row.id.to_string(), rank.number)))
    }

    pub(super) fn has_ranks_of(&self, jobs: &Jobs) -> bool {
        self.ranks_of(jobs).next().is_some()
    }
}

impl Part {
    /// Takes another host's part.
    pub(super) fn add(&mut self, other: Self) {
        self.epoch = self.epoch.max(other.epoch);
        self.mine.extend(other.mine);
        self.held.extend(other.held);
        self.troubles.extend(other.troubles);
    }

    /// Keeps why agents that are given back could not be asked.
    pub(super) fn note_troubles(&mut self, rest: Vec<Found>) {
        let troubles = rest.into_iter().filter_map(|found| found.trouble);
        self.troubles.extend(troubles.map(|trouble| trouble.to_string()));
    }
}

/// Locks the host's agents that `asks` names, and has them look for ranks, when it is this
/// coordinator's turn.
pub(super) async fn visit(
    host: &AgentHost,
    index: usize,
    asks: impl Fn(&AgentGuest) -> bool,
) -> Result<Part, NotFound> {
    await_turn(host).await?;
    let part = ask_all(host, index, asks).await;
    host.unlock(Lock::Survey).await?;
    Ok(part?)
}

/// Waits until no other survey concerns this host.
async fn await_turn(host: &AgentHost) -> Result<(), NotFound> {
    let until = Instant::now() + deadlines::SURVEY_TURN;
    while !host.lock(Lock::Survey).await? {
        if Instant::now() >= until {
            return Err(JobBusy::Survey(host.name.clone()).into());
        }
        sleep(TURN_PAUSE).await;
    }
    Ok(())
}

async fn ask_all(
    host: &AgentHost,
    index: usize,
    asks: impl Fn(&AgentGuest) -> bool,
) -> Result<Part, AgentsError> {
    let mut part = Part { epoch: epoch_now(), ..Part::default() };
    for guest in host.guests().await?.iter().filter(|guest| asks(guest)) {
        let Some(info) = guest.agent_info() else { continue };
        let mut found = Found::new(index, guest);
        if info.protocol != PROTOCOL_VERSION {
            let (name, theirs) = (found.name.clone(), info.protocol);
            found.trouble = Some(NotQuiesced::OtherProtocol { name, theirs });
            part.mine.push(found);
            continue;
        }
        claim(host, found, &mut part).await?;
    }
    find_ranks(host, &mut part).await?;
    Ok(part)
}

/// Locks an agent, unless another coordinator has it, or left it in an epoch that nobody has ended:
/// the lease ends that.
async fn claim(host: &AgentHost, mut found: Found, part: &mut Part) -> Result<(), AgentsError> {
    let domid = found.domid;
    let command = host.read(domid, path::COMMAND).await?;
    let last = command.and_then(|command| Command::stamp_of(&command));
    found.epoch = last.map_or(0, |stamp| stamp.epoch);
    let is_locked = host.lock(Lock::Agent(domid)).await?;
    let state = if is_locked { host.state(domid).await? } else { None };
    let is_left = state.as_ref().is_some_and(|state| is_under_way(&state.status));
    if is_locked && !is_left {
        part.epoch = part.epoch.max(found.epoch.saturating_add(1)).max(said(state.as_ref()));
        part.mine.push(found);
        return Ok(());
    }
    if is_left {
        host.unlock(Lock::Agent(domid)).await?;
    }
    found.rows = host.jobs(domid).await.unwrap_or_default();
    part.held.push(found);
    Ok(())
}

/// The least epoch that an agent obeys by its own word, as far as that is believed.
fn said(state: Option<&State>) -> u64 {
    let said = state.map_or(0, |state| state.stamp.epoch.saturating_add(1));
    if said > epoch_now().saturating_add(MOST_AHEAD) { 0 } else { said }
}

/// An epoch that nobody has ended, be it that its coordinator is dead: the lease ends it.
fn is_under_way(status: &Status) -> bool {
    let held = matches!(status, Status::Ready(_) | Status::Frozen(_) | Status::Flushed(_));
    held || matches!(status, Status::Resumed { .. } | Status::Thawed(_))
}

/// Asks agents for their ranks. One that does not answer, or whose answer is none, is noted.
async fn find_ranks(host: &AgentHost, part: &mut Part) -> Result<(), AgentsError> {
    let command = Command { stamp: Stamp { epoch: part.epoch, sequence: 1 }, verb: Verb::Survey };
    let asked: Vec<_> = part.mine.iter_mut().filter(|found| found.trouble.is_none()).collect();
    let domids = asked.iter().map(|found| found.domid).collect();
    let answers = host.obey(domids, &command, deadlines::SURVEY).await?;
    for (found, answer) in asked.into_iter().zip(answers) {
        match answer {
            None => {
                let (name, deadline) = (found.name.clone(), deadlines::SURVEY);
                found.trouble = Some(NotQuiesced::Silent { name, deadline });
            }
            Some(_) => match host.jobs(found.domid).await {
                Ok(rows) => found.rows = rows,
                Err(error @ AgentsError::Malformed { .. }) => found.trouble = Some(error.into()),
                Err(error) => return Err(error),
            },
        }
    }
    Ok(())
}

/// Gives agents back: others may command them.
pub(super) async fn give_back(host: &AgentHost, rest: &[Found]) -> Result<(), AgentsError> {
    for found in rest {
        host.unlock(Lock::Agent(found.domid)).await?;
    }
    Ok(())
}

/// Waits until another coordinator has given an agent back, or until then.
pub(super) async fn await_free(
    host: &AgentHost,
    domid: u32,
    until: Instant,
) -> Result<(), AgentsError> {
    while Instant::now() < until {
        if host.lock(Lock::Agent(domid)).await? {
            return host.unlock(Lock::Agent(domid)).await;
        }
        sleep(TURN_PAUSE).await;
    }
    Ok(())
}
