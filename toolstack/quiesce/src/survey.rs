//! Before an epoch: who has ranks of the job, and whether all of them were found.

use rxl_core::deadlines;
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::cluster::AgentHost;
use crate::coordinator::{Member, Mover, NotFound, Outcome, not};
use crate::nodes::Lock;
use rxl_agent_protocol::{Command, JobRow, PROTOCOL_VERSION, Stamp, Status, Token, Verb};
use rxl_core::level::Level;
use rxl_core::text::one_line;
use rxl_report::mpi::MpiPart;

const TURN_PAUSE: Duration = Duration::from_millis(100);

/// What was found.
pub(super) struct Survey {
    pub(super) hosts: Vec<AgentHost>,
    /// The domains that move come first, in their order.
    pub(super) members: Vec<Member>,
    pub(super) stamp: Stamp,
    /// The launcher's name for the job, where there is one job alone.
    pub(super) job: Option<Token>,
    pub(super) figures: MpiPart,
}

/// See [`super::coordinator::Coordinator::survey`].
///
/// An agent obeys whoever has the latest epoch, and a survey is a command. So surveys that concern
/// a host come one after the other, and leave those agents alone that another coordinator holds: it
/// may be about to freeze them.
pub(super) fn survey(
    mut hosts: Vec<AgentHost>,
    movers: &[Mover],
    level: Level,
) -> Result<Option<Survey>, NotFound> {
    let turn = await_turn(&mut hosts)?;
    let (mine, others) = claim(&mut hosts, movers)?;
    let stamp = Stamp { epoch: epoch_after(&mut hosts, &mine)?, sequence: 1 };
    let rows = surveyed(&mut hosts, &mine, stamp)?;
    let Some(first) = rows[..movers.len()].iter().flatten().next() else { return Ok(None) };
    let jobs = shared_jobs(&mine, &rows[..movers.len()])?;
    let job = (jobs.len() == 1).then(|| first.id.clone());
    let names = jobs.iter().cloned().collect();
    let figures = MpiPart::new(level, stamp.epoch, names, first.launcher.to_string(), first.size);
    if level != Level::Domain {
        check_held(&mut hosts, &others, &jobs)?;
    }
    let claimed: Vec<_> = mine.iter().map(|found| (found.host, found.domid)).collect();
    let members = members(mine, &rows, &jobs, level, movers);
    check_complete(&figures, &members, level, jobs.len())?;
    let is_member =
        |claim: &(usize, u32)| members.iter().any(|member| (member.host, member.domid) == *claim);
    let released = claimed
        .into_iter()
        .filter(|claim| !is_member(claim))
        .map(|(host, domid)| (host, Lock::Agent(domid)));
    for (host, lock) in released.chain(turn.into_iter().map(|host| (host, Lock::Survey))) {
        hosts[host].nodes.unlock(lock).map_err(not)?;
    }
    Ok(Some(Survey { hosts, members, stamp, job, figures }))
}

/// Waits until no other survey concerns any of these hosts. All wait in the order of the hosts'
/// names, so that none waits for one that waits for it.
fn await_turn(hosts: &mut [AgentHost]) -> Result<Vec<usize>, NotFound> {
    let mut order: Vec<usize> = (0..hosts.len()).collect();
    order.sort_by(|a, b| hosts[*a].name.cmp(&hosts[*b].name));
    let until = Instant::now() + deadlines::SURVEY_TURN;
    for host in &order {
        while !hosts[*host].nodes.lock(Lock::Survey).map_err(not)? {
            if Instant::now() >= until {
                let name = &hosts[*host].name;
                return Err(NotFound::Busy(format!(
                    "another migration has been looking for its job on {name} for too long"
                )));
            }
            std::thread::sleep(TURN_PAUSE);
        }
    }
    Ok(order)
}

/// All domains with agents: those that are this coordinator's now, the movers first, and those that
/// are another's.
fn claim(hosts: &mut [AgentHost], movers: &[Mover]) -> Result<(Vec<Found>, Vec<Found>), NotFound> {
    let mut all = guests(hosts)?;
    let place = |found: &Found| {
        movers.iter().position(|mover| (found.host, found.domid) == (0, mover.domid))
    };
    all.sort_by_key(|found| place(found).unwrap_or(movers.len()));
    for (index, mover) in movers.iter().enumerate() {
        check_agent(all.get(index).filter(|found| place(found) == Some(index)), mover)?;
    }
    let (mut mine, mut others) = (Vec::new(), Vec::new());
    for found in all {
        let nodes = &mut hosts[found.host].nodes;
        let is_mine = nodes.lock(Lock::Agent(found.domid)).map_err(not)?
            && !nodes
                .state(found.domid)
                .map_err(not)?
                .is_some_and(|state| is_under_way(&state.status));
        match (is_mine, place(&found)) {
            (true, _) => mine.push(found),
            (false, None) => others.push(found),
            (false, Some(_)) => return Err(busy(&found.name)),
        }
    }
    Ok((mine, others))
}

/// An epoch that nobody has ended, be it that its coordinator is dead: the lease ends it.
fn is_under_way(status: &Status) -> bool {
    let held = matches!(status, Status::Ready(_) | Status::Frozen(_) | Status::Flushed(_));
    held || matches!(status, Status::Resumed { .. } | Status::Thawed(_))
}

fn busy(name: &str) -> NotFound {
    NotFound::Busy(format!("{} is being quiesced by another migration", one_line(name)))
}

/// What others hold must have no rank of these jobs, by what was last found in it.
fn check_held(
    hosts: &mut [AgentHost],
    others: &[Found],
    jobs: &BTreeSet<String>,
) -> Result<(), NotFound> {
    for found in others {
        let rows = hosts[found.host].nodes.jobs(found.domid).map_err(not)?;
        if rows.iter().any(|row| jobs.contains(&row.id.to_string())) {
            return Err(busy(&found.name));
        }
    }
    Ok(())
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

fn check_agent(moving: Option<&Found>, mover: &Mover) -> Outcome<()> {
    match moving {
        None => {
            Err(not(format!("domain {} has no agent: install rxl-guest-agent in it", mover.domid)))
        }
        Some(found) if found.protocol != PROTOCOL_VERSION => {
            let (name, theirs) = (&found.name, found.protocol);
            Err(not(format!(
                "the agent of {name} speaks protocol {theirs}, this rxl {PROTOCOL_VERSION}"
            )))
        }
        Some(_) => Ok(()),
    }
}

/// The jobs of the domains that move. One epoch holds one job still, or all those of a single
/// domain.
fn shared_jobs(all: &[Found], rows: &[Vec<JobRow>]) -> Outcome<BTreeSet<String>> {
    let of =
        |rows: &Vec<JobRow>| rows.iter().map(|row| row.id.to_string()).collect::<BTreeSet<_>>();
    let jobs = rows.first().map(of).unwrap_or_default();
    match rows.iter().zip(all).find(|(rows, _)| of(rows) != jobs) {
        Some((_, other)) => {
            Err(not(format!("{} and {} do not belong to the same job", all[0].name, other.name)))
        }
        None => Ok(jobs),
    }
}

/// Domains with ranks of these jobs; at level domain those that move alone.
fn members(
    all: Vec<Found>,
    rows: &[Vec<JobRow>],
    jobs: &BTreeSet<String>,
    level: Level,
    movers: &[Mover],
) -> Vec<Member> {
    let ranks = |rows: &Vec<JobRow>| -> Vec<u32> {
        let rows = rows.iter().filter(|row| jobs.contains(&row.id.to_string()));
        rows.flat_map(|row| &row.ranks).map(|rank| rank.number).collect()
    };
    let member = |(index, (found, rows)): (usize, (Found, &Vec<JobRow>))| {
        let Found { host, domid, name, .. } = found;
        let to = movers.get(index).map(|mover| mover.to);
        Member { host, domid, name, ranks: ranks(rows), to, away: false, arrived: None }
    };
    let most = if level == Level::Domain { movers.len() } else { usize::MAX };
    let members = all.into_iter().zip(rows).enumerate().map(member);
    members.filter(|member| member.to.is_some() || !member.ranks.is_empty()).take(most).collect()
}

fn guests(hosts: &mut [AgentHost]) -> Outcome<Vec<Found>> {
    let mut all = Vec::new();
    for (host, agents) in hosts.iter_mut().enumerate() {
        for guest in agents.nodes.guests().map_err(not)? {
            if let Some(info) = guest.agent_info() {
                all.push(Found {
                    host,
                    domid: guest.domid,
                    name: guest.name,
                    protocol: info.protocol,
                });
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
fn epoch_after(hosts: &mut [AgentHost], all: &[Found]) -> Outcome<u64> {
    let mut epoch = epoch_now();
    for found in all {
        if let Some(state) = hosts[found.host].nodes.state(found.domid).map_err(not)? {
            epoch = epoch.max(state.stamp.epoch.saturating_add(1));
        }
    }
    Ok(epoch)
}

/// The ranks of each domain. An agent that does not answer has none.
fn surveyed(hosts: &mut [AgentHost], all: &[Found], stamp: Stamp) -> Outcome<Vec<Vec<JobRow>>> {
    for found in all {
        let command = Command { stamp, verb: Verb::Survey };
        hosts[found.host].nodes.command(found.domid, &command).map_err(not)?;
    }
    let until = Instant::now() + deadlines::SURVEY;
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
    let found: BTreeSet<u32> =
        members.iter().flat_map(|member| member.ranks.iter().copied()).collect();
    if level == Level::Domain || jobs != 1 || found.len() >= figures.size as usize {
        return Ok(());
    }
    let (job, size) = (figures.jobs.join(", "), figures.size);
    Err(not(format!(
        "job {job} has {size} ranks, and {} of them were found: name all hosts in \
         /etc/rxl/cluster.toml, and install rxl-guest-agent in all their domains",
        found.len()
    )))
}
