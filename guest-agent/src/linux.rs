//! The ranks of this Linux: stopped by its freezer, and seen through /proc and sock_diag.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use rxl_agent_protocol::{Freezer, Prepare, Reason, Token};

use crate::guest::{Buffer, Cut, Guest, Held, Prepared, Refusal, Since, Stopped, Survey};

mod cgroup;
mod descriptor;
mod explain;
mod flush;
mod gather;
mod judge;
mod launchers;
mod proc;
pub mod ranks;
mod room;
mod sigstop;
mod sockets;
mod stopper;
mod unclaimed;

use cgroup::Cgroups;
use sigstop::Signals;
use sockets::{Holders, Socket};
use stopper::Stopper;

/// The ranks of this Linux.
pub struct Linux {
    stopper: Box<dyn Stopper>,
    own_namespace_only: bool,
    /// The ranks' sockets, as found when they were frozen.
    holders: Holders,
    /// Sockets of launchers, by inode, as found when the ranks were prepared.
    launchers: HashSet<u64>,
    /// Retransmissions of each connection at the freeze, or at the last cut.
    before: Retransmissions,
    /// Receive buffers that `finish` puts back, the raised ones first.
    buffers: Vec<Buffer>,
    /// How many of `buffers` are raised.
    raised: usize,
    /// The processes that `prepare` has seen, and the job that it was for. None where another
    /// agent has prepared: then nothing tells what was started since.
    seen: Option<(BTreeSet<i32>, Option<Token>)>,
}

/// Retransmitted segments of connections, by local and remote address.
type Retransmissions = HashMap<(SocketAddr, SocketAddr), u32>;

impl Linux {
    /// With `own_namespace_only`, ranks in other network namespaces are ignored; else they are a
    /// veto.
    pub fn new(own_namespace_only: bool) -> Result<Self, Refusal> {
        let name = format!("rxl.ranks.{}", ranks::own_namespace()?);
        Ok(Self {
            stopper: choose_stopper(&name),
            own_namespace_only,
            holders: Holders::new(),
            launchers: HashSet::new(),
            before: Retransmissions::new(),
            buffers: Vec::new(),
            raised: 0,
            seen: None,
        })
    }

    /// The ranks' connections as they stand now.
    fn look(&self) -> Result<Vec<Socket>, Refusal> {
        sockets::connections(&self.holders).map_err(Refusal::system("ask sock_diag"))
    }

    fn find_sockets(&mut self, launchers: &[i32]) -> Result<(), Refusal> {
        let members =
            self.stopper.members().map_err(Refusal::system("list the gathered processes"))?;
        self.launchers = sockets::held_by(launchers).into_keys().collect();
        self.note_sockets(&members);
        Ok(())
    }

    /// Notes the members' sockets but a launcher's. What a launcher starts inherits its connections
    /// (Hydra's ranks do); the launcher is not frozen, and neither are they.
    fn note_sockets(&mut self, members: &[i32]) {
        self.holders = sockets::held_by(members);
        self.holders.retain(|inode, _| !self.launchers.contains(inode));
    }

    /// Freezes the ranks that a launcher has started since they were gathered, as MPI_Comm_spawn
    /// makes it do. What the gathered ranks themselves have started is frozen with them.
    fn freeze_born(&mut self, until: Instant) -> Result<(), Refusal> {
        let Some((seen, job)) = &mut self.seen else { return Ok(()) };
        loop {
            let born = ranks::born(seen, job.as_ref())?;
            if born.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                let detail = "ranks are being started faster than they are frozen";
                return Err(Refusal::new(Reason::FreezeDeadline, detail));
            }
            self.stopper.gather(&born).map_err(Refusal::system("gather the ranks"))?;
            stopper::freeze(&mut *self.stopper, until)?;
        }
    }

    /// Duplicates of the ranks' descriptors.
    fn handles<'a>(
        &self,
        sockets: impl Iterator<Item = &'a Socket>,
    ) -> impl Iterator<Item = (&'a Socket, OwnedFd)> {
        sockets.filter_map(|socket| {
            let &(pid, fd) = self.holders.get(&socket.inode)?;
            Some((socket, descriptor::duplicate(pid, fd)?))
        })
    }

    /// What has become of the connections of the last cut.
    fn since_cut(&self) -> Result<Since, Refusal> {
        let now = retransmissions(&self.look()?);
        let grown =
            self.before.iter().filter_map(|(ends, before)| now.get(ends)?.checked_sub(*before));
        let grown: Vec<_> = grown.filter(|count| *count > 0).map(u64::from).collect();
        let lost = self.before.keys().filter(|ends| !now.contains_key(*ends)).count() as u32;
        Ok(Since { lost, retransmits: grown.iter().sum(), connections: grown.len() as u32 })
    }
}

fn choose_stopper(name: &str) -> Box<dyn Stopper> {
    match Cgroups::mounted(name) {
        Some(cgroups) => Box::new(cgroups),
        None => Box::new(Signals::default()),
    }
}

fn retransmissions(sockets: &[Socket]) -> Retransmissions {
    let connections = sockets.iter().map(|socket| &socket.connection);
    connections.map(|end| ((end.local, end.remote), end.retransmits)).collect()
}

impl Guest for Linux {
    fn now(&self) -> Duration {
        // It cannot fail: the clock exists, and nix passes a valid place for the answer.
        clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
    }

    fn freezer(&self) -> Freezer {
        self.stopper.kind()
    }

    fn survey(&mut self) -> Result<Survey, Refusal> {
        ranks::survey()
    }

    fn prepare(&mut self, how: &Prepare) -> Result<Prepared, Refusal> {
        let until = Instant::now() + how.deadline;
        let found = self.gather(how, until)?;
        self.find_sockets(&found.launchers)?;
        let sockets = self.wait_for_connects(until)?;
        let patience = self.check_patience(&sockets, how.pause)?;
        self.wait_for_timers(until)?;
        let processes = found.processes.len() as u32;
        self.seen = Some((found.seen, how.job.clone()));
        Ok(Prepared { rows: found.rows, processes, connections: sockets.len() as u32, patience })
    }

    fn freeze(&mut self, deadline: Duration) -> Result<Stopped, Refusal> {
        let start = Instant::now();
        stopper::freeze(&mut *self.stopper, start + deadline)?;
        self.freeze_born(start + deadline)?;
        let took = start.elapsed();
        let members =
            self.stopper.members().map_err(Refusal::system("list the frozen processes"))?;
        self.note_sockets(&members);
        self.before = retransmissions(&self.look()?);
        Ok(Stopped { processes: members.len() as u32, took })
    }

    fn note_buffers(&mut self) -> Result<(), Refusal> {
        self.note_scarce_buffers()
    }

    fn flush(&mut self, deadline: Duration) -> Result<Cut, Refusal> {
        self.wait_for_calm(deadline)
    }

    fn thaw(&mut self) -> Result<Since, Refusal> {
        // What cannot be counted must not keep the ranks from running.
        let since = self.since_cut().unwrap_or_default();
        self.stopper.go().map_err(Refusal::system("thaw the ranks"))?;
        Ok(since)
    }

    fn finish(&mut self) -> Result<Since, Refusal> {
        let since = self.since_cut().unwrap_or_default();
        // Both are tried, whatever fails: a group that is not scattered would be frozen with those
        // of the next epoch.
        let buffers = self.put_buffers_back();
        let scattered = self.stopper.scatter();
        self.before.clear();
        self.holders.clear();
        self.seen = None;
        buffers.map_err(Refusal::system("put receive buffers back"))?;
        scattered.map_err(Refusal::system("put the ranks back"))?;
        Ok(since)
    }

    fn held(&self) -> Held {
        Held { buffers: self.buffers.clone(), ..self.stopper.held() }
    }

    fn take_over(&mut self, held: Held) -> Result<bool, Refusal> {
        // Whether they are raised is not known. To raise them again would do no harm.
        self.buffers.clone_from(&held.buffers);
        let frozen =
            self.stopper.take_over(held).map_err(Refusal::system("take over what was frozen"))?;
        self.find_sockets(&ranks::launchers()?)?;
        self.before = retransmissions(&self.look()?);
        Ok(frozen)
    }
}
