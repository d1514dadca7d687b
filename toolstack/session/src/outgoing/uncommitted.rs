//! Before Commit: the domain is being saved, and whatever fails, it runs on here.

use std::time::{Duration, Instant};

use crate::events::{Event, Events};
use crate::outgoing::committed::Committed;
use crate::outgoing::measurements::{Measurements, Observer};
use crate::outgoing::save::{DomainSave, Stored};
use crate::outgoing::timeout::Timeout;
use crate::outgoing::{Destination, Wire};
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_core::notes::{Note, NoteKind};
use rxl_datapath::broken::{At, Broken};
use rxl_report::progress::Phase;

/// How often progress is shown and deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);

/// libxl is saving or has saved, into this destination.
pub struct Uncommitted<'a, D: Destination> {
    save: DomainSave<'a>,
    pub destination: D,
    events: &'a Events<D::Data>,
    timeout: Timeout,
    phase: Phase,
}

impl<'a, D: Destination> Uncommitted<'a, D> {
    pub fn new(
        save: DomainSave<'a>,
        destination: D,
        events: &'a Events<D::Data>,
        timeout: Timeout,
    ) -> Self {
        Self { save, destination, events, timeout, phase: Phase::Precopy }
    }

    /// Moves everything, until the domain is whole at its destination.
    pub fn transfer(&mut self, observer: &mut dyn Observer) -> Result<(), Failure> {
        self.send_stream(observer)?;
        self.destination.end_stream(observer.measured())?;
        observer.show(Phase::Ready);
        self.await_ready(observer.measured())
    }

    /// Until libxl has saved and the last byte is on its way.
    fn send_stream(&mut self, observer: &mut dyn Observer) -> Result<(), Failure> {
        let mut sent_at = None;
        while !(self.save.is_over() && self.destination.is_sent()) {
            self.timeout.check()?;
            if self.timeout.forces_suspend() {
                self.save.hurry();
            }
            self.save.rest();
            observer.show(self.phase);
            // The stream has deadlines of its own; libxl has little to do when it has ended.
            if self.destination.is_sent()
                && sent_at.get_or_insert_with(Instant::now).elapsed() >= deadlines::STALL
            {
                return Err(Failure::new(Exit::FailedSourceRuns, "libxl did not end its save"));
            }
            if let Some(event) = self.events.next(Instant::now() + TICK) {
                self.take(event, observer.measured())?;
            }
        }
        Ok(())
    }

    fn take(&mut self, event: Event<D::Data>, measured: &mut Measurements) -> Result<(), Failure> {
        match event {
            Event::Note(note) => self.note(&note, measured),
            Event::Asked(question) => self.save.answer(question, measured),
            Event::OperationEnded => self.save.ended(),
            Event::Gang(word) => self.save.heard(word, measured),
            Event::Control(incoming) => self.destination.take_control(incoming, measured),
            Event::Data(Ok(data)) => self.destination.take_data(data, measured),
            Event::Data(Err(broken)) => Err(self.path_failure(&broken, measured)),
            Event::Interrupt => Err(Failure::new(Exit::Cancelled, "cancelled")),
        }
    }

    fn note(&mut self, note: &Note, measured: &mut Measurements) -> Result<(), Failure> {
        measured.note(note);
        if note.what != NoteKind::Suspended {
            return Ok(());
        }
        self.phase = Phase::LastPages;
        self.save.suspended()
    }

    /// The reason behind a broken data path comes a moment later: from libxl, or from the other
    /// host. What a broken path ends is not what broke it.
    fn path_failure(&mut self, broken: &Broken, measured: &mut Measurements) -> Failure {
        let deadline = Instant::now()
            + match broken.at() {
                At::Libxl => deadlines::LIBXL_REASON,
                At::Peer => self.destination.reason_deadline(),
                At::Here => Duration::ZERO,
            };
        while !(broken.at() == At::Libxl && self.save.is_over())
            && let Some(event) = self.events.next(deadline)
        {
            let told = match (broken.at(), event) {
                (At::Libxl, Event::OperationEnded) => self.save.ended(),
                (At::Peer, Event::Control(incoming)) => {
                    self.destination.take_control(incoming, measured)
                }
                (At::Peer, Event::Data(Ok(data))) => self.destination.take_data(data, measured),
                _ => Ok(()),
            };
            if let Err(failure) = told {
                return failure;
            }
        }
        self.destination.path_failure(broken)
    }

    fn await_ready(&mut self, measured: &mut Measurements) -> Result<(), Failure> {
        let deadline = self.timeout.or(Instant::now() + deadlines::READY);
        while !self.destination.is_ready() {
            match self.events.next(deadline) {
                Some(event) => self.take(event, measured)?,
                None => {
                    self.timeout.check()?;
                    let (name, seconds) = (self.destination.name(), deadlines::READY.as_secs());
                    let what = format!("{name} was not ready in {seconds} s");
                    return Err(Failure::new(Exit::FailedSourceRuns, what));
                }
            }
        }
        measured.timeline.ready = Some(Instant::now());
        Ok(())
    }

    /// Back to where it was: the guest runs here, log-dirty mode is off, nothing is left at the
    /// destination.
    pub fn give_up(mut self, failure: Failure, measured: &mut Measurements) -> Failure {
        tracing::info!("giving up: {failure}");
        self.save.job.failing(&failure);
        self.destination.abort(&failure);
        self.save.halt(|| self.destination.abandon());
        self.destination.end_data();
        let failure = self.save.run_on(failure, measured);
        self.destination.wind_up(&failure, self.events);
        failure
    }

    /// The file is in place.
    pub fn into_stored(self) -> Stored<'a> {
        self.save.into_stored()
    }

    /// The file is about to get its name.
    pub fn record_commit(&self) -> Result<(), Failure> {
        self.save.record_commit()
    }
}

impl<'a, W: Wire> Uncommitted<'a, W> {
    /// Moves everything, hands the domain over, and hears what became of it. `leave_paused`: it is
    /// not to run there yet.
    pub fn hand_over(
        mut self,
        leave_paused: bool,
        observer: &mut dyn Observer,
    ) -> Result<(), Failure> {
        let ready = self.transfer(observer).and_then(|()| self.await_go(observer.measured()));
        if let Err(failure) = ready {
            return Err(self.give_up(failure, observer.measured()));
        }
        let committed = self.commit(leave_paused, observer.measured())?;
        observer.show(Phase::Resume);
        committed.settle(observer.measured())
    }

    /// Until the gang's leader says that all others are ready, too. From READY on others may be
    /// told to go at any moment: who wants to cancel asks the leader, which knows.
    fn await_go(&mut self, measured: &mut Measurements) -> Result<(), Failure> {
        self.save.job.ready();
        let last = Instant::now() + deadlines::GANG_GO;
        let mut deadline = self.timeout.or(last);
        while !self.save.job.may_go()? {
            match self.events.next(deadline) {
                Some(Event::Interrupt) => self.save.job.ask_cancel(),
                Some(event) => self.take(event, measured)?,
                None if deadline < last => {
                    self.save.job.ask_cancel();
                    deadline = last;
                }
                None => {
                    let seconds = deadlines::GANG_GO.as_secs();
                    let what = format!("the other domains were not ready in {seconds} s");
                    return Err(Failure::new(Exit::FailedSourceRuns, what));
                }
            }
        }
        Ok(())
    }

    /// Crosses the line. See [`crate::outgoing`] for the order.
    fn commit(
        mut self,
        leave_paused: bool,
        measured: &mut Measurements,
    ) -> Result<Committed<'a, W>, Failure> {
        let said = self.give_name_away(measured).and_then(|()| self.say_go(leave_paused));
        if let Err(failure) = said {
            return Err(self.give_up(failure, measured));
        }
        measured.timeline.go = Some(Instant::now());
        let (away, job) = self.save.into_away();
        let (wire, events) = (self.destination, self.events);
        Ok(Committed { away, wire, events, job, leave_paused })
    }

    fn give_name_away(&mut self, measured: &mut Measurements) -> Result<(), Failure> {
        self.look_once_more(measured)?;
        self.save.record_commit()?;
        self.save.rename_away()?;
        self.look_once_more(measured)
    }

    /// What has come by now, without waiting. Where a leader has said Go other domains may have
    /// gone: a cancel comes too late, a lost connection does not.
    fn look_once_more(&mut self, measured: &mut Measurements) -> Result<(), Failure> {
        while let Some(event) = self.events.next(Instant::now()) {
            match event {
                Event::Interrupt | Event::Gang(_) if self.save.job.was_told_go() => {}
                event => self.take(event, measured)?,
            }
        }
        Ok(())
    }

    fn say_go(&mut self, leave_paused: bool) -> Result<(), Failure> {
        // A domain that stays paused cannot be waited for.
        let command = if leave_paused { None } else { self.save.job.hold() };
        self.destination.say_go(command).map_err(|error| {
            let what = format!("{} could not be told GO: {error}", self.destination.name());
            Failure::new(Exit::FailedSourceRuns, what).caused_by(error)
        })
    }
}
