//! After READY: a paused copy stands here, and whether it is to run is the other host's to say.

use std::time::Instant;

use crate::events::Events;
use crate::incoming::built::Built;
use crate::incoming::{Decision, NotRun, Wire};
use rxl_core::domain::RunState;
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_host::announce::arrival;
use rxl_host::guard_line::log;
use rxl_host::watch;
use rxl_recover::{AnyRecord, End, Place, RecoverError, Settling};

/// A paused copy that the other host decides about. The caller holds its lock.
pub struct Holding<'a, W: Wire> {
    pub built: Built<'a>,
    pub wire: W,
    /// The domain's own name, which it gets when it is to run.
    pub name: String,
    pub leave_paused: bool,
    /// No process is to wait for the domain's end.
    pub no_monitor: bool,
    pub events: &'a Events<W::Data>,
}

impl<W: Wire> Holding<'_, W> {
    /// Says READY, waits for the decision, and acts on it.
    pub fn run(mut self) -> Result<(), Failure> {
        let decision = match self.hold() {
            Ok(()) => self.wire.await_decision(self.events),
            Err(decision) => decision,
        };
        let ended = match decision {
            Decision::Run { agent_command } => self.take_over(agent_command.as_deref()),
            Decision::GivenUp => {
                Err(self.discard(NotRun::NotTold, Exit::Cancelled, "the source gave up"))
            }
            Decision::Unknown(reason) if W::KEEPS_UNDECIDED => self.decide(&reason),
            Decision::Unknown(reason) => {
                let reason = format!("the sender did not say that it is to run: {reason}");
                Err(self.discard(NotRun::NotTold, Exit::FailedSourceRuns, &reason))
            }
        };
        // What is open is `rxl recover`'s: the guard could do no more than this process has done.
        self.built.settled();
        ended
    }

    /// Marks the copy, records that it is held, and says READY.
    fn hold(&mut self) -> Result<(), Decision> {
        let Built { host, domid, ledger, .. } = &self.built;
        let held = host.mark(*domid, ledger.id()).map_err(Failure::from);
        if let Err(failure) = held.and_then(|()| ledger.hold(*domid)) {
            tracing::error!("{failure}");
            return Err(Decision::GivenUp);
        }
        let said = self.wire.say_ready(&self.built);
        said.map_err(|error| Decision::Unknown(error.to_string()))
    }

    fn take_over(&mut self, agent_command: Option<&str>) -> Result<(), Failure> {
        let begun = Instant::now();
        if let Err(error) = self.built.ledger.take() {
            return self.decide(&error.to_string());
        }
        if let Err(error) = self.start_domain(agent_command) {
            return Err(self.give_back(&error));
        }
        let told = self.wire.say_runs(begun.elapsed());
        if self.announce_and_part() {
            self.built.ledger.settled();
        }
        told.map_err(|error| {
            let name = &self.name;
            let what = format!("{name} is here, and the sender could not be told: {error}");
            Failure::new(Exit::MovedWithWarnings, what)
                .caused_by(error)
                .next(format!("its old copy stands still there: `xl destroy {name}--migratedaway`"))
        })
    }

    fn start_domain(&self, agent_command: Option<&str>) -> Result<(), HostError> {
        let Built { host, domid, name: incoming, .. } = &self.built;
        host.rename(*domid, incoming, &self.name)?;
        if let Some(command) = agent_command
            && let Err(error) = host.tell_agent(*domid, command)
        {
            // The agent thaws by itself when it hears nothing.
            tracing::warn!("{}: its agent: {error}", self.name);
        }
        if self.leave_paused { Ok(()) } else { host.unpause(*domid) }
    }

    /// Announcing ends within seconds, and nobody waits for it but this program's end. Until the
    /// domain is watched the record says that it is still to be started, which starts its watcher.
    /// True where the source says that its copy is destroyed.
    fn announce_and_part(&mut self) -> bool {
        let Self { built, wire, name, leave_paused, no_monitor, events } = self;
        let (host, domid) = (built.host, built.domid);
        std::thread::scope(|scope| {
            let announcing = (!*leave_paused).then(|| scope.spawn(|| arrival(host, domid, name)));
            if !*no_monitor {
                watch::start(host, domid);
            }
            built.ledger.started();
            let released = wire.await_end(events);
            if let Some(announcing) = announcing {
                // A panic in it has been printed.
                let _ = announcing.join();
            }
            released
        })
    }

    /// Only a copy that is known not to run, and is then destroyed, lets the other host run its own
    /// again.
    fn give_back(&mut self, error: &HostError) -> Failure {
        let Built { host, domid, ledger, .. } = &self.built;
        let is_paused = host.domain(*domid).is_ok_and(|domain| domain.state == RunState::Paused);
        if !is_paused || ledger.cannot_run().is_err() {
            return self.not_certain(error);
        }
        let reason = format!("it could not be started: {error}");
        self.discard(NotRun::NotStarted, Exit::FailedSourceRuns, &reason)
    }

    /// This copy does not run. It is destroyed before anything is said, so that nothing is left of
    /// it when nobody hears that; the other host may run its own again only when it is gone.
    fn discard(&mut self, end: NotRun, exit: Exit, reason: &str) -> Failure {
        let (name, domid) = (&self.name, self.built.domid);
        let destroyed = self.built.host.destroy(domid);
        if end == NotRun::NotTold {
            let gone = matches!(destroyed, Ok(()) | Err(HostError::NoSuchDomain(_)));
            self.built.ledger.abort(gone);
        }
        let failure = match destroyed {
            Ok(()) | Err(HostError::NoSuchDomain(_)) => {
                if end == NotRun::NotStarted
                    && let Err(failure) = self.built.ledger.destroyed()
                {
                    return failure.with_exit(Exit::Undecided);
                }
                Failure::new(exit, format!("{name} was received and is destroyed: {reason}"))
            }
            Err(error) => {
                let what = format!(
                    "{name} was received, and does not run: {reason}; and it could not be \
                     destroyed: {error}"
                );
                // Whoever has given up runs its own copy.
                let exit = if exit == Exit::Cancelled { exit } else { Exit::Undecided };
                let failure = Failure::new(exit, what).next(format!("`xl destroy {domid}`"));
                self.wire.say_not_run(end, &failure.what, false);
                return failure;
            }
        };
        self.wire.say_not_run(end, &failure.what, true);
        self.wire.await_end(self.events);
        failure
    }

    /// Saying nothing leaves the other copy as it is; the record says that the domain belongs here.
    fn not_certain(&self, error: &HostError) -> Failure {
        let (name, domid) = (&self.name, self.built.domid);
        let what = format!("{name} was received, and it could not be started for certain: {error}");
        Failure::new(Exit::Undecided, what).next(format!(
            "`xl list` shows its state; `rxl recover` starts it, as `xl unpause {domid}` does"
        ))
    }

    /// The source's decision did not come. The source is asked over a fresh connection, for as long
    /// as it may take to notice; then the guard's and `rxl recover`'s turn begins.
    fn decide(&self, reason: &str) -> Result<(), Failure> {
        let (journal, record, asking) = self.built.ledger.parts();
        let settling = Settling::HOST.at_once();
        let place = Place { host: self.built.host, journal, settling };
        let record = AnyRecord::Target(record.clone());
        let end = asking.settle(place, &record);
        let told = self.tell(reason, end);
        let line = told.as_ref().map_or_else(ToString::to_string, |()| "it runs here".into());
        log("rxl", &format!("migration {} of {}: {line}", self.built.ledger.id(), self.name));
        told
    }

    fn tell(&self, reason: &str, end: Result<End, RecoverError>) -> Result<(), Failure> {
        let name = &self.name;
        let ended = |exit, line: &str| {
            Failure::new(exit, format!("{name}: the source's word did not come ({reason}); {line}"))
        };
        match end {
            Ok(End::Arrived(line)) => {
                tracing::info!("{line}");
                Ok(())
            }
            Ok(End::Waits(line)) => Err(ended(Exit::Undecided, &line)
                .next("rxl-recover.timer goes on by itself; `rxl recover` does it now")),
            Ok(End::Before) => Err(ended(Exit::Cancelled, "the source has it")),
            Ok(end) => Err(ended(Exit::Cancelled, end.line())),
            Err(error) => {
                Err(ended(Exit::Undecided, &error.to_string()).next("`rxl recover` tries again"))
            }
        }
    }
}
