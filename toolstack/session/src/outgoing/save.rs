//! libxl's save of a domain that leaves, with its guard and its MPI job.

use std::os::fd::OwnedFd;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use crate::events::Events;
use crate::job::HeldJob;
use crate::outgoing::committed::Away;
use crate::outgoing::departure::Leaving;
use crate::outgoing::ledger::Ledger;
use crate::outgoing::measurements::Measurements;
use crate::outgoing::returning::Returned;
use crate::steering::{Desk, Signals};
use rxl_core::domain::{Domain, RunState};
use rxl_core::error::{Exit, Failure};
use rxl_core::names::MIGRATED_AWAY;
use rxl_core::operation::Operation;
use rxl_core::state_dir::DomainLock;
use rxl_core::steering::{Decision, SaveFlags, Steering, SuspendRefused, Unsteered, Walker};
use rxl_datapath::feed::Feed;
use rxl_host::guard;
use rxl_host::guard_line::Guard;
use rxl_host::host::{Host, Save};
use rxl_host::watch;
use rxl_precopy::policy::{Limits, Policy};

/// How a domain is to be saved.
#[derive(Clone, Copy)]
pub struct SavePlan {
    pub flags: SaveFlags,
    pub walker: Walker,
    /// When pre-copy ends. None where the domain stands still from the beginning and nothing is to
    /// be asked.
    pub limits: Option<Limits>,
}

/// libxl's save of a domain that leaves, running or ended. Whatever fails, the domain runs on here.
pub struct DomainSave<'a> {
    /// Dropped before the lock is, which it counts on while it acts.
    guard: Guard,
    leaving: Leaving<'a>,
    /// The MPI job that it belongs to.
    pub job: HeldJob,
    operation: Option<Operation<()>>,
    signals: Signals,
    /// None where nothing is to be asked.
    pub(super) policy: Option<Policy>,
    pub(super) waiting: Option<Waiting>,
    pub(super) ledger: Ledger,
    /// libxl, or the domain's state, has said that the guest stands still.
    suspended: bool,
    /// The domain has the name that it gets at Commit.
    renamed: bool,
}

/// A question whose answer depends on other domains.
pub enum Waiting {
    /// Asked after a live iteration, at this moment.
    Iteration(SyncSender<Decision>, Instant),
    Suspend(SyncSender<Result<(), SuspendRefused>>),
}

impl<'a> DomainSave<'a> {
    /// Asks libxl to save into `stream`, or a walker into `feed`.
    pub fn start<D: Send + 'static>(
        leaving: Leaving<'a>,
        job: HeldJob,
        plan: SavePlan,
        ledger: Ledger,
        (stream, feed): (OwnedFd, Feed),
        events: &Events<D>,
        measured: &mut Measurements,
    ) -> Result<Self, Failure> {
        measured.timeline.saving = Some(Instant::now());
        let notes = events.notes().map_err(|e| Failure::internal("data path", &e))?;
        let signals = Signals::default();
        let steering: Box<dyn Steering> = match plan.limits {
            Some(_) => Box::new(Desk::new(events.sender(), signals.clone())),
            None => Box::new(Unsteered),
        };
        let SavePlan { flags, walker, limits } = plan;
        // Where nothing is asked here, libxl asks the guest to suspend whenever it comes to that.
        let word = ledger.word(limits.is_none());
        watch::leaving(leaving.host, &leaving.domain);
        let guard = guard::start(leaving.host, &leaving.lock, &word);
        let save = Save { stream, flags, walker, notes, steering, feed };
        let operation = match leaving.host.save(leaving.domain.domid, save) {
            Ok(operation) => Some(operation),
            Err(error) => {
                if ledger.stay(false).is_ok() {
                    ledger.runs_here();
                }
                guard.done();
                return Err(Failure::from(error).with_exit(Exit::Internal));
            }
        };
        let policy = limits.map(Policy::new);
        let (waiting, suspended, renamed) = (None, false, false);
        Ok(Self {
            leaving,
            job,
            operation,
            signals,
            policy,
            waiting,
            guard,
            ledger,
            suspended,
            renamed,
        })
    }

    /// Whether libxl has ended, and [`Self::ended`] has seen it.
    pub fn is_over(&self) -> bool {
        self.operation.is_none()
    }

    /// Pre-copy is to end now.
    pub fn hurry(&self) {
        self.signals.hurry();
    }

    /// The guest stands still, whichever way it came to that.
    pub fn suspended(&mut self) -> Result<(), Failure> {
        if std::mem::replace(&mut self.suspended, true) { Ok(()) } else { self.job.suspended() }
    }

    /// libxl's operation has ended.
    pub fn ended(&mut self) -> Result<(), Failure> {
        let Some(operation) = self.operation.take() else { return Ok(()) };
        operation.wait().map_err(|e| Failure::from(e).with_exit(Exit::FailedSourceRuns))?;
        // libxl's word is not enough: what was sent is whole only if the guest really stands still.
        let Leaving { host, domain, .. } = &self.leaving;
        match host.domain(domain.domid).map_err(Failure::from)?.state {
            RunState::Suspended => self.suspended(),
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

    /// Back to where it was: the guest runs here, under its own name, and log-dirty mode is off. To
    /// be called when nobody reads libxl's stream any more.
    pub fn run_on(mut self, failure: Failure, measured: &mut Measurements) -> Failure {
        if let Err(taken) = self.ledger.stay(self.suspended) {
            self.job.abort();
            measured.mpi = self.job.figures();
            // The guard asks the target, and settles what is here.
            return taken.context(failure.what);
        }
        let Leaving { host, domain, .. } = &self.leaving;
        let returned = Returned::bring(*host, domain, self.renamed);
        match &returned.running {
            Ok(()) => self.job.returned(),
            Err(_) => self.job.abort(),
        }
        // What can still be run on, or renamed, is left to the guard, which tries again.
        if returned.is_settled() {
            self.ledger.runs_here();
            self.guard.done();
        }
        measured.mpi = self.job.figures();
        returned.tell(failure, domain)
    }

    /// The guest may be asked to suspend from here on, and may do so after rxl's death.
    pub(super) fn may_be_asked(&self) {
        self.guard.tell(&self.ledger.word(true));
    }

    /// Nobody runs the domain on from here on before it is known that GO was not said.
    pub fn record_commit(&self) -> Result<(), Failure> {
        self.ledger.commit()
    }

    /// Gives its name away: the step right before GO.
    pub fn rename_away(&mut self) -> Result<(), Failure> {
        let Leaving { host, domain, .. } = &self.leaving;
        let away = format!("{}{MIGRATED_AWAY}", domain.name);
        host.rename(domain.domid, &domain.name, &away)
            .map_err(|e| Failure::from(e).with_exit(Exit::FailedSourceRuns))?;
        self.renamed = true;
        Ok(())
    }

    /// GO has been said: what is left of it to hold.
    pub fn into_away(self) -> (Away<'a>, HeldJob) {
        let Self { leaving: Leaving { host, domain, lock, .. }, job, guard, ledger, .. } = self;
        (Away { host, domain, ledger, guard, _lock: lock }, job)
    }

    /// Its file is in place: what is left of it to hold.
    pub fn into_stored(self) -> Stored<'a> {
        let Self { leaving: Leaving { host, domain, lock, .. }, job, guard, ledger, .. } = self;
        Stored { host, domain, job, ledger, guard, _lock: lock }
    }
}

/// A domain whose file is in place, standing still.
pub struct Stored<'a> {
    pub host: &'a dyn Host,
    pub domain: Domain,
    pub job: HeldJob,
    pub ledger: Ledger,
    guard: Guard,
    _lock: DomainLock,
}

impl Stored<'_> {
    /// It has become what was asked for.
    pub fn settled(self) {
        self.ledger.released();
        self.guard.done();
    }
}
