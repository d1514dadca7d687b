//! What `flush` does while the ranks stand still: makes room for what is in flight, and waits until
//! it has arrived. And what `finish` does to undo that.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use tracing::warn;

use super::sockets::{self, Socket};
use super::{Linux, descriptor, retransmissions, room};
use crate::deadlines::{ARRIVAL, SETTLE_PACE};
use crate::guest::{Cut, Refusal};

/// So many looks in a row must find nothing in flight: data may be on its way to this end, of which
/// only the other end knows.
const CALM_LOOKS: u32 = 2;

/// Looks between two requests for acknowledgements. The first look finds what is on its way without
/// being asked for.
const ASK_EVERY: u32 = 16;

/// Tells whether sockets have received nothing for long enough.
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
    /// Raises the buffers that were noted, and waits until nothing is in flight.
    pub(super) fn wait_for_calm(&mut self, deadline: Duration) -> Result<Cut, Refusal> {
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
                self.before = retransmissions(&sockets);
                let connections = sockets.into_iter().map(|socket| socket.connection).collect();
                return Ok(Cut { clean, resend, connections });
            }
            look += 1;
            // The agent has real-time priority. What it waits for may be left to the kernel's
            // softirq thread, which has not. On a slow processor, where a look takes long, the
            // agent would keep the acknowledgements waiting that it looks for.
            std::thread::sleep(SETTLE_PACE.max(looked.elapsed()));
        }
    }

    /// Asks the peers of connections with unacknowledged data for an acknowledgement.
    fn ask_for_acknowledgements(&self, sockets: &[Socket]) {
        let waiting = |socket: &&Socket| socket.connection.unacked > 0;
        self.handles(sockets.iter().filter(waiting))
            .for_each(|(_, handle)| descriptor::ask_for_acknowledgement(&handle));
    }

    /// Notes the buffers in which what is in flight may find no room.
    pub(super) fn note_scarce_buffers(&mut self) -> Result<(), Refusal> {
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

    /// Raises the buffers that were noted, and returns how long they must be still to be at rest.
    fn raise_buffers(&mut self) -> Result<Duration, Refusal> {
        let fresh = self.buffers.get(self.raised..).unwrap_or_default();
        if fresh.is_empty() {
            return Ok(Duration::ZERO);
        }
        let (share, sockets) = (room::share(fresh.len()), self.look()?);
        let buffer_of = |socket: &Socket| fresh.iter().find(|buffer| buffer.inode == socket.inode);
        let raised = || sockets.iter().filter(|socket| buffer_of(socket).is_some());
        for (socket, handle) in self.handles(raised()) {
            buffer_of(socket).into_iter().for_each(|buffer| room::raise(buffer, &handle, share));
        }
        self.raised = self.buffers.len();
        Ok(room::rest(raised()))
    }

    /// Puts the raised buffers back. Not to be called at the thaw: the queues are still full then,
    /// and what the windows promise would find no room.
    pub(super) fn put_buffers_back(&mut self) -> io::Result<()> {
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
}
