//! A domain on its way out, whatever takes it: before the line, and after.
//!
//! ```text
//!  Leaving   checked and locked; nothing begun
//!  Saving    libxl saves it, or has saved it: whatever fails, it runs on here
//!  ============================== Commit ==============================
//!  Away      renamed, standing still: run here again only when the target has given it back
//! ```

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use crate::check::{at_source, may_leave};
use crate::events::Events;
use crate::events::Question;
use crate::gang_words::ToMember;
use crate::job::{Job, Stop};
use crate::record::Record;
use crate::request::Request;
use crate::steering::{Desk, Signals, pages_per_second};
use rxl_core::domain::{DomId, Domain, RunState};
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_core::names::MIGRATED_AWAY;
use rxl_core::operation::Operation;
use rxl_core::state_dir::{DomainLock, StateDir};
use rxl_core::steering::{Decision, PrecopyStats};
use rxl_datapath::feed::Feed;
use rxl_host::guard;
use rxl_host::guard_line::Guard;
use rxl_host::host::{Host, Save};
use rxl_precopy::policy::{Limits, Measured, Otherwise, Policy, Verdict};

/// How long a save rests between two live iterations while other domains have not come so far.
/// Without a rest a guest that writes little would make thousands of them.
const REST: Duration = Duration::from_secs(3);

/// See the module.
pub struct Leaving {
    /// Where it is.
    pub host: Arc<dyn Host>,
    /// Which.
    pub domain: Domain,
    /// Its configuration, or the one that it is to have, as libxl's JSON.
    pub config_json: String,
    /// `MAJOR.MINOR` of the Xen here.
    pub xen_version: String,
    lock: DomainLock,
}

impl Leaving {
    /// Finds, checks and locks it.
    pub fn check(
        host: Arc<dyn Host>,
        state: &StateDir,
        request: &Request,
    ) -> Result<Self, Failure> {
        let domain = host.find(&request.domain).map_err(Failure::from)?;
        let facts = host.facts().map_err(Failure::from)?;
        at_source(&domain, &facts, request.flags.live)?;
        let lock = state.lock(&format!("domain-{}", domain.domid), &domain.name)?;
        let own = host
            .config_json(domain.domid)
            .map_err(|e| Failure::from(e).with_exit(Exit::Internal))?;
        may_leave(&domain.name, &own)?;
        let config_json = request.config_json.clone().unwrap_or(own);
        Ok(Self { host, domain, config_json, xen_version: facts.xen_version, lock })
    }
}

/// See the module.
pub struct Saving {
    leaving: Leaving,
    /// The MPI job that it belongs to.
    pub job: Job,
    operation: Option<Operation<()>>,
    signals: Signals,
    policy: Policy,
    waiting: Option<Waiting>,
    guard: Guard,
}

/// A question whose answer depends on other domains.
enum Waiting {
    /// After a live iteration, since when.
    Iteration(SyncSender<Decision>, Instant),
    Suspend(SyncSender<Result<(), String>>),
}

impl Saving {
    /// Asks libxl to save into `stream`, or a walker into `feed`.
    pub fn start<D: Send + 'static>(
        leaving: Leaving,
        job: Job,
        request: &Request,
        (stream, feed): (OwnedFd, Feed),
        events: &Events<D>,
        record: &mut Record,
    ) -> Result<Self, Failure> {
        record.timeline.saving = Some(Instant::now());
        let notes = events.notes().map_err(|e| Failure::internal("data path", &e))?;
        let signals = Signals::default();
        let steering = Box::new(Desk::new(events.sender(), signals.clone()));
        let guard = guard::leaving(&*leaving.host, &leaving.domain, &leaving.lock);
        let save =
            Save { stream, flags: request.flags, walker: request.walker, notes, steering, feed };
        let operation = leaving.host.save(leaving.domain.domid, save);
        let operation = match operation {
            Ok(operation) => operation,
            Err(error) => {
                guard.done();
                return Err(Failure::from(error).with_exit(Exit::Internal));
            }
        };
        let policy = Policy::new(request.limits);
        Ok(Self { leaving, job, operation: Some(operation), signals, policy, waiting: None, guard })
    }

    /// libxl has ended, and [`Saving::ended`] has seen it.
    pub fn is_over(&self) -> bool {
        self.operation.is_none()
    }

    /// Pre-copy is to end now.
    fn hurry(&self) {
        self.signals.hurry();
    }

    /// The save waits for it.
    pub fn answer(&mut self, question: Question, record: &mut Record) -> Result<(), Failure> {
        match question {
            Question::Precopy(stats, reply) => {
                let decided = self.decide(&stats, record);
                self.reply(reply, decided)
            }
            Question::Suspend(reply) => self.suspend(reply, record),
        }
    }

    /// With the job frozen, one more live iteration fetches what it has dirtied until now; what is
    /// left then is small. None while that cannot be said.
    fn stop(&mut self) -> Result<Option<Decision>, Failure> {
        Ok(match self.job.stop()? {
            Stop::OneIteration => Some(Decision::Continue),
            Stop::Now => Some(Decision::StopAndCopy),
            Stop::NotYet => None,
        })
    }

    /// A save that has stopped waiting fails by itself.
    fn reply(
        &mut self,
        reply: SyncSender<Decision>,
        decided: Result<Option<Decision>, Failure>,
    ) -> Result<(), Failure> {
        match decided {
            Ok(Some(decision)) => drop(reply.send(decision)),
            Ok(None) => self.waiting = Some(Waiting::Iteration(reply, Instant::now())),
            Err(failure) => {
                let _ = reply.send(Decision::Abort);
                return Err(failure);
            }
        }
        Ok(())
    }

    fn suspend(
        &mut self,
        reply: SyncSender<Result<(), String>>,
        record: &mut Record,
    ) -> Result<(), Failure> {
        let ready = self.job.may_suspend();
        record.mpi = self.job.figures();
        match &ready {
            Ok(true) => drop(reply.send(Ok(()))),
            Ok(false) => self.waiting = Some(Waiting::Suspend(reply)),
            Err(failure) => drop(reply.send(Err(failure.to_string()))),
        }
        ready.map(drop)
    }

    /// The gang's leader has said something, which may be what a question waits for.
    pub fn heard(&mut self, word: ToMember, record: &mut Record) -> Result<(), Failure> {
        self.job.heard(word)?;
        match self.waiting.take() {
            None => Ok(()),
            Some(Waiting::Suspend(reply)) => self.suspend(reply, record),
            Some(Waiting::Iteration(reply, since)) => match self.stop()? {
                None => {
                    self.waiting = Some(Waiting::Iteration(reply, since));
                    Ok(())
                }
                decided => self.reply(reply, Ok(decided)),
            },
        }
    }

    /// While others have not come so far, a live iteration now and then keeps the rest small.
    pub fn rest(&mut self) {
        let is_over = |waiting: &mut Waiting| match waiting {
            Waiting::Iteration(_, since) => since.elapsed() >= REST,
            Waiting::Suspend(_) => false,
        };
        if let Some(Waiting::Iteration(reply, _)) = self.waiting.take_if(is_over) {
            let _ = reply.send(Decision::Continue);
        }
    }

    fn decide(
        &mut self,
        stats: &PrecopyStats,
        record: &mut Record,
    ) -> Result<Option<Decision>, Failure> {
        let measured = Measured {
            iterations: stats.iteration,
            dirty: stats.dirty,
            pages_per_second: pages_per_second(&record.meter.iterations().list()),
            elapsed: record.timeline.began.elapsed(),
        };
        // A job that stands still is not kept waiting for anything better, and its last iteration
        // is not judged again.
        if self.job.is_stopping() {
            return self.stop();
        }
        let verdict = self.policy.decide(&measured);
        tracing::debug!(?measured, ?verdict, "pre-copy");
        record.judged(&measured, verdict);
        match verdict {
            Verdict::Continue => Ok(Some(Decision::Continue)),
            Verdict::Stop(_) => self.stop(),
            Verdict::Cancel(why) => {
                Err(Failure::new(Exit::Cancelled, format!("cancelled: {}", why.describe())).next(
                    "a longer --downtime-limit, or --on-timeout force, moves it all the same",
                ))
            }
        }
    }

    /// libxl's operation has ended.
    pub fn ended(&mut self) -> Result<(), Failure> {
        let Some(operation) = self.operation.take() else { return Ok(()) };
        operation.wait().map_err(|e| Failure::from(e).with_exit(Exit::FailedSourceRuns))?;
        // libxl's word is not enough: what was sent is whole only if the guest really stands still.
        let Leaving { host, domain, .. } = &self.leaving;
        match host.domain(domain.domid).map_err(Failure::from)?.state {
            RunState::Suspended => Ok(()),
            state => Err(Failure::new(
                Exit::FailedSourceRuns,
                format!("libxl saved {}, yet it is {state:?}", domain.name),
            )),
        }
    }

    /// Stops libxl. `abandon` ends the writing of data, not the reading of libxl's stream: the save
    /// helper has to clean up.
    pub fn halt(&mut self, abandon: impl FnOnce()) {
        self.signals.give_up();
        abandon();
        if let Some(operation) = self.operation.take()
            && let Err(error) = operation.abort_and_wait()
        {
            tracing::debug!("save: {error}");
        }
    }

    /// Back to where it was: the guest runs here, log-dirty is off. To be called when nobody reads
    /// libxl's stream any more.
    pub fn run_on(mut self, failure: Failure, record: &mut Record) -> Failure {
        let Leaving { host, domain, .. } = &self.leaving;
        if let Err(error) = host.logdirty_off(domain.domid) {
            tracing::warn!("{}: log-dirty mode: {error}", domain.name);
        }
        let resumed = run_on(&**host, domain.domid);
        match resumed {
            Ok(()) => {
                self.job.returned();
                self.guard.done();
            }
            Err(_) => self.job.abort(),
        }
        record.mpi = self.job.figures();
        match resumed {
            Ok(()) => Failure {
                what: format!("{}; {} runs on here", failure.what, domain.name),
                ..failure
            },
            Err(error) => Failure {
                what: format!(
                    "{}; and {} could not be resumed: {error}",
                    failure.what, domain.name
                ),
                ..failure
            }
            .next(format!("`xl list` shows its state; `xl resume {}` tries again", domain.name)),
        }
    }

    /// Gives its name away: the step right before the line.
    pub fn rename_away(&self) -> Result<Renamed, Failure> {
        let Leaving { host, domain, .. } = &self.leaving;
        let away = format!("{}{MIGRATED_AWAY}", domain.name);
        let renamed = host.rename(domain.domid, &domain.name, &away);
        renamed
            .map(|()| Renamed(away))
            .map_err(|e| Failure::from(e).with_exit(Exit::FailedSourceRuns))
    }

    /// What is left of it to hold. From here on nothing runs it here by itself, the guard neither.
    pub fn into_away(self, Renamed(name): Renamed) -> (Away, Job) {
        let Self { leaving: Leaving { host, domain, lock, .. }, job, guard, .. } = self;
        guard.done();
        (Away { host, domain, name, _lock: lock }, job)
    }
}

/// The name that a domain has got in place of its own.
pub struct Renamed(String);

/// Runs a domain on that may be running or suspended.
fn run_on(host: &dyn Host, domid: DomId) -> Result<(), HostError> {
    match host.domain(domid)?.state {
        RunState::Suspended => host.resume(domid),
        _ => Ok(()),
    }
}

/// What --timeout does, and when.
pub struct Timeout {
    cancel_at: Option<Instant>,
    force_at: Option<Instant>,
}

impl Timeout {
    /// Counted from the migration's beginning.
    pub fn new(limits: &Limits, began: Instant) -> Self {
        let at = |what| {
            limits.timeout.filter(|_| limits.on_timeout == what).map(|timeout| began + timeout)
        };
        Self { cancel_at: at(Otherwise::Cancel), force_at: at(Otherwise::Force) }
    }

    /// The earlier of when everything is cancelled and a deadline.
    pub fn or(&self, deadline: Instant) -> Instant {
        self.cancel_at.map_or(deadline, |at| at.min(deadline))
    }

    /// Everything is to be cancelled.
    pub fn has_passed(&self) -> bool {
        self.cancel_at.is_some_and(|at| Instant::now() >= at)
    }

    /// During pre-copy: cancels it, or cuts it short, once.
    pub fn look(&mut self, saving: &Saving) -> Result<(), Failure> {
        if self.has_passed() {
            return Err(Self::failure());
        }
        if self.force_at.take_if(|at| Instant::now() >= *at).is_some() {
            saving.hurry();
        }
        Ok(())
    }

    /// What is told then.
    pub fn failure() -> Failure {
        Failure::new(Exit::Cancelled, "cancelled, as --timeout has passed")
    }
}

/// See the module.
pub struct Away {
    host: Arc<dyn Host>,
    domain: Domain,
    name: String,
    _lock: DomainLock,
}

impl Away {
    /// The target runs it: this copy's resources are given back.
    pub fn release(self, target: &str) -> Result<(), Failure> {
        let Self { host, domain, name, .. } = self;
        let destroyed = host.destroy(domain.domid);
        destroyed.map_err(|error| {
            let what = format!(
                "{} runs on {target}, but its old copy here is still there: {error}",
                domain.name
            );
            Failure::new(Exit::MovedWithWarnings, what).next(format!("`xl destroy {name}`"))
        })
    }

    /// The only copy is this one: it runs on here, after the failure.
    pub fn take_back(self, failure: Failure) -> Failure {
        let (name, away) = (&self.domain.name, &self.name);
        let back = self
            .host
            .rename(self.domain.domid, away, name)
            .and_then(|()| self.host.logdirty_off(self.domain.domid))
            .and_then(|()| self.host.resume(self.domain.domid));
        match back {
            Ok(()) => Failure { what: format!("{}; {name} runs on here", failure.what), ..failure },
            Err(error) => Failure {
                what: format!("{}; and taking {name} back failed: {error}", failure.what),
                ..failure
            }
            .next(format!("`xl list`, then `xl rename {away} {name}` and `xl resume {name}`")),
        }
    }

    /// Nobody knows where it is to run.
    pub fn undecided(&self, target: &str, reason: &str) -> Failure {
        let (name, away) = (&self.domain.name, &self.name);
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
