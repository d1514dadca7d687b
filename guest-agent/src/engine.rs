//! The agent's state machine: obeys commands in order, keeps the lease, and tells dom0 what came of
//! each command.
//!
//! [`rxl_agent_protocol`] draws the states. Two rules keep the machine simple:
//!
//! - A command that does not fit the state ends the epoch with the ranks running.
//! - Each step looks at the lease, after the commands. So a `hold` that waited for a domain to run
//!   again is heard before a lease that has meanwhile ended, and a store that fails cannot keep
//!   ranks frozen.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

use rxl_agent_protocol::{AgentInfo, Command, Lease, Reason, Stamp, Verb, path};
use tracing::{info, warn};

use crate::deadlines::{BUSY_PACE, IDLE_PACE};
use crate::guest::{Guest, Held, Refusal};
use crate::store::Store;

mod advertise;
mod perform;
mod record;
mod release;

use advertise::Advertisement;
use record::{Phase, Record};

/// The state machine over a store and a guest.
pub struct Engine<S, G> {
    store: S,
    guest: G,
    /// What a later agent must know. Each change is written to `record_file`.
    record: Record,
    record_file: PathBuf,
    advertisement: Advertisement,
    /// The text of the last command that was read.
    last_command: Option<String>,
    /// The text of the last lease that was read.
    last_lease: Option<String>,
    /// The last trouble with the store that the log tells of.
    complaint: String,
    /// When to thaw again ranks that could not be thawed. While this is set, no lease keeps them
    /// frozen.
    thaw_again: Option<Duration>,
    /// How often what the last epoch has left was tried in vain to be put back.
    rest_tries: u32,
}

impl<S: Store, G: Guest> Engine<S, G> {
    /// Takes over what the record in `record_file` says an earlier agent has left, and advertises
    /// the agent.
    ///
    /// Frozen ranks stay frozen only while their lease runs and dom0's last command is of their
    /// epoch.
    pub fn start(
        mut store: S,
        guest: G,
        info: AgentInfo,
        record_file: PathBuf,
    ) -> io::Result<Self> {
        let record = Record::load(&record_file, info.boot.as_str());
        let command = store.read(path::COMMAND)?;
        let mut engine = Self {
            store,
            guest,
            record,
            record_file,
            advertisement: Advertisement::new(info),
            last_command: None,
            last_lease: None,
            complaint: String::new(),
            thaw_again: None,
            rest_tries: 0,
        };
        engine.take_over(command.as_deref())?;
        engine.advertisement.start(&mut engine.store)?;
        engine.advertisement.publish(&mut engine.store, &engine.record)?;
        Ok(engine)
    }

    fn take_over(&mut self, command: Option<&str>) -> io::Result<()> {
        self.record.adopt_stamp(&mut self.store)?;
        let is_clean = self.record.phase == Phase::Idle && self.record.held == Held::default();
        let frozen = self.guest.take_over(self.record.held.clone()).unwrap_or_else(|refusal| {
            warn!("{refusal}");
            true
        });
        if is_clean {
            self.record.held = self.guest.held();
            return Ok(());
        }
        let epoch = command.and_then(Command::stamp_of).map(|stamp| stamp.epoch);
        let in_time = self.guest.now() < self.record.lease_end;
        let as_recorded = frozen == (self.record.phase == Phase::Frozen);
        if self.record.phase == Phase::Idle {
            self.put_rest_back();
        } else if in_time && as_recorded && epoch == Some(self.record.stamp.epoch) {
            info!("goes on with epoch {} where an earlier agent left it", self.record.stamp.epoch);
        } else {
            let epoch = self.record.stamp.epoch;
            warn!("thaws the ranks of epoch {epoch}, which an earlier agent left");
            self.expire();
        }
        Ok(())
    }

    /// Reads what dom0 says, obeys it, and keeps the lease. Returns the longest time until the next
    /// step.
    pub fn step(&mut self) -> Duration {
        let listened = self.listen();
        let answers = !listened.as_ref().is_err_and(is_silence);
        self.note_trouble(listened);
        let now = self.guest.now();
        if self.record.phase == Phase::Idle {
            self.put_rest_back();
        } else if self.thaw_again.is_some_and(|again| now >= again) {
            self.end_epoch(answers);
        } else if self.thaw_again.is_none() && now >= self.record.lease_end {
            warn!("dom0 was not heard in time: thaws the ranks");
            self.end_epoch(answers);
        }
        self.pace()
    }

    /// Ends the epoch unasked. Tells dom0 now only if the store `answers`; else the next step does.
    /// A second request without an answer would take the time in which systemd wants to hear of
    /// the agent.
    fn end_epoch(&mut self, answers: bool) {
        self.expire();
        self.save_record();
        if answers {
            let published = self.advertisement.publish(&mut self.store, &self.record);
            self.note_trouble(published);
        }
    }

    fn pace(&self) -> Duration {
        match self.record.phase {
            Phase::Idle => IDLE_PACE,
            _ => self
                .thaw_again
                .unwrap_or(self.record.lease_end)
                .saturating_sub(self.guest.now())
                .clamp(Duration::from_millis(1), BUSY_PACE),
        }
    }

    /// The store, which the agent waits for between steps.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    /// Reads the command and the lease. A `hold` is answered before the agent's other nodes are
    /// written to a fresh tree: a whole job waits for that answer, and it needs no rows.
    ///
    /// A store that refuses to be written to, for instance by its quota, is still read from.
    fn listen(&mut self) -> io::Result<()> {
        let command = self.store.read(path::COMMAND)?;
        let command = command.filter(|text| Some(text) != self.last_command.as_ref());
        let (hold, other) =
            if command.as_deref().is_some_and(is_hold) { (command, None) } else { (None, command) };
        let hold_told = unless_silent(self.hear(hold))?;
        let renewed = unless_silent(self.advertisement.renew(&mut self.store, &self.record))?;
        let other_told = unless_silent(self.hear(other))?;
        let lease = self.store.read(path::LEASE)?;
        if let Some(text) = lease.filter(|text| Some(text) != self.last_lease.as_ref()) {
            self.renew_lease(&text);
            self.last_lease = Some(text);
        }
        hold_told.and(renewed).and(other_told)
    }

    fn hear(&mut self, command: Option<String>) -> io::Result<()> {
        let Some(text) = command else { return Ok(()) };
        let told = self.hear_once(&text);
        self.last_command = Some(text);
        told
    }

    fn hear_once(&mut self, text: &str) -> io::Result<()> {
        let last = self.record.stamp;
        match (text.parse::<Command>(), Command::stamp_of(text)) {
            (Ok(command), _) if command.stamp > last => self.obey(&command),
            (Ok(command), _) => {
                info!("ignores command {}: it is not later than {last}", command.stamp);
                Ok(())
            }
            (Err(error), Some(stamp)) if stamp > last => {
                self.enter(stamp);
                self.record.status = self.fail(Refusal::new(Reason::Malformed, error.to_string()));
                self.publish()
            }
            (Err(error), _) => {
                warn!("ignores a command that cannot be read: {error}");
                Ok(())
            }
        }
    }

    fn obey(&mut self, command: &Command) -> io::Result<()> {
        self.enter(command.stamp);
        self.record.status =
            self.perform(&command.verb).unwrap_or_else(|refusal| self.fail(refusal));
        if let Some(lease) = command.verb.lease() {
            self.record.lease = lease;
            self.start_lease();
        }
        info!("{} -> {}", command, self.record.status);
        self.publish()
    }

    /// Notes the stamp, after an older epoch that is not finished was ended.
    fn enter(&mut self, stamp: Stamp) {
        if stamp.epoch > self.record.stamp.epoch && self.record.phase != Phase::Idle {
            warn!("epoch {} ends the unfinished epoch {}", stamp.epoch, self.record.stamp.epoch);
            self.release();
        }
        self.record.stamp = stamp;
    }

    fn renew_lease(&mut self, text: &str) {
        match text.parse::<Lease>() {
            Ok(lease) if lease.epoch == self.record.stamp.epoch => self.start_lease(),
            Ok(_) => {}
            Err(error) => warn!("ignores a lease that cannot be read: {error}"),
        }
    }

    /// Starts the lease anew, unless ranks wait to be thawed.
    fn start_lease(&mut self) {
        if self.thaw_again.is_none() {
            self.record.lease_end = self.guest.now() + self.record.lease;
        }
    }

    /// Tells dom0 and a later agent how things stand. The next step tells what could not be told.
    fn publish(&mut self) -> io::Result<()> {
        self.save_record();
        self.advertisement.publish(&mut self.store, &self.record)
    }

    fn save_record(&mut self) {
        if let Err(error) = self.record.save(&self.record_file) {
            warn!("cannot write {}: {error}", self.record_file.display());
        }
    }

    /// Logs each trouble with the store once, however many steps it lasts.
    fn note_trouble(&mut self, done: io::Result<()>) {
        let complaint = done.err().map(|error| format!("xenstore: {error}")).unwrap_or_default();
        if self.complaint != complaint && !complaint.is_empty() {
            warn!("{complaint}");
        }
        self.complaint = complaint;
    }
}

/// Whether the store has not answered in time.
fn is_silence(error: &io::Error) -> bool {
    error.kind() == ErrorKind::TimedOut
}

/// An error only if the store is silent: then a step must ask it for nothing more.
fn unless_silent(done: io::Result<()>) -> io::Result<io::Result<()>> {
    match done {
        Err(error) if is_silence(&error) => Err(error),
        done => Ok(done),
    }
}

fn is_hold(text: &str) -> bool {
    text.parse().is_ok_and(|Command { verb, .. }| matches!(verb, Verb::Hold { .. }))
}
