//! What `prepare` does while the ranks run: finds and gathers them, and waits for what a freeze
//! would cut in two.

use std::time::{Duration, Instant};

use rxl_agent_protocol::{Connection, Prepare, Reason};

use super::sockets::Socket;
use super::{Linux, descriptor, ranks};
use crate::deadlines::{SETTLE_PACE, SOON, TIMER_DEADLINE, TIMER_PACE};
use crate::guest::Refusal;

impl Linux {
    /// Finds and gathers the ranks, again and again until none was started while the others were
    /// moved.
    pub(super) fn gather(
        &mut self,
        how: &Prepare,
        until: Instant,
    ) -> Result<ranks::Found, Refusal> {
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
                let detail = "ranks are being started faster than they are gathered";
                return Err(Refusal::new(Reason::TooMany, detail));
            }
        }
    }

    /// Finds the ranks to be frozen, and waits until none of them is in uninterruptible sleep.
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
            std::thread::sleep(SETTLE_PACE);
        }
    }

    /// Waits until no connection is being opened.
    pub(super) fn wait_for_connects(&self, until: Instant) -> Result<Vec<Socket>, Refusal> {
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
            std::thread::sleep(SETTLE_PACE);
        }
    }

    /// Waits while a retransmission is due much later. Where a rank has not read for long, what was
    /// dropped is sent again so late that a freeze before would leave it in flight. No veto: that
    /// ranks never read is no reason not to move them.
    pub(super) fn wait_for_timers(&self, until: Instant) -> Result<(), Refusal> {
        let until = until.min(Instant::now() + TIMER_DEADLINE);
        while self.look()?.iter().filter_map(Socket::resend).any(|after| after > SOON)
            && Instant::now() < until
        {
            std::thread::sleep(TIMER_PACE);
        }
        Ok(())
    }

    /// Returns the shortest time after which a connection gives up, and refuses if that is not
    /// longer than the pause.
    pub(super) fn check_patience(
        &self,
        sockets: &[Socket],
        pause: Duration,
    ) -> Result<Option<Duration>, Refusal> {
        let Some(any) = sockets.first() else { return Ok(None) };
        let mut shortest = descriptor::give_up_time_of_system();
        for (socket, handle) in self.handles(sockets.iter()) {
            let Some(span) = descriptor::give_up_time_of(&handle) else { continue };
            if span <= pause {
                return Err(impatient(&socket.connection, span));
            }
            shortest = Some(shortest.map_or(span, |shortest| shortest.min(span)));
        }
        match shortest {
            Some(span) if span <= pause => Err(impatient(&any.connection, span)),
            shortest => Ok(shortest),
        }
    }
}

fn impatient(connection: &Connection, span: Duration) -> Refusal {
    let detail =
        format!("the connection to {} gives up after {} ms", connection.remote, span.as_millis());
    Refusal::new(Reason::ImpatientConnection, detail)
}
