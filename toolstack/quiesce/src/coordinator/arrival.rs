//! The part of an epoch in which domains are away, arrive or come back, and the job is thawed.

use std::time::{Duration, Instant};

use super::{Coordinator, Phase};
use crate::error::{AgentsError, NotQuiesced};
use crate::figures::{self, keep_longest};
use crate::host::AgentHost;
use crate::members::JobMember;
use crate::nodes::Lock;
use rxl_agent_protocol::{Status, Verb};
use rxl_core::deadlines;
use rxl_core::units::ms;

/// How long one look for an arrival keeps its host from the keeper of the leases. Who asks a host
/// next waits in turn, so the keeper comes between two looks.
const GLANCE: Duration = Duration::from_secs(1);

impl Coordinator {
    /// A domain that moves stands still: its agent cannot answer until it runs again, and keeps no
    /// time meanwhile.
    pub fn suspended(&mut self, mover: usize) {
        if let Some(member) = self.members.get_mut(mover) {
            member.away = true;
        }
        self.suspended_at.get_or_insert_with(Instant::now);
    }

    /// Before a domain is let go to its target: whether the job's connections will still be there
    /// when it runs.
    pub fn check_outage(&self) -> Result<(), NotQuiesced> {
        let Some(at) = self.suspended_at else { return Ok(()) };
        figures::check_outage(&self.figures, at.elapsed())
    }

    /// What the targets write into the domains' new trees before they let them run: their agents
    /// then say that they are there.
    pub fn hold(&mut self) -> String {
        self.next(&Verb::Hold { lease: deadlines::HOLD_LEASE }).to_string()
    }

    /// A domain runs on its target, under this number.
    pub fn arrived(&mut self, mover: usize, domid: u32) {
        let Some(member) = self.members.get_mut(mover) else { return };
        let left = (member.host, member.domid);
        (member.host, member.domid) = (member.to.unwrap_or(member.host), domid);
        (member.away, member.arrived) = (false, Some(Instant::now()));
        let is_now = (member.host, member.domid);
        if let Some(host) = self.hosts.get(is_now.0) {
            // Another's survey of the moment before may have it, and gives it back.
            let _ = self.runtime.block_on(host.lock(Lock::Agent(domid)));
        }
        if let Some(keeper) = &self.keeper {
            keeper.places().moved(left, is_now);
        }
    }

    /// A domain that was to move runs where it was. Where the job has been let go already, its
    /// ranks are now.
    pub fn returned(&mut self, mover: usize) {
        let Some(member) = self.members.get_mut(mover) else { return };
        if !std::mem::take(&mut member.away) || self.phase != Phase::Over {
            return;
        }
        let (name, domid, host) = (member.name.clone(), member.domid, member.host);
        let command = self.next(&Verb::Abort);
        let Some(host) = self.hosts.get(host) else { return };
        // Its devices are still coming back; the agent finds this when it runs.
        if let Err(error) = self.runtime.block_on(host.command(domid, &command)) {
            tracing::warn!("{name}: {error}: its ranks run on when their lease ends");
        }
    }

    /// Nothing more will come: thaws the job when the agents of all domains that have arrived say
    /// that they are there, or have not said so in time. The error is a line for the user; the job
    /// runs in any case.
    pub fn settle(&mut self) -> Result<(), NotQuiesced> {
        let arrived: Vec<_> =
            self.members.iter().filter(|member| member.arrived.is_some()).cloned().collect();
        let until = Instant::now() + deadlines::RESUME;
        let told = arrived
            .iter()
            .map(|member| self.await_resumed(member, until))
            .fold(Ok(()), Result::and);
        if told.is_ok() {
            let until = Instant::now() + deadlines::NETWORK;
            arrived.iter().for_each(|member| self.await_network(member, until));
        }
        let thawed = self.thaw();
        told.and(thawed)
    }

    fn await_resumed(&mut self, member: &JobMember, until: Instant) -> Result<(), NotQuiesced> {
        let begun = member.arrived.unwrap_or_else(Instant::now);
        let (domid, stamp) = (member.domid, self.stamp);
        let look = async |host: &AgentHost, glance| host.wait(domid, stamp, glance).await;
        let state = self.in_glances(member, until, look)?;
        keep_longest(&mut self.figures.resume, begun.elapsed());
        let name = member.name.clone();
        match state.map(|state| state.status) {
            Some(Status::Resumed { frozen: true }) => Ok(()),
            Some(Status::Resumed { frozen: false }) => Err(NotQuiesced::RanTooEarly(name)),
            Some(status) => Err(NotQuiesced::OddArrival { name, status }),
            None => Err(NotQuiesced::NotHeardOf { name, deadline: deadlines::RESUME }),
        }
    }

    /// What ranks send before is lost, and their kernels' timers double.
    fn await_network(&mut self, member: &JobMember, until: Instant) {
        let domid = member.domid;
        let look = async |host: &AgentHost, glance| {
            host.reachable(domid, glance).await.map(|reachable| reachable.then_some(()))
        };
        match self.in_glances(member, until, look) {
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

    /// Waits for something at a domain's host; none when it has not come by then.
    fn in_glances<T>(
        &self,
        member: &JobMember,
        until: Instant,
        look: impl AsyncFn(&AgentHost, Duration) -> Result<Option<T>, AgentsError>,
    ) -> Result<Option<T>, AgentsError> {
        let Some(host) = self.hosts.get(member.host) else { return Ok(None) };
        self.runtime.block_on(async {
            loop {
                let left = until.saturating_duration_since(Instant::now());
                let glance = GLANCE.min(left);
                let found = look(host, glance).await?;
                if found.is_some() || left <= glance {
                    return Ok(found);
                }
            }
        })
    }

    /// Lets the job run, everywhere, and looks a moment later what was retransmitted.
    fn thaw(&mut self) -> Result<(), NotQuiesced> {
        self.keeper = None;
        let begun = Instant::now();
        let states = self.all(&Verb::Thaw { lease: deadlines::LEASE }, deadlines::AGENT_SLACK)?;
        self.figures.thaw = Some(ms(begun.elapsed()));
        self.figures.application_pause = self.frozen_at.map(|at| ms(at.elapsed()));
        let mut problem = Ok(());
        for (index, status) in states {
            match status {
                Status::Thawed(thawed) => figures::thawed(&mut self.figures, &thawed),
                status => problem = Err(self.answered(index, status)),
            }
        }
        self.phase = Phase::Over;
        std::thread::sleep(deadlines::AFTERMATH);
        let ended = self.all(&Verb::Finish, deadlines::AGENT_SLACK)?.into_iter();
        let finished = ended.filter_map(|(_, status)| match status {
            Status::Finished(finished) => Some(finished),
            _ => None,
        });
        figures::finished(&mut self.figures, &finished.collect::<Vec<_>>());
        problem
    }
}
