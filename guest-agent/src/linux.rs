//! The ranks of this Linux, stopped by its freezer and seen through /proc and sock_diag.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use rxl_agent_protocol::{Connection, Freezer, JobRow, Prepare, Reason};
use tracing::warn;

use crate::guest::{Buffer, Cut, Guest, Held, Prepared, Refusal, Since, Stopped};

mod cgroup;
mod descriptor;
mod environment;
pub mod ranks;
mod room;
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
    /// Sockets of launchers, by inode, as found when the ranks were prepared.
    launchers: HashSet<u64>,
    /// Retransmissions of each connection at the freeze, or at the last cut.
    before: Ends,
    /// Receive buffers to be put back by `finish`, of which so many are raised.
    buffers: Vec<Buffer>,
    raised: usize,
}

/// Retransmissions by local and remote address.
type Ends = HashMap<(SocketAddr, SocketAddr), u32>;

/// Pause between two looks at something that settles by itself.
const PACE: Duration = Duration::from_micros(500);

/// The same, where that takes long and the ranks need the processor.
const TIMER_PACE: Duration = Duration::from_millis(20);

/// So many looks in a row must find nothing in flight: data may be on its way to this end, of which
/// only the other knows.
const CALM_LOOKS: u32 = 2;

/// Looks between two requests for acknowledgements. The first finds what is on its way anyway.
const ASK_EVERY: u32 = 16;

/// What has to be sent again later than this after a freeze may be too late for the flush. A timer
/// is at first 0.2 s.
const SOON: Duration = Duration::from_millis(500);

/// How long to wait, before the freeze, for timers that end later.
const TIMER_PATIENCE: Duration = Duration::from_secs(4);

/// What is on its way, or waits for a delayed acknowledgement, arrives in this time. After it only
/// what is sent again can.
const ARRIVAL: Duration = Duration::from_millis(200);

/// Whether enough time has passed since something last arrived.
struct Rest {
    wanted: Duration,
    received: u64,
    since: Instant,
}

impl Rest {
    fn of(wanted: Duration) -> Self {
        Self { wanted, received: 0, since: Instant::now() }
    }

    fn holds(&mut self, sockets: &[Socket]) -> bool {
        let received =
            sockets.iter().map(|socket| socket.connection.received).fold(0, u64::wrapping_add);
        if received != self.received {
            (self.received, self.since) = (received, Instant::now());
        }
        self.since.elapsed() >= self.wanted
    }
}

impl Linux {
    /// With `own_namespace_only`, ranks in other network namespaces are none of this agent's
    /// business; else they are a veto.
    pub fn new(own_namespace_only: bool) -> Result<Self, Refusal> {
        let name = format!("rxl.ranks.{}", ranks::own_namespace()?);
        Ok(Self {
            stopper: stopper::choose(&name),
            own_namespace_only,
            holders: Holders::new(),
            launchers: HashSet::new(),
            before: Ends::new(),
            buffers: Vec::new(),
            raised: 0,
        })
    }

    /// Finds the ranks to be frozen and waits until none of them is in a state in which they cannot
    /// be.
    fn find(&self, how: &Prepare, until: Instant) -> Result<ranks::Found, Refusal> {
        loop {
            let found = ranks::find(how.job.as_ref())?;
            if !self.own_namespace_only
                && let Some(pid) = found.foreign.first()
            {
                let detail = format!("rank with pid {pid} is in another network namespace");
                return Err(Refusal::new(Reason::ForeignNamespace, detail));
            }
            let Some(pid) = ranks::uninterruptible(found.processes.keys().copied()) else {
                return Ok(found);
            };
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
            let is_known = |pid: &i32| found.processes.contains_key(pid);
            if !found.is_outdated()?
                || ranks::find(how.job.as_ref())?.processes.keys().all(is_known)
            {
                return Ok(found);
            }
            if Instant::now() >= until {
                return Err(Refusal::new(
                    Reason::TooMany,
                    "ranks are being started faster than they are gathered",
                ));
            }
        }
    }

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

    /// A launcher's connections are inherited by what it starts (hydra's are). It is not frozen,
    /// and neither are they.
    fn note_sockets(&mut self, members: &[i32]) {
        self.holders = sockets::held_by(members);
        self.holders.retain(|inode, _| !self.launchers.contains(inode));
    }

    fn wait_for_connects(&self, until: Instant) -> Result<Vec<Socket>, Refusal> {
        loop {
            let sockets = self.look()?;
            let Some(opening) = sockets.iter().find(|socket| socket.connecting) else {
                return Ok(sockets);
            };
            if Instant::now() >= until {
                let detail =
                    format!("a connection to {} is still being opened", opening.connection.remote);
                return Err(Refusal::new(Reason::Connecting, detail));
            }
            std::thread::sleep(PACE);
        }
    }

    /// Waits while the ranks run: where one has not read for long, what was dropped is sent again
    /// so much later. A freeze in that time would leave it in flight. No veto: that ranks never
    /// read is no reason not to move them.
    fn wait_for_timers(&self, until: Instant) -> Result<(), Refusal> {
        let until = until.min(Instant::now() + TIMER_PATIENCE);
        while self.look()?.iter().filter_map(Socket::resend).any(|after| after > SOON)
            && Instant::now() < until
        {
            std::thread::sleep(TIMER_PACE);
        }
        Ok(())
    }

    /// The shortest patience, and a veto if it is not longer than the pause.
    fn check_patience(
        &self,
        sockets: &[Socket],
        pause: Duration,
    ) -> Result<Option<Duration>, Refusal> {
        let mut least = if sockets.is_empty() { None } else { descriptor::of_system() };
        for (socket, handle) in self.handles(sockets.iter()) {
            let Some(span) = descriptor::of_socket(&handle) else { continue };
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

    /// Asks the peers of connections with unacknowledged data for an acknowledgement.
    fn ask_for_acknowledgements(&self, sockets: &[Socket]) {
        let waiting = |socket: &&Socket| socket.connection.unacked > 0;
        self.handles(sockets.iter().filter(waiting))
            .for_each(|(_, handle)| descriptor::ask_for_acknowledgement(&handle));
    }

    /// Raises the buffers that were noted, and tells how long they must have been still to be at
    /// rest.
    fn raise_buffers(&mut self) -> Result<Duration, Refusal> {
        let fresh = &self.buffers[self.raised..];
        if fresh.is_empty() {
            return Ok(Duration::ZERO);
        }
        let (share, sockets) = (room::share(fresh.len()), self.look()?);
        let of = |socket: &Socket| fresh.iter().find(|buffer| buffer.inode == socket.inode);
        let theirs = || sockets.iter().filter(|socket| of(socket).is_some());
        for (socket, handle) in self.handles(theirs()) {
            of(socket).into_iter().for_each(|buffer| room::raise(buffer, &handle, share));
        }
        self.raised = self.buffers.len();
        Ok(room::rest(theirs()))
    }

    /// Not at the thaw: the queues are still full then, and what the windows promise would find no
    /// room.
    fn put_buffers_back(&mut self) -> io::Result<()> {
        if self.buffers.is_empty() {
            return Ok(());
        }
        let holders = sockets::held_by(&self.stopper.members()?);
        for buffer in self.buffers.drain(..) {
            let holder = holders.get(&buffer.inode);
            let handle =
                holder.and_then(|&(pid, fd)| descriptor::duplicate_of(pid, fd, buffer.inode));
            if let Some(Err(error)) = handle.map(|handle| room::put_back(&buffer, &handle)) {
                warn!("cannot put a receive buffer back: {error}");
            }
        }
        self.raised = 0;
        Ok(())
    }

    /// What has become of the connections of the last cut.
    fn since_cut(&self) -> Result<Since, Refusal> {
        let now = by_ends(&self.look()?);
        let grown =
            self.before.iter().filter_map(|(ends, before)| now.get(ends)?.checked_sub(*before));
        let grown: Vec<_> = grown.filter(|count| *count > 0).map(u64::from).collect();
        let lost = self.before.keys().filter(|ends| !now.contains_key(*ends)).count() as u32;
        Ok(Since { lost, retransmits: grown.iter().sum(), connections: grown.len() as u32 })
    }
}

fn impatient(connection: &Connection, span: Duration) -> Refusal {
    let detail =
        format!("the connection to {} gives up after {} ms", connection.remote, span.as_millis());
    Refusal::new(Reason::ImpatientConnection, detail)
}

fn by_ends(sockets: &[Socket]) -> Ends {
    let ends =
        |connection: &Connection| ((connection.local, connection.remote), connection.retransmits);
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
        self.find_sockets(&found.launchers)?;
        let sockets = self.wait_for_connects(until)?;
        let patience = self.check_patience(&sockets, how.pause)?;
        self.wait_for_timers(until)?;
        let processes = found.processes.len() as u32;
        Ok(Prepared { rows: found.rows, processes, connections: sockets.len() as u32, patience })
    }

    fn freeze(&mut self, deadline: Duration) -> Result<Stopped, Refusal> {
        let start = Instant::now();
        stopper::freeze(&mut *self.stopper, start + deadline)?;
        let took = start.elapsed();
        let members =
            self.stopper.members().map_err(Refusal::system("list the frozen processes"))?;
        self.note_sockets(&members);
        let sockets = self.look()?;
        self.before = by_ends(&sockets);
        Ok(Stopped { processes: members.len() as u32, took })
    }

    fn note_buffers(&mut self) -> Result<(), Refusal> {
        let known: HashSet<u64> = self.buffers.iter().map(|buffer| buffer.inode).collect();
        let sockets = self.look()?;
        let scarce = sockets
            .iter()
            .filter(|socket| room::is_scarce(socket) && !known.contains(&socket.inode));
        let fresh: Vec<_> = self
            .handles(scarce)
            .filter_map(|(socket, handle)| room::note(socket.inode, &handle))
            .collect();
        self.buffers.extend(fresh);
        Ok(())
    }

    fn flush(&mut self, deadline: Duration) -> Result<Cut, Refusal> {
        let begun = Instant::now();
        let until = begun + deadline;
        let mut rest = Rest::of(self.raise_buffers()?);
        let (mut calm, mut look) = (0, 0);
        loop {
            let looked = Instant::now();
            let sockets = self.look()?;
            if look % ASK_EVERY == 1 {
                self.ask_for_acknowledgements(&sockets);
            }
            let at_rest = rest.holds(&sockets);
            calm = if at_rest && sockets.iter().all(Socket::settled) { calm + 1 } else { 0 };
            let clean = calm >= CALM_LOOKS;
            let resend = sockets.iter().filter_map(Socket::resend).max();
            let (now, arrived) = (Instant::now(), begun.elapsed() >= ARRIVAL);
            let in_vain = arrived && resend.is_some_and(|after| now + after >= until);
            if clean || in_vain || now >= until {
                self.before = by_ends(&sockets);
                let connections = sockets.into_iter().map(|socket| socket.connection).collect();
                return Ok(Cut { clean, resend, connections });
            }
            look += 1;
            // The agent has real-time priority, and what it waits for may be left to the kernel's
            // softirq thread, which has not. On a slow processor, where a look takes long, it would
            // keep the acknowledgements waiting that it looks for.
            std::thread::sleep(PACE.max(looked.elapsed()));
        }
    }

    fn thaw(&mut self) -> Result<Since, Refusal> {
        // What cannot be counted must not keep the ranks from running.
        let since = self.since_cut().unwrap_or_default();
        self.stopper.go().map_err(Refusal::system("thaw the ranks"))?;
        Ok(since)
    }

    fn finish(&mut self) -> Result<Since, Refusal> {
        let since = self.since_cut().unwrap_or_default();
        self.put_buffers_back().map_err(Refusal::system("put receive buffers back"))?;
        self.stopper.scatter().map_err(Refusal::system("put the ranks back"))?;
        self.before.clear();
        self.holders.clear();
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
        self.before = by_ends(&self.look()?);
        Ok(frozen)
    }
}
