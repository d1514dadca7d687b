//! After Commit: the other host has GO, and the domain is not run here again unless that host
//! itself gives it back.

use std::time::Instant;

use crate::events::Events;
use crate::job::HeldJob;
use crate::outgoing::measurements::Measurements;
use crate::outgoing::returning::Returned;
use crate::outgoing::{Answer, Wire};
use rxl_core::domain::Domain;
use rxl_core::error::{Exit, Failure};
use rxl_core::names::MIGRATED_AWAY;
use rxl_core::state_dir::DomainLock;
use rxl_core::target_spans::TargetSpans;
use rxl_host::guard_line::Guard;
use rxl_host::host::Host;

/// A domain whose other host was told GO.
pub struct Committed<'a, W: Wire> {
    pub(super) away: Away<'a>,
    pub(super) wire: W,
    pub(super) events: &'a Events<W::Data>,
    pub(super) job: HeldJob,
    pub(super) leave_paused: bool,
}

impl<W: Wire> Committed<'_, W> {
    /// Waits for the answer, for which a Ctrl-C is too late, and acts on it.
    pub fn settle(mut self, measured: &mut Measurements) -> Result<(), Failure> {
        let failure = match self.wire.await_answer(self.events) {
            Answer::Runs(spans) => return self.release(spans, measured),
            Answer::GivenBack(what) => {
                let failure = Failure::new(Exit::FailedSourceRuns, what);
                self.away.take_back(failure, &mut self.job)
            }
            Answer::Unknown(reason) => {
                // Wherever the domain is, the rest of its job is not kept waiting for it.
                self.job.abort();
                self.away.undecided(self.wire.name(), &reason)
            }
        };
        measured.mpi = self.job.figures();
        self.wire.close(self.events);
        Err(failure)
    }

    /// It runs there.
    fn release(
        mut self,
        spans: Option<TargetSpans>,
        measured: &mut Measurements,
    ) -> Result<(), Failure> {
        measured.timeline.done = Some(Instant::now());
        match spans {
            Some(spans) if !self.leave_paused => self.job.arrived(spans.domid),
            _ => self.job.abort(),
        }
        measured.target = spans.or(measured.target);
        measured.mpi = self.job.figures();
        self.wire.end_data();
        self.away.release(self.wire.name())
    }
}

/// A domain that was given away: renamed, standing still.
pub struct Away<'a> {
    host: &'a dyn Host,
    domain: Domain,
    /// It has been told that nothing is left to guard, and is reaped when this is dropped.
    _guard: Guard,
    _lock: DomainLock,
}

impl<'a> Away<'a> {
    pub(super) fn new(host: &'a dyn Host, domain: Domain, lock: DomainLock, guard: Guard) -> Self {
        Self { host, domain, _guard: guard, _lock: lock }
    }

    fn name(&self) -> String {
        format!("{}{MIGRATED_AWAY}", self.domain.name)
    }

    /// The other host runs it: this copy's resources are given back.
    fn release(&self, target: &str) -> Result<(), Failure> {
        self.host.destroy(self.domain.domid).map_err(|error| {
            let what = format!(
                "{} runs on {target}, but its old copy here is still there: {error}",
                self.domain.name
            );
            Failure::new(Exit::MovedWithWarnings, what)
                .next(format!("`xl destroy {}`", self.name()))
        })
    }

    /// The only copy is this one: it runs on here, after the failure.
    fn take_back(&self, failure: Failure, job: &mut HeldJob) -> Failure {
        let returned = Returned::bring(self.host, &self.domain, true);
        if returned.running.is_ok() {
            job.returned();
        } else {
            job.abort();
        }
        returned.tell(failure, &self.domain)
    }

    /// Nobody knows where it is to run.
    fn undecided(&self, target: &str, reason: &str) -> Failure {
        let (name, away) = (&self.domain.name, self.name());
        let what = format!(
            "{target} was told to run {name} and has not answered ({reason}); the copy here is \
             kept as {away}"
        );
        Failure::new(Exit::Undecided, what).next(format!(
            "if {name} runs on {target}, `xl destroy {away}` here; if it is not there, `xl rename \
             {away} {name}` and `xl resume {name}` here"
        ))
    }
}
