//! After READY: a paused copy stands here, and whether it is to run is the other host's to say.

use std::time::Instant;

use crate::events::Events;
use crate::incoming::built::Built;
use crate::incoming::{Decision, NotRun, Wire};
use rxl_core::domain::RunState;
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_host::announce::arrival;
use rxl_host::guard_line::Word;

/// A paused copy that the other host decides about. The caller holds its lock.
pub struct Holding<'a, W: Wire> {
    pub built: Built<'a>,
    pub wire: W,
    /// The domain's own name, which it gets when it is to run.
    pub name: String,
    pub leave_paused: bool,
    pub events: &'a Events<W::Data>,
}

impl<W: Wire> Holding<'_, W> {
    /// Says READY, waits for the decision, and acts on it.
    pub fn run(mut self) -> Result<(), Failure> {
        if W::KEEPS_UNDECIDED {
            self.built.tell_guard(&Word::Held);
        }
        let decision = match self.wire.say_ready(&self.built) {
            Ok(()) => self.wire.await_decision(self.events),
            Err(error) => Decision::Unknown(error.to_string()),
        };
        let ended = match decision {
            Decision::Run { agent_command } => self.take_over(agent_command.as_deref()),
            Decision::GivenUp => {
                Err(self.discard(NotRun::NotTold, Exit::Cancelled, "the source gave up"))
            }
            Decision::Unknown(reason) if W::KEEPS_UNDECIDED => Err(self.undecided(&reason)),
            Decision::Unknown(reason) => {
                let reason = format!("the sender did not say that it is to run: {reason}");
                Err(self.discard(NotRun::NotTold, Exit::FailedSourceRuns, &reason))
            }
        };
        self.built.tell_guard(&Word::Done);
        ended
    }

    fn take_over(&mut self, agent_command: Option<&str>) -> Result<(), Failure> {
        let begun = Instant::now();
        self.built.tell_guard(&Word::Taken {
            domid: self.built.domid.0,
            incoming: self.built.name.clone(),
            name: self.name.clone(),
            paused: self.leave_paused,
        });
        let started = self.start_domain(agent_command);
        // It runs, or it may not: nothing is left to put right by itself.
        self.built.tell_guard(&Word::Held);
        if let Err(error) = started {
            return Err(self.give_back(&error));
        }
        let told = self.wire.say_runs(begun.elapsed());
        self.announce_and_part();
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

    /// Announcing ends within seconds, and nobody waits for it but this program's end.
    fn announce_and_part(&mut self) {
        let Self { built, wire, name, leave_paused, events } = self;
        let (host, domid) = (built.host, built.domid);
        std::thread::scope(|scope| {
            let announcing = (!*leave_paused).then(|| scope.spawn(|| arrival(host, domid, name)));
            wire.await_end(events);
            if let Some(announcing) = announcing {
                // A panic in it has been printed.
                let _ = announcing.join();
            }
        });
    }

    /// Only a copy that is known not to run, and is then destroyed, lets the other host run its own
    /// again.
    fn give_back(&mut self, error: &HostError) -> Failure {
        let Built { host, domid, .. } = &self.built;
        if host.domain(*domid).is_ok_and(|domain| domain.state == RunState::Paused) {
            let reason = format!("it could not be started: {error}");
            self.discard(NotRun::NotStarted, Exit::FailedSourceRuns, &reason)
        } else {
            self.not_certain(error)
        }
    }

    /// This copy does not run. It is destroyed before anything is said, so that nothing is left of
    /// it when nobody hears that; the other host may run its own again only when it is gone.
    fn discard(&mut self, end: NotRun, exit: Exit, reason: &str) -> Failure {
        let (name, domid) = (&self.name, self.built.domid);
        let failure = match self.built.host.destroy(domid) {
            Ok(()) | Err(HostError::NoSuchDomain(_)) => {
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

    /// Saying nothing leaves the other copy as it is.
    fn not_certain(&self, error: &HostError) -> Failure {
        let (name, domid) = (&self.name, self.built.domid);
        let what = format!("{name} was received, and it could not be started for certain: {error}");
        Failure::new(Exit::Undecided, what).next(format!(
            "if it runs here, `xl destroy {name}--migratedaway` at the source; if not, `xl destroy \
             {domid}` here and `xl rename {name}--migratedaway {name}` and `xl resume {name}` there"
        ))
    }

    fn undecided(&self, reason: &str) -> Failure {
        let (name, incoming) = (&self.name, &self.built.name);
        let what = format!(
            "{name} was received, and whether it is to run here is not known ({reason}); \
             {incoming} is kept, paused"
        );
        Failure::new(Exit::Undecided, what).next(format!(
            "if {name} runs at the source, `xl destroy {incoming}`; if it is there as \
             {name}--migratedaway, `xl rename {incoming} {name}` and `xl unpause {name}` here"
        ))
    }
}
