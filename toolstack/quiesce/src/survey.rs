//! Before an epoch: who has ranks of the job, and whether all of them were found.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use crate::error::{AgentsError, JobBusy, NotFound, NotQuiesced};
use crate::everyone::at_hosts;
use crate::host::AgentHost;
use crate::members::{JobMember, Mover};
use crate::nodes::Lock;
use rxl_agent_protocol::{Command, JobRow, PROTOCOL_VERSION, Stamp, Status, Token, Verb};
use rxl_core::deadlines;
use rxl_core::level::Level;
use rxl_core::text::one_line;
use rxl_report::mpi::MpiPart;

/// Pause between two looks whether another's survey of a host is over.
const TURN_PAUSE: Duration = Duration::from_millis(100);

/// The domains of a job.
pub(crate) struct Survey {
    /// The domains that move come first, in their order.
    pub(crate) members: Vec<JobMember>,
    pub(crate) stamp: Stamp,
    /// The launcher's name for the job, where there is one job alone.
    pub(crate) job: Option<Token>,
    pub(crate) figures: MpiPart,
}

/// A domain with an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    host: usize,
    domid: u32,
    /// Its name, fit for one line.
    name: String,
    /// The agent's protocol.
    protocol: u32,
    /// The ranks that its agent has found, of all jobs.
    rows: Vec<JobRow>,
}

impl Found {
    fn jobs(&self) -> BTreeSet<String> {
        self.rows.iter().map(|row| row.id.to_string()).collect()
    }

    fn place(&self) -> Option<usize> {
        Some(self.host)
    }
}

/// What [`crate::coordinator::Coordinator::survey`] does, on the runtime.
///
/// An agent obeys whoever has the latest epoch, and a survey is a command. So surveys that concern
/// a host come one after the other, and leave those agents alone that another coordinator holds: it
/// may be about to freeze them.
pub(crate) async fn survey(
    hosts: &[AgentHost],
    movers: &[Mover],
    level: Level,
) -> Result<Option<Survey>, NotFound> {
    let turn = await_turn(hosts).await?;
    let (mut mine, others) = claim(hosts, movers).await?;
    let stamp = Stamp { epoch: epoch_after(hosts, &mine).await?, sequence: 1 };
    find_ranks(hosts, &mut mine, stamp).await?;
    let moving = mine.get(..movers.len()).unwrap_or(&mine);
    let Some(first) = moving.iter().flat_map(|found| &found.rows).next() else { return Ok(None) };
    let jobs = shared_jobs(moving)?;
    let job = (jobs.len() == 1).then(|| first.id.clone());
    let names = jobs.iter().cloned().collect();
    let figures = MpiPart::new(level, stamp.epoch, names, first.launcher.to_string(), first.size);
    if level != Level::Domain {
        check_held(hosts, &others, &jobs).await?;
    }
    let claimed: Vec<_> = mine.iter().map(|found| (found.host, found.domid)).collect();
    let members = members(mine, &jobs, level, movers);
    check_complete(&figures, &members, level, jobs.len())?;
    let is_member =
        |claim: &(usize, u32)| members.iter().any(|member| (member.host, member.domid) == *claim);
    let unused = claimed.into_iter().filter(|claim| !is_member(claim));
    let mut unused: Vec<_> = unused.map(|(host, domid)| (host, Lock::Agent(domid))).collect();
    unused.extend(turn.into_iter().map(|host| (host, Lock::Survey)));
    give_back(hosts, &unused).await?;
    Ok(Some(Survey { members, stamp, job, figures }))
}

/// Waits until no other survey concerns any of these hosts. All wait in the order of the hosts'
/// names, so that none waits for one that waits for it.
async fn await_turn(hosts: &[AgentHost]) -> Result<Vec<usize>, NotFound> {
    let mut order: Vec<_> = hosts.iter().enumerate().collect();
    order.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    let until = Instant::now() + deadlines::SURVEY_TURN;
    for (_, host) in &order {
        while !host.lock(Lock::Survey).await? {
            if Instant::now() >= until {
                return Err(JobBusy::Survey(host.name.clone()).into());
            }
            sleep(TURN_PAUSE).await;
        }
    }
    Ok(order.into_iter().map(|(index, _)| index).collect())
}

/// All domains with agents: those that are this coordinator's now, the movers first, and those that
/// are another's.
async fn claim(
    hosts: &[AgentHost],
    movers: &[Mover],
) -> Result<(Vec<Found>, Vec<Found>), NotFound> {
    let mut all = with_agents(hosts).await?;
    let place = |found: &Found| {
        movers.iter().position(|mover| (found.host, found.domid) == (0, mover.domid))
    };
    all.sort_by_key(|found| place(found).unwrap_or(movers.len()));
    for (index, mover) in movers.iter().enumerate() {
        check_agent(all.get(index).filter(|found| place(found) == Some(index)), mover)?;
    }
    let claimed = at_hosts(hosts, &all, Found::place, claim_at).await?;
    let (mut mine, mut others) = (Vec::new(), Vec::new());
    for (found, (_, is_mine)) in all.into_iter().zip(claimed) {
        match (is_mine, place(&found)) {
            (true, _) => mine.push(found),
            (false, None) => others.push(found),
            (false, Some(_)) => return Err(JobBusy::Held(found.name).into()),
        }
    }
    Ok((mine, others))
}

/// One host's part of the claim: whether each domain's agent is this coordinator's now.
async fn claim_at(host: &AgentHost, here: &[&Found]) -> Result<Vec<bool>, AgentsError> {
    let mut claimed = Vec::new();
    for found in here {
        let is_locked = host.lock(Lock::Agent(found.domid)).await?;
        let state = if is_locked { host.state(found.domid).await? } else { None };
        claimed.push(is_locked && !state.is_some_and(|state| is_under_way(&state.status)));
    }
    Ok(claimed)
}

/// An epoch that nobody has ended, be it that its coordinator is dead: the lease ends it.
fn is_under_way(status: &Status) -> bool {
    let held = matches!(status, Status::Ready(_) | Status::Frozen(_) | Status::Flushed(_));
    held || matches!(status, Status::Resumed { .. } | Status::Thawed(_))
}

async fn give_back(hosts: &[AgentHost], locks: &[(usize, Lock)]) -> Result<(), AgentsError> {
    let unlock = async |host: &AgentHost, here: &[&(usize, Lock)]| {
        for (_, lock) in here {
            host.unlock(*lock).await?;
        }
        Ok(here.iter().map(|_| ()).collect())
    };
    at_hosts(hosts, locks, |(host, _)| Some(*host), unlock).await.map(drop)
}

/// What others hold must have no rank of these jobs, by what was last found in it.
async fn check_held(
    hosts: &[AgentHost],
    others: &[Found],
    jobs: &BTreeSet<String>,
) -> Result<(), NotFound> {
    for (index, rows) in at_hosts(hosts, others, Found::place, rows_at).await? {
        let is_held = rows.iter().any(|row| jobs.contains(&row.id.to_string()));
        if let Some(found) = others.get(index).filter(|_| is_held) {
            return Err(JobBusy::Held(found.name.clone()).into());
        }
    }
    Ok(())
}

async fn rows_at(host: &AgentHost, here: &[&Found]) -> Result<Vec<Vec<JobRow>>, AgentsError> {
    let mut rows = Vec::new();
    for found in here {
        rows.push(host.jobs(found.domid).await?);
    }
    Ok(rows)
}

fn check_agent(moving: Option<&Found>, mover: &Mover) -> Result<(), NotQuiesced> {
    match moving {
        None => Err(NotQuiesced::NoAgent(mover.domid)),
        Some(Found { name, protocol, .. }) if *protocol != PROTOCOL_VERSION => {
            Err(NotQuiesced::OtherProtocol { name: name.clone(), theirs: *protocol })
        }
        Some(_) => Ok(()),
    }
}

/// The jobs of the domains that move. One epoch holds one job still, or all those of a single
/// domain.
fn shared_jobs(moving: &[Found]) -> Result<BTreeSet<String>, NotQuiesced> {
    let Some(first) = moving.first() else { return Ok(BTreeSet::new()) };
    let jobs = first.jobs();
    match moving.iter().find(|found| found.jobs() != jobs) {
        Some(other) => Err(NotQuiesced::DifferentJobs(first.name.clone(), other.name.clone())),
        None => Ok(jobs),
    }
}

/// Domains with ranks of these jobs; at level domain those that move alone.
fn members(
    all: Vec<Found>,
    jobs: &BTreeSet<String>,
    level: Level,
    movers: &[Mover],
) -> Vec<JobMember> {
    let ranks = |rows: &[JobRow]| -> Vec<u32> {
        let rows = rows.iter().filter(|row| jobs.contains(&row.id.to_string()));
        rows.flat_map(|row| &row.ranks).map(|rank| rank.number).collect()
    };
    let member = |(index, found): (usize, Found)| {
        let Found { host, domid, name, rows, .. } = found;
        let to = movers.get(index).map(|mover| mover.to);
        JobMember { host, domid, name, ranks: ranks(&rows), to, away: false, arrived: None }
    };
    let most = if level == Level::Domain { movers.len() } else { usize::MAX };
    let members = all.into_iter().enumerate().map(member);
    members.filter(|member| member.to.is_some() || !member.ranks.is_empty()).take(most).collect()
}

async fn with_agents(hosts: &[AgentHost]) -> Result<Vec<Found>, AgentsError> {
    let indices: Vec<usize> = (0..hosts.len()).collect();
    let guests =
        async |host: &AgentHost, _: &[&usize]| Ok::<_, AgentsError>(vec![host.guests().await?]);
    let mut all = Vec::new();
    for (host, guests) in at_hosts(hosts, &indices, |index| Some(*index), guests).await? {
        for guest in guests {
            if let Some(info) = guest.agent_info() {
                let (domid, name) = (guest.domid, one_line(&guest.name));
                all.push(Found { host, domid, name, protocol: info.protocol, rows: Vec::new() });
            }
        }
    }
    Ok(all)
}

/// An epoch that is later than any before it on hosts whose clocks agree: milliseconds since 1970.
pub fn epoch_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis());
    u64::try_from(now).unwrap_or(1)
}

/// Epochs only grow.
async fn epoch_after(hosts: &[AgentHost], all: &[Found]) -> Result<u64, AgentsError> {
    let epochs = async |host: &AgentHost, here: &[&Found]| {
        let mut epochs = Vec::new();
        for found in here {
            let state = host.state(found.domid).await?;
            epochs.push(state.map_or(0, |state| state.stamp.epoch.saturating_add(1)));
        }
        Ok::<_, AgentsError>(epochs)
    };
    let later = at_hosts(hosts, all, Found::place, epochs).await?;
    Ok(later.into_iter().map(|(_, epoch)| epoch).fold(epoch_now(), u64::max))
}

/// Asks agents for their ranks. An agent that does not answer has none.
async fn find_ranks(
    hosts: &[AgentHost],
    all: &mut [Found],
    stamp: Stamp,
) -> Result<(), AgentsError> {
    let command = Command { stamp, verb: Verb::Survey };
    let ask = async |host: &AgentHost, here: &[&Found]| {
        let domids = here.iter().map(|found| found.domid).collect();
        let answers = host.obey(domids, &command, deadlines::SURVEY).await?;
        let mut rows = Vec::new();
        for (found, answer) in here.iter().zip(answers) {
            if answer.is_none() {
                tracing::warn!("{}: its agent does not answer", found.name);
            }
            rows.push(if answer.is_some() { host.jobs(found.domid).await? } else { Vec::new() });
        }
        Ok::<_, AgentsError>(rows)
    };
    let rows = at_hosts(hosts, all, Found::place, ask).await?;
    for (found, (_, rows)) in all.iter_mut().zip(rows) {
        found.rows = rows;
    }
    Ok(())
}

/// At level job all ranks must have been found, or the cut could not be known to be clean.
fn check_complete(
    figures: &MpiPart,
    members: &[JobMember],
    level: Level,
    jobs: usize,
) -> Result<(), NotQuiesced> {
    let found: BTreeSet<u32> =
        members.iter().flat_map(|member| member.ranks.iter().copied()).collect();
    let (found, size) = (found.len(), figures.size);
    let is_complete = u32::try_from(found).is_ok_and(|found| found >= size);
    if level == Level::Domain || jobs != 1 || is_complete {
        return Ok(());
    }
    Err(NotQuiesced::RanksMissing { job: figures.jobs.join(", "), size, found })
}
