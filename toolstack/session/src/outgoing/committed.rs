//! After Commit: the other host has GO, and the domain is not run here again unless that host
//! itself gives it back.

use std::time::Instant;

use crate::events::Events;
use crate::job::HeldJob;
use crate::outgoing::ledger::Ledger;
use crate::outgoing::measurements::Measurements;
use crate::outgoing::returning::Returned;
use crate::outgoing::{Answer, Wire};
use rxl_core::domain::Domain;
use rxl_core::error::{Exit, Failure};
use rxl_core::names::MIGRATED_AWAY;
use rxl_core::state_dir::DomainLock;
use rxl_core::target_spans::TargetSpans;
use rxl_host::guard_line::{Guard, Word, log};
use rxl_host::host::Host;
use rxl_recover::{AnyRecord, End, Place, RecoverError, Settling};

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
            Answer::Unknown(reason) => match self.away.decide(&reason, &mut self.job) {
                Ok(()) => {
                    measured.mpi = self.job.figures();
                    self.wire.close(self.events);
                    return Ok(());
                }
                Err(failure) => failure,
            },
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
        let released = self.away.release(self.wire.name());
        if released.is_ok() {
            self.wire.say_released();
        }
        released
    }
}

/// A domain that was given away: renamed, standing still.
pub struct Away<'a> {
    pub(super) host: &'a dyn Host,
    pub(super) domain: Domain,
    pub(super) ledger: Ledger,
    /// Settles the record if this is dropped before that has been done.
    pub(super) guard: Guard,
    pub(super) _lock: DomainLock,
}

impl Away<'_> {
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
                .next(format!("`xl destroy {}`, or `rxl recover`", self.name()))
        })?;
        self.settled();
        self.ledger.released();
        Ok(())
    }

    /// Nothing is left for the guard.
    fn settled(&self) {
        self.guard.tell(&Word::Done);
    }

    /// The only copy is this one: it runs on here, after the failure.
    fn take_back(&self, failure: Failure, job: &mut HeldJob) -> Failure {
        if let Err(refused) = self.ledger.given_back() {
            job.abort();
            return refused.context(failure.what).with_exit(Exit::Undecided);
        }
        let returned = Returned::bring(self.host, &self.domain, true);
        match &returned.running {
            Ok(()) => job.returned(),
            Err(_) => job.abort(),
        }
        // Else the guard tries again.
        if returned.is_settled() {
            self.ledger.runs_here();
            self.settled();
        }
        returned.tell(failure, &self.domain)
    }

    /// The answer to GO did not come. The other host is asked over a fresh connection, for as long
    /// as a person may be made to wait; then the guard's and `rxl recover`'s turn begins.
    fn decide(&self, reason: &str, job: &mut HeldJob) -> Result<(), Failure> {
        let (journal, record, asking) = self.ledger.parts();
        let settling = Settling::HOST.at_once();
        let place = Place { host: self.host, journal, settling };
        let record = AnyRecord::Source(record.clone());
        tracing::warn!("no answer to GO ({reason}): asking again over a fresh connection");
        let end = asking.settle(place, &record);
        match &end {
            Ok(End::RunsOn(_)) => job.returned(),
            // Wherever the domain is, the rest of its job is not kept waiting for it.
            _ => job.abort(),
        }
        // What is open is `rxl recover`'s: the guard could do no more than this process has done.
        self.settled();
        let told = self.tell(reason, end);
        let line = told.as_ref().map_or_else(ToString::to_string, |()| "it has arrived".into());
        log("rxl", &format!("migration {} of {}: {line}", self.ledger.id(), self.domain.name));
        told
    }

    fn tell(&self, reason: &str, end: Result<End, RecoverError>) -> Result<(), Failure> {
        let unanswered =
            |exit, line: &str| Failure::new(exit, format!("no answer to GO ({reason}); {line}"));
        match end {
            Ok(End::Released(line)) => {
                tracing::info!("{line}");
                Ok(())
            }
            Ok(End::RunsOn(line)) => Err(unanswered(Exit::FailedSourceRuns, &line)),
            Ok(End::Person { what, next }) => Err(unanswered(Exit::Undecided, &what).next(next)),
            Ok(End::Waits(line)) => Err(unanswered(Exit::Undecided, &line)
                .next("rxl-recover.timer goes on by itself; `rxl recover` does it now".to_owned())),
            Ok(end) => Err(unanswered(Exit::FailedSourceRuns, end.line())),
            Err(error) => {
                Err(unanswered(Exit::Undecided, &error.to_string())
                    .next("`rxl recover` tries again"))
            }
        }
    }
}
