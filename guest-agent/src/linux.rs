//! The ranks of this Linux, stopped by its freezer and seen through /proc and sock_diag.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use rxl_agent_protocol::{Connection, Finished, Freezer, JobRow, Prepare, Reason};

use crate::guest::{Cut, Guest, Held, Prepared, Refusal, Stopped};

mod cgroup;
mod environment;
mod patience;
pub mod ranks;
mod sigstop;
mod sockets;
mod stopper;

use sockets::{Holders, Socket};
use stopper::Stopper;

/// See the module.
pub struct Linux {
    stopper: Box<dyn Stopper>,
    own_namespace_only: bool,
    /// The ranks' sockets, as found when they were frozen.
    holders: Holders,
    /// Retransmissions of each connection at the freeze.
    before: HashMap<(SocketAddr, SocketAddr), u32>,
}

/// Pause between two looks at something that settles by itself.
const PACE: Duration = Duration::from_millis(1);

/// So many looks in a row must find nothing in flight: data may be on its way to this end, of which only the other knows.
const CALM_LOOKS: u32 = 2;

impl Linux {
    /// With `own_namespace_only`, ranks in other network namespaces are none of this agent's business; else they are a veto.
    pub fn new(own_namespace_only: bool) -> Result<Self, Refusal> {
        let name = format!("rxl.ranks.{}", ranks::own_namespace()?);
        Ok(Self {
            stopper: stopper::choose(&name),
            own_namespace_only,
            holders: Holders::new(),
            before: HashMap::new(),
        })
    }

    /// Finds the ranks to be frozen and waits until none of them is in a state in which they cannot be.
    fn find(&self, how: &Prepare, until: Instant) -> Result<ranks::Found, Refusal> {
        loop {
            let found = ranks::find(how.job.as_ref())?;
            if !self.own_namespace_only
                && let Some(pid) = found.foreign.first()
            {
                let detail = format!("rank with pid {pid} is in another network namespace");
                return Err(Refusal::new(Reason::ForeignNamespace, detail));
            }
            let Some(pid) = ranks::uninterruptible(found.processes.keys().copied()) else { return Ok(found) };
            if Instant::now() >= until {
                let detail = format!("process {pid} is in uninterruptible sleep");
                return Err(Refusal::new(Reason::Uninterruptible, detail));
            }
            std::thread::sleep(PACE);
        }
    }

    /// The set, again and again until no rank was started while the others were moved.
    fn gather(&mut self, how: &Prepare, until: Instant) -> Result<ranks::Found, Refusal> {
        loop {
            let found = self.find(how, until)?;
            self.stopper.gather(&found.processes).map_err(Refusal::system("gather the ranks"))?;
            let again = ranks::find(how.job.as_ref())?;
            if again.processes.keys().all(|pid| found.processes.contains_key(pid)) {
                return Ok(found);
            }
            if Instant::now() >= until {
                return Err(Refusal::new(Reason::TooMany, "ranks are being started faster than they are gathered"));
            }
        }
    }

    fn look(&self) -> Result<Vec<Socket>, Refusal> {
        sockets::connections(&self.holders).map_err(Refusal::system("ask sock_diag"))
    }

    fn find_sockets(&mut self) -> Result<(), Refusal> {
        let members = self.stopper.members().map_err(Refusal::system("list the gathered processes"))?;
        self.holders = sockets::held_by(&members);
        Ok(())
    }

    fn wait_for_connects(&self, until: Instant) -> Result<Vec<Socket>, Refusal> {
        loop {
            let sockets = self.look()?;
            let Some(opening) = sockets.iter().find(|socket| socket.connecting) else { return Ok(sockets) };
            if Instant::now() >= until {
                let detail = format!("a connection to {} is still being opened", opening.connection.remote);
                return Err(Refusal::new(Reason::Connecting, detail));
            }
            std::thread::sleep(PACE);
        }
    }

    /// The shortest patience, and a veto if it is not longer than the pause.
    fn check_patience(&self, sockets: &[Socket], pause: Duration) -> Result<Option<Duration>, Refusal> {
        let mut least = if sockets.is_empty() { None } else { patience::of_system() };
        for (socket, handle) in self.handles(sockets) {
            let Some(span) = patience::of_socket(&handle) else { continue };
            if span <= pause {
                return Err(impatient(&socket.connection, span));
            }
            least = Some(least.map_or(span, |least| least.min(span)));
        }
        match least {
            Some(span) if span <= pause => Err(impatient(&sockets[0].connection, span)),
            least => Ok(least),
        }
    }

    fn handles<'a>(&self, sockets: &'a [Socket]) -> impl Iterator<Item = (&'a Socket, OwnedFd)> {
        sockets.iter().filter_map(|socket| {
            let &(pid, fd) = self.holders.get(&socket.inode)?;
            Some((socket, patience::duplicate(pid, fd)?))
        })
    }

    /// How many of the connections at the freeze are no longer there.
    fn count_lost(&self) -> Result<u32, Refusal> {
        let now: HashMap<_, _> = by_ends(&self.look()?);
        Ok(self.before.keys().filter(|ends| !now.contains_key(*ends)).count() as u32)
    }
}

fn impatient(connection: &Connection, span: Duration) -> Refusal {
    let detail = format!("the connection to {} gives up after {} ms", connection.remote, span.as_millis());
    Refusal::new(Reason::ImpatientConnection, detail)
}

fn by_ends(sockets: &[Socket]) -> HashMap<(SocketAddr, SocketAddr), u32> {
    let ends = |connection: &Connection| ((connection.local, connection.remote), connection.retransmits);
    sockets.iter().map(|socket| ends(&socket.connection)).collect()
}

impl Guest for Linux {
    fn now(&self) -> Duration {
        // A valid clock with a valid place for the answer: it cannot fail.
        clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
    }

    fn freezer(&self) -> Freezer {
        self.stopper.kind()
    }

    fn survey(&mut self) -> Result<Vec<JobRow>, Refusal> {
        ranks::find(None).map(|found| found.rows)
    }

    fn prepare(&mut self, how: &Prepare) -> Result<Prepared, Refusal> {
        let until = Instant::now() + how.deadline;
        let found = self.gather(how, until)?;
        self.find_sockets()?;
        let sockets = self.wait_for_connects(until)?;
        let patience = self.check_patience(&sockets, how.pause)?;
        let processes = found.processes.len() as u32;
        Ok(Prepared { rows: found.rows, processes, connections: sockets.len() as u32, patience })
    }

    fn freeze(&mut self, deadline: Duration) -> Result<Stopped, Refusal> {
        let start = Instant::now();
        stopper::freeze(&mut *self.stopper, start + deadline)?;
        let took = start.elapsed();
        let members = self.stopper.members().map_err(Refusal::system("list the frozen processes"))?;
        self.holders = sockets::held_by(&members);
        self.before = by_ends(&self.look()?);
        Ok(Stopped { processes: members.len() as u32, took })
    }

    fn flush(&mut self, deadline: Duration) -> Result<Cut, Refusal> {
        let until = Instant::now() + deadline;
        let mut sockets = self.look()?;
        let handles: Vec<_> = self.handles(&sockets).map(|(_, handle)| handle).collect();
        let mut calm = 0;
        loop {
            handles.iter().for_each(patience::acknowledge_now);
            calm = if sockets.iter().all(Socket::settled) { calm + 1 } else { 0 };
            let clean = calm >= CALM_LOOKS;
            if clean || Instant::now() >= until {
                let connections = sockets.into_iter().map(|socket| socket.connection).collect();
                return Ok(Cut { clean, connections });
            }
            std::thread::sleep(PACE);
            sockets = self.look()?;
        }
    }

    fn thaw(&mut self) -> Result<u32, Refusal> {
        // What cannot be counted must not keep the ranks from running.
        let lost = self.count_lost().unwrap_or_default();
        self.stopper.go().map_err(Refusal::system("thaw the ranks"))?;
        Ok(lost)
    }

    fn finish(&mut self) -> Result<Finished, Refusal> {
        let now = self.look().unwrap_or_default();
        let now = by_ends(&now);
        let since = |(ends, before): (&(SocketAddr, SocketAddr), &u32)| now.get(ends)?.checked_sub(*before);
        let grown: Vec<u64> = self.before.iter().filter_map(since).filter(|n| *n > 0).map(u64::from).collect();
        self.stopper.scatter().map_err(Refusal::system("put the ranks back"))?;
        self.before.clear();
        self.holders.clear();
        Ok(Finished { retransmits: grown.iter().sum(), connections: grown.len() as u32 })
    }

    fn held(&self) -> Held {
        self.stopper.held()
    }

    fn take_over(&mut self, held: Held) -> Result<bool, Refusal> {
        let frozen = self.stopper.take_over(held).map_err(Refusal::system("take over what was frozen"))?;
        self.find_sockets()?;
        self.before = by_ends(&self.look()?);
        Ok(frozen)
    }
}
