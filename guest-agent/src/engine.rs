//! The agent's state machine: obeys commands in order, keeps the lease, and says what came of it.
//!
//! The states are drawn in [`rxl_agent_protocol`]. Two rules keep it simple. Whatever does not fit
//! ends the epoch with the ranks running. And the lease is looked at in every step, after the
//! commands: a `hold` that waited for a domain to run again is heard before a lease that has
//! meanwhile ended, and a store that fails cannot keep ranks frozen.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rxl_agent_protocol::{
    AgentInfo, Command, Finished, Flushed, Frozen, JobRow, Lease, Prepare, Ready, Reason, Stamp,
    State, Status, Thawed, Verb, pack,
};
use tracing::{info, warn};

use crate::guest::{Guest, Refusal, Since};
use crate::store::Store;

mod advertise;
mod record;

use advertise::Notices;
pub use record::Phase;
use record::Record;

/// See the module.
pub struct Engine<S, G> {
    store: S,
    guest: G,
    /// What a later agent must know; written to its file at each change.
    record: Record,
    file: PathBuf,
    notices: Notices,
    /// The last command's text, and the last lease's, as found.
    heard: Option<String>,
    renewed: Option<String>,
    complaint: String,
}

/// Longest time without a look at the store while an epoch is under way. Commands, leases and a
/// fresh tree fire watches; a look takes tens of milliseconds of a slow host's processor, which
/// others of the job need.
const BUSY_PACE: Duration = Duration::from_secs(1);

/// The same when none is.
const IDLE_PACE: Duration = Duration::from_secs(5);

/// Pause before what could not be thawed is tried again.
const RETRY: Duration = Duration::from_millis(100);

impl<S: Store, G: Guest> Engine<S, G> {
    /// Takes over from an earlier agent, if one has left something in `file`, and advertises
    /// itself.
    ///
    /// What is frozen stays so only while its lease runs and dom0 still speaks of that epoch.
    pub fn start(mut store: S, guest: G, info: AgentInfo, file: PathBuf) -> io::Result<Self> {
        let record = Record::load(&file, info.boot.as_str());
        let command = store.read(rxl_agent_protocol::path::COMMAND)?;
        let notices = Notices::new(info);
        let mut engine = Self {
            store,
            guest,
            record,
            file,
            notices,
            heard: None,
            renewed: None,
            complaint: String::new(),
        };
        engine.take_over(command.as_deref())?;
        engine.notices.start(&mut engine.store)?;
        engine.notices.publish(&mut engine.store, &engine.record)?;
        Ok(engine)
    }

    fn take_over(&mut self, command: Option<&str>) -> io::Result<()> {
        self.record.adopt_stamp(&mut self.store)?;
        if self.record.phase == Phase::Idle {
            return Ok(());
        }
        let frozen = self.guest.take_over(self.record.held.clone()).unwrap_or_else(|refusal| {
            warn!("{refusal}");
            true
        });
        let epoch = command.and_then(Command::stamp_of).map(|stamp| stamp.epoch);
        let in_time = self.guest.now() < self.record.until;
        let as_recorded = frozen == (self.record.phase == Phase::Frozen);
        if in_time && as_recorded && epoch == Some(self.record.stamp.epoch) {
            info!("goes on with epoch {} where an earlier agent left it", self.record.stamp.epoch);
            return Ok(());
        }
        warn!("lets the ranks of epoch {} run that an earlier agent left", self.record.stamp.epoch);
        self.expire();
        Ok(())
    }

    /// Reads what dom0 says, obeys it, and keeps the lease. Returns the time until it wants to be
    /// called again at the latest.
    pub fn step(&mut self) -> Duration {
        if let Err(error) = self.listen() {
            self.complain(&error);
        } else {
            self.complaint.clear();
        }
        if self.record.phase != Phase::Idle && self.guest.now() >= self.record.until {
            warn!("dom0 was not heard in time: lets the ranks run");
            self.expire();
            self.publish();
        }
        self.pace()
    }

    fn pace(&self) -> Duration {
        match self.record.phase {
            Phase::Idle => IDLE_PACE,
            _ => self
                .record
                .until
                .saturating_sub(self.guest.now())
                .clamp(Duration::from_millis(1), BUSY_PACE),
        }
    }

    /// Ends what is under way and takes the agent's nodes away.
    pub fn stop(mut self) -> io::Result<()> {
        if self.record.phase != Phase::Idle {
            let detail = "the agent is being stopped";
            self.record.status = self.fail(Refusal::new(Reason::Stopping, detail));
            self.publish();
        }
        self.notices.retire(&mut self.store)
    }

    /// What it waits for between steps.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    /// The answer to `hold` is what a whole job waits for, and needs no rows: it goes out before
    /// the other nodes of a fresh tree.
    fn listen(&mut self) -> io::Result<()> {
        let command = self.store.read(rxl_agent_protocol::path::COMMAND)?;
        let command = command.filter(|text| Some(text) != self.heard.as_ref());
        let is_hold = |text: &String| {
            text.parse().is_ok_and(|Command { verb, .. }| matches!(verb, Verb::Hold { .. }))
        };
        let (hold, other) =
            if command.as_ref().is_some_and(is_hold) { (command, None) } else { (None, command) };
        hold.into_iter().for_each(|text| self.hear(text));
        self.notices.renew(&mut self.store, &self.record)?;
        other.into_iter().for_each(|text| self.hear(text));
        let lease = self.store.read(rxl_agent_protocol::path::LEASE)?;
        if lease.is_some() && lease != self.renewed {
            self.renewed.clone_from(&lease);
            lease.iter().for_each(|text| self.renew(text));
        }
        Ok(())
    }

    fn hear(&mut self, text: String) {
        self.hear_once(&text);
        self.heard = Some(text);
    }

    fn hear_once(&mut self, text: &str) {
        match text.parse::<Command>() {
            Ok(command) if command.stamp > self.record.stamp => self.obey(&command),
            Ok(command) => info!(
                "ignores command {}: it is not later than {}",
                command.stamp, self.record.stamp
            ),
            Err(error) => {
                match Command::stamp_of(text).filter(|stamp| *stamp > self.record.stamp) {
                    Some(stamp) => {
                        self.enter(stamp);
                        self.record.status =
                            self.fail(Refusal::new(Reason::Malformed, error.to_string()));
                        self.publish();
                    }
                    None => warn!("ignores a command that cannot be read: {error}"),
                }
            }
        }
    }

    fn obey(&mut self, command: &Command) {
        self.enter(command.stamp);
        self.record.status =
            self.perform(&command.verb).unwrap_or_else(|refusal| self.fail(refusal));
        if let Some(lease) = command.verb.lease() {
            self.record.lease = lease;
            self.record.until = self.guest.now() + lease;
        }
        info!("{} -> {}", command, self.record.status);
        self.publish();
    }

    /// Notes the stamp. What an older epoch has left is put back first.
    fn enter(&mut self, stamp: Stamp) {
        if stamp.epoch > self.record.stamp.epoch && self.record.phase != Phase::Idle {
            warn!("epoch {} ends the unfinished epoch {}", stamp.epoch, self.record.stamp.epoch);
            self.release();
        }
        self.record.stamp = stamp;
    }

    fn perform(&mut self, verb: &Verb) -> Result<Status, Refusal> {
        match (verb, self.record.phase) {
            (Verb::Survey, Phase::Idle) => self.survey(),
            (Verb::Prepare(how), Phase::Idle) => Ok(self.prepare(how)),
            (Verb::Freeze { deadline, .. }, Phase::Prepared) => self.freeze(*deadline),
            (Verb::Flush { deadline, room, .. }, Phase::Frozen) => self.flush(*deadline, *room),
            (Verb::Hold { .. }, phase) => Ok(Status::Resumed { frozen: phase == Phase::Frozen }),
            (Verb::Thaw { .. }, Phase::Frozen) => self.thaw().map(Status::Thawed),
            (Verb::Thaw { .. }, _) => Ok(Status::Thawed(Thawed::default())),
            (Verb::Finish, Phase::Idle | Phase::Prepared | Phase::Thawed) | (Verb::Abort, _) => {
                Ok(self.finish())
            }
            (verb, phase) => {
                Err(Refusal::new(Reason::WrongState, format!("{verb} in state {phase}")))
            }
        }
    }

    fn survey(&mut self) -> Result<Status, Refusal> {
        let rows = self.guest.survey()?;
        self.record.set_rows(&rows);
        Ok(Status::Surveyed { ranks: count(&rows) })
    }

    /// The record is written before anything is frozen: an agent that starts after this one's death
    /// must know what to thaw.
    fn prepare(&mut self, how: &Prepare) -> Status {
        let start = self.guest.now();
        self.record.phase = Phase::Prepared;
        let prepared = self.guest.prepare(how).and_then(|prepared| {
            self.record.until = self.guest.now() + how.lease;
            self.record.held = self.guest.held();
            self.record.save(&self.file).map_err(Refusal::system("write the agent's record"))?;
            Ok(prepared)
        });
        match prepared {
            Ok(prepared) => {
                self.record.set_rows(&prepared.rows);
                self.record.chunks.clear();
                Status::Ready(Ready {
                    ranks: count(&prepared.rows),
                    processes: prepared.processes,
                    connections: prepared.connections,
                    how: self.guest.freezer(),
                    patience: prepared.patience,
                    took: self.guest.now() - start,
                })
            }
            Err(Refusal { reason, detail }) => {
                self.release();
                Status::Nack { reason, detail }
            }
        }
    }

    fn freeze(&mut self, deadline: Duration) -> Result<Status, Refusal> {
        self.record.since = self.guest.now();
        self.record.phase = Phase::Frozen;
        let stopped = self.guest.freeze(deadline)?;
        Ok(Status::Frozen(Frozen {
            how: self.guest.freezer(),
            processes: stopped.processes,
            took: stopped.took,
        }))
    }

    fn flush(&mut self, deadline: Duration, room: bool) -> Result<Status, Refusal> {
        let start = self.guest.now();
        if room {
            self.note_buffers()?;
        }
        let cut = self.guest.flush(deadline)?;
        let took = self.guest.now() - start;
        let (chunks, left_out) = pack(&cut.connections);
        let sum = |of: fn(&rxl_agent_protocol::Connection) -> u32| {
            cut.connections.iter().map(of).map(u64::from).sum()
        };
        let flushed = Flushed {
            clean: cut.clean,
            connections: cut.connections.len() as u32,
            chunks: chunks.len() as u32,
            left_out: left_out as u32,
            unacked: sum(|end| end.unacked),
            notsent: sum(|end| end.notsent),
            unread: sum(|end| end.unread),
            resend: cut.resend,
            took,
        };
        self.record.chunks = chunks;
        Ok(Status::Flushed(flushed))
    }

    /// As in `prepare`: recorded first, changed then.
    fn note_buffers(&mut self) -> Result<(), Refusal> {
        self.guest.note_buffers()?;
        let held = self.guest.held();
        if held == self.record.held {
            return Ok(());
        }
        self.record.held = held;
        self.record.save(&self.file).map_err(Refusal::system("write the agent's record"))
    }

    fn thaw(&mut self) -> Result<Thawed, Refusal> {
        let start = self.guest.now();
        let Since { lost, retransmits, .. } = self.guest.thaw()?;
        let now = self.guest.now();
        self.record.phase = Phase::Thawed;
        Ok(Thawed {
            took: now - start,
            paused: now.saturating_sub(self.record.since),
            lost,
            retransmits,
        })
    }

    fn finish(&mut self) -> Status {
        Status::Finished(self.release().unwrap_or_default())
    }

    /// Thaws and puts back, and the epoch is over. What cannot be thawed stays, and is tried again
    /// as if its lease had ended.
    fn release(&mut self) -> Option<Finished> {
        let released = self.guest.thaw().and_then(|_| self.guest.finish());
        match released {
            Ok(Since { retransmits, connections, .. }) => {
                self.record.phase = Phase::Idle;
                self.record.held = self.guest.held();
                Some(Finished { retransmits, connections })
            }
            Err(refusal) => {
                warn!("{refusal}; tries again");
                self.record.until = self.guest.now() + RETRY;
                None
            }
        }
    }

    fn fail(&mut self, refusal: Refusal) -> Status {
        warn!("{refusal}");
        self.release();
        Status::Failed { reason: refusal.reason, detail: refusal.detail }
    }

    fn expire(&mut self) {
        let frozen = self.record.phase == Phase::Frozen;
        let paused = if frozen {
            self.guest.now().saturating_sub(self.record.since)
        } else {
            Duration::ZERO
        };
        if self.release().is_some() {
            self.record.status = Status::Expired { paused };
        }
    }

    fn renew(&mut self, text: &str) {
        match text.parse::<Lease>() {
            Ok(lease) if lease.epoch == self.record.stamp.epoch => {
                self.record.until = self.guest.now() + self.record.lease;
            }
            Ok(_) => {}
            Err(error) => warn!("ignores a lease that cannot be read: {error}"),
        }
    }

    /// Says how things stand, to dom0 and to a later agent. What cannot be said now is said in a
    /// later step.
    fn publish(&mut self) {
        if let Err(error) = self.record.save(&self.file) {
            warn!("cannot write {}: {error}", self.file.display());
        }
        if let Err(error) = self.notices.publish(&mut self.store, &self.record) {
            self.complain(&error);
        }
    }

    /// Once for each trouble, however many steps it lasts.
    fn complain(&mut self, error: &io::Error) {
        let complaint = format!("xenstore: {error}");
        if self.complaint != complaint {
            warn!("{complaint}");
            self.complaint = complaint;
        }
    }
}

fn count(rows: &[JobRow]) -> u32 {
    rows.iter().map(|row| row.ranks.len() as u32).sum()
}

impl Record {
    fn state(&self) -> State {
        State { stamp: self.stamp, status: self.status.clone() }
    }
}
