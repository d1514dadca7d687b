//! The steps of one epoch, over all domains of a job. See [`crate::quiesce`] for their order.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rxl_agent_protocol::{
    Command, Connection, JobRow, PROTOCOL_VERSION, Prepare, Stamp, State, Status, Token, Verb, audit,
};
use serde::{Deserialize, Serialize};

use super::cluster::AgentHost;
use super::keeper::{Hosts, Keeper};
use crate::error::one_line;
use crate::report::{MpiDomain, MpiPart, ms};

/// How long ranks stay frozen without a word of ours.
pub const LEASE: Duration = Duration::from_secs(30);

/// How long a domain that moves may be away: its agent counts only the time that its guest runs.
const HOLD_LEASE: Duration = Duration::from_secs(60);

/// The longest pause that agents are told of: a connection that gives up sooner is a reason not to freeze.
const ANNOUNCED_PAUSE: Duration = Duration::from_secs(60);

const SURVEY_PATIENCE: Duration = Duration::from_secs(30);
/// Nothing is frozen yet, so there is time: finding the ranks means reading all of a guest's /proc.
const PREPARE_DEADLINE: Duration = Duration::from_secs(10);
const PREPARE_PATIENCE: Duration = Duration::from_secs(30);
const FREEZE_DEADLINE: Duration = Duration::from_secs(1);
/// What a full receiver has dropped comes with its sender's next retransmission, and a timer that doubles is at most 0.2 s more
/// away than the receiver's rank has already stood still: freezing and the barrier may take more than 1 s where ranks spin. A cut
/// that is clean sooner does not wait.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);
/// Enough where nothing has to be sent again.
const SHORTEST_FLUSH: Duration = Duration::from_millis(200);
/// From unpause to the agent's word: its guest thaws its own tasks first.
const RESUME_PATIENCE: Duration = Duration::from_secs(60);

/// What an agent may need beside its own deadline: its poll loop, xenstore, and a guest whose ranks spin on its processors.
const SLACK: Duration = Duration::from_secs(5);

/// How long retransmissions are watched after the thaw.
const AFTERMATH: Duration = Duration::from_secs(1);

/// Who is held still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Nobody.
    Off,
    /// The ranks of the domain that moves.
    Domain,
    /// All ranks of its job, on all hosts. If that cannot be, the domain moves without.
    Job,
    /// As job; if that cannot be, the domain does not move.
    Require,
}

/// Why a job is not being quiesced. Nothing is frozen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotQuiesced(pub String);

/// A domain of the job.
#[derive(Clone, Debug)]
struct Member {
    host: usize,
    domid: u32,
    name: String,
    ranks: Vec<u32>,
    /// It is suspended, on its way.
    away: bool,
}

/// One epoch. Dropping it before its end thaws the job.
pub struct Coordinator {
    hosts: Hosts,
    members: Vec<Member>,
    stamp: Stamp,
    phase: Phase,
    frozen_at: Option<Instant>,
    keeper: Option<Keeper>,
    job: Option<Token>,
    figures: MpiPart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Surveyed,
    Frozen,
    Flushed,
    Over,
}

type Outcome<T> = Result<T, NotQuiesced>;

fn not(line: impl Into<String>) -> NotQuiesced {
    NotQuiesced(one_line(&line.into()))
}

impl Coordinator {
    /// Finds the job of a domain of the first host, and all its domains. None when no rank runs in it.
    pub fn survey(mut hosts: Vec<AgentHost>, domid: u32, level: Level) -> Outcome<Option<Self>> {
        let mut all = guests(&mut hosts)?;
        // The domain that moves comes first.
        all.sort_by_key(|found| (found.host, found.domid) != (0, domid));
        check_agent(all.first().filter(|found| (found.host, found.domid) == (0, domid)))?;
        let stamp = Stamp { epoch: epoch_after(&mut hosts, &all)?, sequence: 1 };
        let rows = surveyed(&mut hosts, &all, stamp)?;
        let own = rows.first().map_or(&[][..], Vec::as_slice);
        let Some(first) = own.first() else { return Ok(None) };
        let jobs: BTreeSet<String> = own.iter().map(|row| row.id.to_string()).collect();
        let job = (jobs.len() == 1).then(|| first.id.clone());
        let names = jobs.iter().cloned().collect();
        let mut figures = MpiPart::new(level, stamp.epoch, names, first.launcher.to_string(), first.size);
        let members = members(all, &rows, &jobs, level);
        figures.domains = members.iter().map(|member| member.describe(&hosts)).collect();
        check_complete(&figures, &members, level, jobs.len())?;
        let (hosts, phase) = (Hosts::new(hosts), Phase::Surveyed);
        Ok(Some(Self { hosts, members, stamp, phase, frozen_at: None, keeper: None, job, figures }))
    }

    /// Whether the ranks stand still.
    pub fn is_frozen(&self) -> bool {
        matches!(self.phase, Phase::Frozen | Phase::Flushed)
    }

    /// Prepares and freezes all domains of the job. On an error all of them run.
    pub fn freeze(&mut self) -> Outcome<()> {
        self.prepare_and_freeze().inspect_err(|_| self.abort())
    }

    fn prepare_and_freeze(&mut self) -> Outcome<()> {
        let begun = Instant::now();
        let (lease, pause, job) = (PREPARE_PATIENCE + LEASE, ANNOUNCED_PAUSE, self.job.clone());
        let prepare = Verb::Prepare(Prepare { lease, deadline: PREPARE_DEADLINE, pause, job });
        for (index, state) in self.all(&prepare, PREPARE_PATIENCE)?.into_iter().enumerate() {
            let Status::Ready(ready) = state.status else { return Err(self.refused(index, &state)) };
            self.figures.processes += ready.processes;
            self.figures.connections += ready.connections;
        }
        self.figures.prepare = Some(ms(begun.elapsed()));
        let begun = Instant::now();
        self.frozen_at = Some(begun);
        for (index, state) in self
            .all(&Verb::Freeze { lease: LEASE, deadline: FREEZE_DEADLINE }, FREEZE_DEADLINE)?
            .into_iter()
            .enumerate()
        {
            let Status::Frozen(frozen) = state.status else { return Err(self.refused(index, &state)) };
            let took = ms(frozen.took);
            self.figures.freeze_in_guest =
                Some(self.figures.freeze_in_guest.map_or(took, |longest: f64| longest.max(took)));
        }
        self.figures.freeze = Some(ms(begun.elapsed()));
        self.phase = Phase::Frozen;
        let domains = self.members.iter().map(|member| (member.host, member.domid)).collect();
        let keeper = Keeper::start(self.hosts.clone(), self.stamp.epoch, domains);
        self.keeper = Some(keeper.map_err(|error| not(format!("leases: {error}")))?);
        Ok(())
    }

    /// Waits until nothing of the job is on the wire, and looks whether both ends of every connection say so. A cut that is
    /// not clean is written down, and no reason to stop: TCP carries what is left over.
    pub fn flush(&mut self) -> Outcome<()> {
        if self.phase != Phase::Frozen {
            return Ok(());
        }
        let begun = Instant::now();
        // A domain may have been written down while another was still sending to it.
        while self.flush_once(FLUSH_DEADLINE.saturating_sub(begun.elapsed()).max(SHORTEST_FLUSH))?
            && begun.elapsed() < FLUSH_DEADLINE
        {}
        self.figures.flush = Some(ms(begun.elapsed()));
        self.phase = Phase::Flushed;
        Ok(())
    }

    /// Tells whether another flush may find a better cut.
    fn flush_once(&mut self, deadline: Duration) -> Outcome<bool> {
        let (mut ends, mut clean, mut settled) = (Vec::new(), true, true);
        let (mut unacked, mut notsent, mut unread) = (0, 0, 0);
        // At level domain the others send on.
        let room = self.figures.level != Level::Domain;
        let flush = Verb::Flush { lease: LEASE, deadline, room };
        for (index, state) in self.all(&flush, deadline)?.into_iter().enumerate() {
            let Status::Flushed(flushed) = state.status else { return Err(self.refused(index, &state)) };
            settled &= flushed.clean;
            clean &= flushed.clean && flushed.left_out == 0;
            unacked += flushed.unacked;
            notsent += flushed.notsent;
            unread += flushed.unread;
            ends.extend(self.cut(index, flushed.chunks)?);
        }
        let audit = audit(&ends);
        self.figures.clean = Some(clean);
        self.figures.connections_agreed = Some(audit.agreed);
        self.figures.connections_disagreed = Some(audit.disagreed.len());
        self.figures.connections_one_ended = Some(audit.one_ended.len());
        (self.figures.unacked, self.figures.notsent, self.figures.unread) =
            (Some(unacked), Some(notsent), Some(unread));
        Ok(!settled || !audit.disagreed.is_empty())
    }

    fn cut(&self, index: usize, chunks: u32) -> Outcome<Vec<Connection>> {
        let member = &self.members[index];
        let mut hosts = self.hosts.lock();
        hosts[member.host].nodes.cut(member.domid, chunks).map_err(not)
    }

    /// The domain that moves stands still: its agent cannot answer until it runs again, and keeps no time meanwhile.
    pub fn suspended(&mut self) {
        self.members[0].away = true;
    }

    /// What the target writes into the domain's new tree before it lets it run: its agent then says that it is there.
    pub fn hold(&mut self) -> String {
        self.stamp = self.stamp.next();
        Command { stamp: self.stamp, verb: Verb::Hold { lease: HOLD_LEASE } }.to_string()
    }

    /// The domain runs on the target, which is the second of the hosts. Thaws the job when its agent says so, or when it
    /// has not said so in time. The error is a line for the user; the job runs in any case.
    pub fn arrived(&mut self, domid: u32) -> Outcome<()> {
        let told = self.await_arrival(domid);
        let thawed = self.thaw();
        told.and(thawed)
    }

    fn await_arrival(&mut self, domid: u32) -> Outcome<()> {
        let begun = Instant::now();
        let member = &mut self.members[0];
        (member.host, member.domid, member.away) = (1, domid, false);
        let (host, name) = (member.host, member.name.clone());
        let state = self.hosts.lock()[host].nodes.wait(domid, self.stamp, RESUME_PATIENCE).map_err(not)?;
        self.figures.resume = Some(ms(begun.elapsed()));
        match state.map(|state| state.status) {
            Some(Status::Resumed { frozen: true }) => Ok(()),
            Some(Status::Resumed { frozen: false }) => Err(not(format!("{name}: its ranks ran before the thaw"))),
            Some(other) => Err(not(format!("{name}: its agent said {other:?} after it moved"))),
            None => Err(not(format!("{name}: its agent said nothing in {} s", RESUME_PATIENCE.as_secs()))),
        }
    }

    /// Lets the job run, everywhere, and looks a moment later what was retransmitted.
    fn thaw(&mut self) -> Outcome<()> {
        self.keeper = None;
        let begun = Instant::now();
        let states = self.all(&Verb::Thaw { lease: LEASE }, SLACK)?;
        self.figures.thaw = Some(ms(begun.elapsed()));
        self.figures.application_pause = self.frozen_at.map(|at| ms(at.elapsed()));
        let mut problem = Ok(());
        for (index, state) in states.into_iter().enumerate() {
            match state.status {
                Status::Thawed(thawed) => {
                    *self.figures.retransmits.get_or_insert(0) += thawed.retransmits;
                    *self.figures.connections_lost.get_or_insert(0) += thawed.lost;
                }
                _ => problem = Err(self.refused(index, &state)),
            }
        }
        self.phase = Phase::Over;
        std::thread::sleep(AFTERMATH);
        for state in self.all(&Verb::Finish, SLACK)? {
            if let Status::Finished(finished) = state.status {
                *self.figures.retransmits_later.get_or_insert(0) += finished.retransmits;
            }
        }
        let thawed = self.figures.retransmits.unwrap_or(0);
        self.figures.retransmits_later = self.figures.retransmits_later.map(|all| all.saturating_sub(thawed));
        problem
    }

    /// Ends the epoch where it is: the ranks run, here and elsewhere. Agents that cannot be told do it by themselves.
    pub fn abort(&mut self) {
        if self.phase == Phase::Over {
            return;
        }
        self.keeper = None;
        self.phase = Phase::Over;
        if let Err(error) = self.all(&Verb::Abort, SLACK) {
            tracing::warn!("{error}: the ranks run on when their lease ends");
        }
        self.figures.application_pause = self.frozen_at.map(|at| ms(at.elapsed()));
    }

    /// What was measured.
    pub fn figures(&self) -> MpiPart {
        self.figures.clone()
    }

    /// One command to all domains but one that is away; then all answers, each no later than the deadline and some slack.
    fn all(&mut self, verb: &Verb, deadline: Duration) -> Outcome<Vec<State>> {
        self.stamp = self.stamp.next();
        let stamp = self.stamp;
        let present: Vec<_> = self.members.iter().filter(|member| !member.away).cloned().collect();
        let mut hosts = self.hosts.lock();
        for member in &present {
            let command = Command { stamp, verb: verb.clone() };
            hosts[member.host].nodes.command(member.domid, &command).map_err(not)?;
        }
        let until = Instant::now() + deadline + SLACK;
        let answer = |member: &Member| {
            let left = until.saturating_duration_since(Instant::now());
            let state = hosts[member.host].nodes.wait(member.domid, stamp, left).map_err(not)?;
            state.ok_or_else(|| {
                not(format!("the agent of {} did not answer in {} s", member.name, (deadline + SLACK).as_secs()))
            })
        };
        present.iter().map(answer).collect()
    }

    fn refused(&self, index: usize, state: &State) -> NotQuiesced {
        let name = &self.members[index].name;
        match &state.status {
            Status::Nack { reason, detail } => not(format!("the agent of {name} refused: {reason} ({detail})")),
            Status::Failed { reason, detail } => not(format!("the agent of {name} failed: {reason} ({detail})")),
            Status::Expired { .. } => {
                not(format!("the agent of {name} was not heard from in time and let its ranks run"))
            }
            other => not(format!("the agent of {name} said {other:?}")),
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Member {
    fn describe(&self, hosts: &[AgentHost]) -> MpiDomain {
        let host = hosts.get(self.host).map_or_else(String::new, |host| host.name.clone());
        MpiDomain { name: one_line(&self.name), host, ranks: self.ranks.clone() }
    }
}

/// A domain with an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    host: usize,
    domid: u32,
    name: String,
    /// Of its agent.
    protocol: u32,
}

fn check_agent(moving: Option<&Found>) -> Outcome<()> {
    match moving {
        None => Err(not("the domain has no agent: install rxl-guest-agent in it")),
        Some(found) if found.protocol != PROTOCOL_VERSION => {
            let theirs = found.protocol;
            Err(not(format!("the domain's agent speaks protocol {theirs}, this rxl {PROTOCOL_VERSION}")))
        }
        Some(_) => Ok(()),
    }
}

/// Domains with ranks of these jobs; at level domain the first one alone.
fn members(all: Vec<Found>, rows: &[Vec<JobRow>], jobs: &BTreeSet<String>, level: Level) -> Vec<Member> {
    let ranks = |rows: &Vec<JobRow>| -> Vec<u32> {
        let rows = rows.iter().filter(|row| jobs.contains(&row.id.to_string()));
        rows.flat_map(|row| &row.ranks).map(|rank| rank.number).collect()
    };
    let member = |(found, rows): (Found, &Vec<JobRow>)| {
        let Found { host, domid, name, .. } = found;
        Member { host, domid, name, ranks: ranks(rows), away: false }
    };
    let most = if level == Level::Domain { 1 } else { usize::MAX };
    all.into_iter().zip(rows).map(member).filter(|member| !member.ranks.is_empty()).take(most).collect()
}

fn guests(hosts: &mut [AgentHost]) -> Outcome<Vec<Found>> {
    let mut all = Vec::new();
    for (host, agents) in hosts.iter_mut().enumerate() {
        for guest in agents.nodes.guests().map_err(not)? {
            if let Some(info) = guest.agent_info() {
                all.push(Found { host, domid: guest.domid, name: guest.name, protocol: info.protocol });
            }
        }
    }
    Ok(all)
}

/// Epochs only grow. Another coordinator's that is under way is a reason not to begin.
fn epoch_after(hosts: &mut [AgentHost], all: &[Found]) -> Outcome<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis());
    let mut epoch = u64::try_from(now).unwrap_or(1);
    for found in all {
        let Some(state) = hosts[found.host].nodes.state(found.domid).map_err(not)? else { continue };
        let under_way = [
            matches!(state.status, Status::Ready(_) | Status::Frozen(_) | Status::Flushed(_)),
            matches!(state.status, Status::Resumed { .. } | Status::Thawed(_)),
        ];
        if under_way.contains(&true) {
            return Err(not(format!("{} is being quiesced by another migration", found.name)));
        }
        epoch = epoch.max(state.stamp.epoch.saturating_add(1));
    }
    Ok(epoch)
}

/// The ranks of each domain. An agent that does not answer has none.
fn surveyed(hosts: &mut [AgentHost], all: &[Found], stamp: Stamp) -> Outcome<Vec<Vec<JobRow>>> {
    for found in all {
        let command = Command { stamp, verb: Verb::Survey };
        hosts[found.host].nodes.command(found.domid, &command).map_err(not)?;
    }
    let until = Instant::now() + SURVEY_PATIENCE;
    let mut rows = Vec::new();
    for found in all {
        let nodes = &mut hosts[found.host].nodes;
        let left = until.saturating_duration_since(Instant::now());
        let state = nodes.wait(found.domid, stamp, left).map_err(not)?;
        rows.push(match state {
            Some(_) => nodes.jobs(found.domid).map_err(not)?,
            None => {
                tracing::warn!("{}: its agent does not answer", one_line(&found.name));
                Vec::new()
            }
        });
    }
    Ok(rows)
}

/// At level job all ranks must have been found, or the cut could not be known to be clean.
fn check_complete(figures: &MpiPart, members: &[Member], level: Level, jobs: usize) -> Outcome<()> {
    let found: BTreeSet<u32> = members.iter().flat_map(|member| member.ranks.iter().copied()).collect();
    if level == Level::Domain || jobs != 1 || found.len() >= figures.size as usize {
        return Ok(());
    }
    let (job, size) = (figures.jobs.join(", "), figures.size);
    Err(not(format!(
        "job {job} has {size} ranks, and {} of them were found: name all hosts in /etc/rxl/cluster.toml, and install \
         rxl-guest-agent in all their domains",
        found.len()
    )))
}

#[cfg(test)]
mod tests;
