//! The steps of one epoch, over all domains of a job. See [`crate`] for their order.

use rxl_core::deadlines;
use std::time::{Duration, Instant};

use crate::cluster::AgentHost;
use crate::everyone;
use crate::everyone::Each;
use crate::keeper::{Hosts, Keeper};
use crate::nodes::{Lock, Nodes};
use crate::survey::{Survey, survey};
use rxl_agent_protocol::{Command, Connection, Prepare, Stamp, State, Status, Token, Verb, audit};
use rxl_core::level::Level;
use rxl_core::text::one_line;
use rxl_core::units::ms;
use rxl_report::mpi::{Direction, MpiDomain, MpiPart};

/// The part of the least patience that may have passed at the agreement: the rest is for the target
/// to let the domain run, and for the network to find it.
const OUTAGE_SHARE: f64 = 2.0 / 3.0;

/// How long one look for that word keeps the hosts from the keeper.
const RESUME_GLANCE: Duration = Duration::from_secs(1);

/// The keeper's chance to have them.
const RESUME_PAUSE: Duration = Duration::from_millis(5);

/// Why a job is not being quiesced. Nothing is frozen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotQuiesced(pub String);

/// Why no job is held still.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// Another migration holds it, or is about to. To move without would disturb that one.
    #[error("{0}")]
    Busy(String),
    /// Another reason.
    #[error(transparent)]
    Not(#[from] NotQuiesced),
}

/// A domain of the first host that is to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mover {
    /// Its number there.
    pub domid: u32,
    /// Its target: an index into the hosts.
    pub to: usize,
}

/// A domain of the job.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) host: usize,
    pub(super) domid: u32,
    pub(super) name: String,
    pub(super) ranks: Vec<u32>,
    /// Where it is to move, if it is.
    pub(super) to: Option<usize>,
    /// It is suspended, on its way.
    pub(super) away: bool,
    /// Its target has said that it runs there.
    pub(super) arrived: Option<Instant>,
}

/// One epoch. Dropping it before its end thaws the job.
pub struct Coordinator {
    hosts: Hosts,
    members: Vec<Member>,
    stamp: Stamp,
    phase: Phase,
    frozen_at: Option<Instant>,
    suspended_at: Option<Instant>,
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

/// How another flush may find a better cut.
enum Better {
    Not,
    /// All has been acknowledged, but a domain was written down while another was still sending to
    /// it.
    ByLooking,
    /// So many bytes are in flight or to be sent, and something is sent again in this time.
    BySending {
        after: Duration,
        left: u64,
    },
}

pub(super) type Outcome<T> = Result<T, NotQuiesced>;

pub(super) fn not(line: impl Into<String>) -> NotQuiesced {
    NotQuiesced(one_line(&line.into()))
}

impl Coordinator {
    /// Finds the job of these domains of the first host, and all domains of it. None when no rank
    /// runs in them. From here on a domain that moves is known by its place among them.
    ///
    /// Until it is dropped no other coordinator commands their agents.
    pub fn survey(
        hosts: Vec<AgentHost>,
        movers: &[Mover],
        level: Level,
    ) -> Result<Option<Self>, NotFound> {
        let Some(Survey { hosts, members, stamp, job, mut figures }) =
            survey(hosts, movers, level)?
        else {
            return Ok(None);
        };
        figures.domains = members.iter().map(|member| member.describe(&hosts)).collect();
        if movers.len() > 1 {
            figures.gang =
                members.iter().filter(|member| member.to.is_some()).map(Member::shown).collect();
        }
        let (hosts, phase) = (Hosts::new(hosts), Phase::Surveyed);
        let keeper = Keeper::start(hosts.clone(), stamp.epoch)
            .map_err(|error| not(format!("leases: {error}")))?;
        let keeper = Some(keeper);
        Ok(Some(Self {
            hosts,
            members,
            stamp,
            phase,
            frozen_at: None,
            suspended_at: None,
            keeper,
            job,
            figures,
        }))
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
        let (lease, pause, job) = (
            deadlines::PREPARE_ANSWER + deadlines::LEASE,
            deadlines::ANNOUNCED_PAUSE,
            self.job.clone(),
        );
        let prepare = Verb::Prepare(Prepare { lease, deadline: deadlines::PREPARE, pause, job });
        for (index, status) in self.all(&prepare, deadlines::PREPARE_ANSWER)? {
            let Status::Ready(ready) = status else { return Err(self.refused(index, &status)) };
            self.figures.processes += ready.processes;
            self.figures.connections += ready.connections;
            let patience = ready.patience.map(ms);
            self.figures.patience =
                [self.figures.patience, patience].into_iter().flatten().reduce(f64::min);
        }
        self.figures.prepare = Some(ms(begun.elapsed()));
        let begun = Instant::now();
        self.frozen_at = Some(begun);
        let freeze = Verb::Freeze { lease: deadlines::LEASE, deadline: deadlines::FREEZE };
        for (index, status) in self.all(&freeze, deadlines::FREEZE)? {
            let Status::Frozen(frozen) = status else { return Err(self.refused(index, &status)) };
            keep_longest(&mut self.figures.freeze_in_guest, frozen.took);
        }
        self.figures.freeze = Some(ms(begun.elapsed()));
        self.phase = Phase::Frozen;
        if let Some(keeper) = &self.keeper {
            keeper
                .places()
                .are(self.members.iter().map(|member| (member.host, member.domid)).collect());
        }
        self.begin_flush()
    }

    /// Has agents begin while what moves makes its last live iteration. Their answers are not
    /// waited for: what counts is the cut that [`Self::flush`] finds, but what has to be sent again
    /// until then has had the time of that iteration.
    fn begin_flush(&mut self) -> Outcome<()> {
        let flush = self.flush_within(deadlines::SHORTEST_FLUSH);
        let command = self.next(&flush);
        everyone::tell(&self.hosts, &self.members, &command)
    }

    fn flush_within(&self, deadline: Duration) -> Verb {
        // At level domain the others send on.
        Verb::Flush { lease: deadlines::LEASE, deadline, room: self.figures.level != Level::Domain }
    }

    /// Waits until nothing of the job is on the wire, and looks whether both ends of every
    /// connection say so. A cut that is not clean is written down, and no reason to stop: TCP
    /// carries what is left over.
    pub fn flush(&mut self) -> Outcome<()> {
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
                        until = until.max(
                            (Instant::now() + deadlines::FLUSH_STEP)
                                .min(begun + deadlines::LONGEST_FLUSH),
                        );
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

    fn flush_once(&mut self, deadline: Duration) -> Outcome<Better> {
        let (mut ends, mut clean, mut settled) = (Vec::new(), true, true);
        let (mut unacked, mut notsent, mut unread, mut resend) = (0, 0, 0, None);
        let flush = self.flush_within(deadline);
        for (index, (status, cut)) in self.all_with(&flush, deadline, with_cut)? {
            let Status::Flushed(flushed) = status else { return Err(self.refused(index, &status)) };
            settled &= flushed.clean;
            clean &= flushed.clean && flushed.left_out == 0;
            unacked += flushed.unacked;
            notsent += flushed.notsent;
            unread += flushed.unread;
            resend = resend.max(flushed.resend);
            ends.extend(cut);
        }
        let audit = audit(&ends);
        self.figures.clean = Some(clean);
        self.figures.connections_agreed = Some(audit.agreed);
        self.figures.connections_disagreed = Some(audit.disagreed.len());
        self.figures.connections_one_ended = Some(audit.one_ended.len());
        (self.figures.unacked, self.figures.notsent, self.figures.unread) =
            (Some(unacked), Some(notsent), Some(unread));
        self.figures.resend = resend.map(ms);
        self.figures.cut = Direction::all(&ends);
        Ok(match (settled, audit.disagreed.is_empty()) {
            (false, _) => {
                Better::BySending { after: resend.unwrap_or_default(), left: unacked + notsent }
            }
            (true, false) => Better::ByLooking,
            (true, true) => Better::Not,
        })
    }

    /// A domain that moves stands still: its agent cannot answer until it runs again, and keeps no
    /// time meanwhile.
    pub fn suspended(&mut self, mover: usize) {
        self.members[mover].away = true;
        self.suspended_at.get_or_insert_with(Instant::now);
    }

    /// Before a domain is let go to its target: whether the job's connections will still be there
    /// when it runs. They last while ranks are frozen, as kernels answer for them; a domain that is
    /// suspended answers nobody.
    pub fn check_outage(&self) -> Outcome<()> {
        let (Some(at), Some(patience)) = (self.suspended_at, self.figures.patience) else {
            return Ok(());
        };
        let away = ms(at.elapsed());
        if away <= patience * OUTAGE_SHARE {
            return Ok(());
        }
        let (away, patience) = (away / 1e3, patience / 1e3);
        Err(not(format!(
            "the domain has stood still for {away:.1} s, and a connection of its job gives up \
             after {patience:.0} s"
        )))
    }

    /// What the targets write into the domains' new trees before they let them run: their agents
    /// then say that they are there.
    pub fn hold(&mut self) -> String {
        self.next(&Verb::Hold { lease: deadlines::HOLD_LEASE }).to_string()
    }

    /// A domain runs on its target, under this number.
    pub fn arrived(&mut self, mover: usize, domid: u32) {
        let member = &mut self.members[mover];
        let left = (member.host, member.domid);
        (member.host, member.domid) = (member.to.unwrap_or(member.host), domid);
        (member.away, member.arrived) = (false, Some(Instant::now()));
        let is_now = (member.host, member.domid);
        // Another's survey of the moment before may have it, and gives it back.
        let _ = self.hosts.lock()[is_now.0].nodes.lock(Lock::Agent(domid));
        if let Some(keeper) = &self.keeper {
            keeper.places().moved(left, is_now);
        }
    }

    /// A domain that was to move runs where it was. Where the job has been let go already, its
    /// ranks are now.
    pub fn returned(&mut self, mover: usize) {
        if !std::mem::take(&mut self.members[mover].away) || self.phase != Phase::Over {
            return;
        }
        let command = self.next(&Verb::Abort);
        let Member { host, domid, name, .. } = &self.members[mover];
        // Its devices are still coming back; the agent finds this when it runs.
        if let Err(error) = self.hosts.lock()[*host].nodes.command(*domid, &command) {
            tracing::warn!("{name}: {error}: its ranks run on when their lease ends");
        }
    }

    /// Nothing more will come: thaws the job when the agents of all domains that have arrived say
    /// that they are there, or have not said so in time. The error is a line for the user; the job
    /// runs in any case.
    pub fn settle(&mut self) -> Outcome<()> {
        let arrived: Vec<_> =
            self.members.iter().filter(|member| member.arrived.is_some()).cloned().collect();
        let until = Instant::now() + deadlines::RESUME;
        let told = arrived
            .iter()
            .map(|member| self.await_resumed(member, until))
            .fold(Ok(()), Outcome::and);
        if told.is_ok() {
            let until = Instant::now() + deadlines::NETWORK;
            arrived.iter().for_each(|member| self.await_network(member, until));
        }
        let thawed = self.thaw();
        told.and(thawed)
    }

    fn await_resumed(&mut self, member: &Member, until: Instant) -> Outcome<()> {
        let begun = member.arrived.unwrap_or_else(Instant::now);
        let (domid, stamp) = (member.domid, self.stamp);
        let state =
            self.in_glances(member, until, |nodes, glance| nodes.wait(domid, stamp, glance));
        let state = state.map_err(not)?;
        keep_longest(&mut self.figures.resume, begun.elapsed());
        let name = &member.name;
        match state.map(|state| state.status) {
            Some(Status::Resumed { frozen: true }) => Ok(()),
            Some(Status::Resumed { frozen: false }) => {
                Err(not(format!("{name}: its ranks ran before the thaw")))
            }
            Some(other) => Err(not(format!("{name}: its agent said {other:?} after it moved"))),
            None => Err(not(format!(
                "{name}: its agent said nothing in {} s",
                deadlines::RESUME.as_secs()
            ))),
        }
    }

    /// What ranks send before is lost, and their kernels' timers double.
    fn await_network(&mut self, member: &Member, until: Instant) {
        let domid = member.domid;
        let reached = self.in_glances(member, until, |nodes, glance| {
            nodes.reachable(domid, glance).map(|reachable| reachable.then_some(()))
        });
        match reached {
            Ok(Some(())) => {
                let took = member.arrived.map_or_else(Duration::default, |at| at.elapsed());
                keep_longest(&mut self.figures.network, took);
            }
            Ok(None) => {
                tracing::warn!("{}: its new host's network does not forward to it yet", member.name)
            }
            Err(error) => tracing::warn!("{}: {error}", member.name),
        }
    }

    /// Waits for something at a domain's host; none when it has not come by then. In glances, as
    /// the leases of the others are to be renewed meanwhile.
    fn in_glances<T>(
        &self,
        member: &Member,
        until: Instant,
        look: impl Fn(&mut dyn Nodes, Duration) -> Result<Option<T>, String>,
    ) -> Result<Option<T>, String> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let glance = RESUME_GLANCE.min(left);
            let found = look(&mut *self.hosts.lock()[member.host].nodes, glance)?;
            if found.is_some() || left <= glance {
                return Ok(found);
            }
            std::thread::sleep(RESUME_PAUSE);
        }
    }

    /// Lets the job run, everywhere, and looks a moment later what was retransmitted.
    fn thaw(&mut self) -> Outcome<()> {
        self.keeper = None;
        let begun = Instant::now();
        let states = self.all(&Verb::Thaw { lease: deadlines::LEASE }, deadlines::AGENT_SLACK)?;
        self.figures.thaw = Some(ms(begun.elapsed()));
        self.figures.application_pause = self.frozen_at.map(|at| ms(at.elapsed()));
        let mut problem = Ok(());
        for (index, status) in states {
            match status {
                Status::Thawed(thawed) => {
                    *self.figures.retransmits.get_or_insert(0) += thawed.retransmits;
                    *self.figures.connections_lost.get_or_insert(0) += thawed.lost;
                }
                status => problem = Err(self.refused(index, &status)),
            }
        }
        self.phase = Phase::Over;
        std::thread::sleep(deadlines::AFTERMATH);
        for (_, status) in self.all(&Verb::Finish, deadlines::AGENT_SLACK)? {
            if let Status::Finished(finished) = status {
                *self.figures.retransmits_later.get_or_insert(0) += finished.retransmits;
            }
        }
        let thawed = self.figures.retransmits.unwrap_or(0);
        self.figures.retransmits_later =
            self.figures.retransmits_later.map(|all| all.saturating_sub(thawed));
        problem
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

    /// What was measured.
    pub fn figures(&self) -> MpiPart {
        self.figures.clone()
    }

    /// All domains' answers but of those that are away, each no later than the deadline and some
    /// slack.
    fn all(&mut self, verb: &Verb, deadline: Duration) -> Outcome<Each<Status>> {
        self.all_with(verb, deadline, |_, _, status| Ok(status))
    }

    /// The same, with what `take` fetches for each.
    fn all_with<T: Send>(
        &mut self,
        verb: &Verb,
        deadline: Duration,
        take: impl Fn(&mut dyn Nodes, u32, Status) -> Result<T, String> + Sync,
    ) -> Outcome<Each<T>> {
        let command = self.next(verb);
        let take = |nodes: &mut dyn Nodes, member: &Member, state: State| {
            take(nodes, member.domid, state.status)
        };
        everyone::ask(&self.hosts, &self.members, &command, deadline + deadlines::AGENT_SLACK, take)
    }

    fn next(&mut self, verb: &Verb) -> Command {
        self.stamp = self.stamp.next();
        Command { stamp: self.stamp, verb: verb.clone() }
    }

    fn refused(&self, index: usize, status: &Status) -> NotQuiesced {
        let name = &self.members[index].name;
        match status {
            Status::Nack { reason, detail } => {
                not(format!("the agent of {name} refused: {reason} ({detail})"))
            }
            Status::Failed { reason, detail } => {
                not(format!("the agent of {name} failed: {reason} ({detail})"))
            }
            Status::Expired { .. } => {
                not(format!("the agent of {name} was not heard from in time and let its ranks run"))
            }
            other => not(format!("the agent of {name} said {other:?}")),
        }
    }
}

/// An answer to a flush, with the connections that it announces.
fn with_cut(
    nodes: &mut dyn Nodes,
    domid: u32,
    status: Status,
) -> Result<(Status, Vec<Connection>), String> {
    let cut = match &status {
        Status::Flushed(flushed) => nodes.cut(domid, flushed.chunks)?,
        _ => Vec::new(),
    };
    Ok((status, cut))
}

/// Of several domains the longest counts.
fn keep_longest(figure: &mut Option<f64>, took: Duration) {
    let took = ms(took);
    *figure = Some(figure.map_or(took, |longest| longest.max(took)));
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Member {
    fn shown(&self) -> String {
        one_line(&self.name)
    }

    fn describe(&self, hosts: &[AgentHost]) -> MpiDomain {
        let host = hosts.get(self.host).map_or_else(String::new, |host| host.name.clone());
        MpiDomain { name: self.shown(), host, ranks: self.ranks.clone() }
    }
}
