//! Before READY: libxl restores, and whatever fails, nothing is left here.

use std::time::{Duration, Instant};

use crate::events::{Event, Events};
use crate::incoming::Origin;
use crate::incoming::built::Built;
use crate::incoming::ledger::TargetLedger;
use rxl_core::deadlines;
use rxl_core::domain::DomId;
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_core::operation::Operation;
use rxl_core::state_dir::DomainLock;
use rxl_datapath::broken::{At, Broken};
use rxl_host::guard;
use rxl_host::guard_line::{Guard, Word};
use rxl_host::host::Host;

/// libxl is building a domain. The caller holds the lock of the name that the domain gets, and has
/// found the name free: a domain of that name is this one.
pub struct Receiving<'a, O> {
    host: &'a dyn Host,
    name: String,
    origin: O,
    began: Instant,
    operation: Option<Operation<DomId>>,
    /// What libxl has built, and when it had.
    restored: Option<(DomId, Instant)>,
    guard: Guard,
    ledger: TargetLedger,
}

impl<'a, O: Origin> Receiving<'a, O> {
    /// Starts the restore of a domain under this name.
    pub fn begin(
        host: &'a dyn Host,
        name: &str,
        (lock, ledger): (&DomainLock, TargetLedger),
        mut origin: O,
        events: &Events<O::Data>,
        start: impl FnOnce(&mut O) -> Result<Operation<DomId>, Failure>,
    ) -> Result<Self, Failure> {
        let guard = guard::start(host, lock, &ledger.word());
        let began = Instant::now();
        match start(&mut origin) {
            Ok(operation) => Ok(Self {
                host,
                name: name.into(),
                origin,
                began,
                operation: Some(operation),
                restored: None,
                guard,
                ledger,
            }),
            Err(failure) => {
                ledger.abort(true);
                guard.tell(&Word::Done);
                origin.tell_failure(&failure, events);
                Err(failure)
            }
        }
    }

    /// Until libxl has restored, and every byte that it was given has been found right.
    pub fn run(mut self, events: &Events<O::Data>) -> Result<(Built<'a>, O), Failure> {
        let collected = self.collect(events);
        match collected.and_then(|restored| self.origin.verify().map(|()| restored)) {
            Ok((domid, restored_at)) => {
                let Self { host, name, origin, began, guard, ledger, .. } = self;
                Ok((Built { host, domid, name, began, restored_at, guard, ledger }, origin))
            }
            Err(failure) => Err(self.give_up(failure, events)),
        }
    }

    fn collect(&mut self, events: &Events<O::Data>) -> Result<(DomId, Instant), Failure> {
        let mut complete_at = None;
        loop {
            if self.origin.is_complete() {
                complete_at.get_or_insert_with(Instant::now);
                if let Some(restored) = self.restored {
                    return Ok(restored);
                }
            }
            // While the stream is being read, its own deadlines hold.
            let until = complete_at.map_or_else(
                || Instant::now() + 2 * self.origin.stall(),
                |at| at + deadlines::DEVICES,
            );
            let Some(event) = events.next(until) else {
                let what = if complete_at.is_some() {
                    "libxl did not end its restore"
                } else {
                    "nothing happened for too long"
                };
                return Err(Failure::new(self.origin.exit(At::Here), what));
            };
            self.take(event, events)?;
        }
    }

    fn take(&mut self, event: Event<O::Data>, events: &Events<O::Data>) -> Result<(), Failure> {
        match event {
            Event::Control(incoming) => self.origin.take_control(incoming),
            Event::Data(Ok(data)) => self.origin.take_data(data),
            Event::Data(Err(broken)) => Err(self.path_failure(&broken, events)),
            Event::OperationEnded => self.ended(),
            Event::Interrupt => Err(Failure::new(Exit::Cancelled, "cancelled")),
            // A restore asks nothing, and has no leader.
            Event::Note(_) | Event::Asked(_) | Event::Gang(_) => Ok(()),
        }
    }

    fn ended(&mut self) -> Result<(), Failure> {
        let Some(operation) = self.operation.take() else { return Ok(()) };
        let ended = operation.wait();
        let domid = ended.map_err(|e| Failure::from(e).with_exit(self.origin.exit(At::Libxl)))?;
        self.restored = Some((domid, Instant::now()));
        Ok(())
    }

    /// When libxl has stopped reading, its own reason is the better one.
    fn path_failure(&mut self, broken: &Broken, events: &Events<O::Data>) -> Failure {
        let deadline = Instant::now()
            + if broken.at() == At::Libxl { deadlines::LIBXL_REASON } else { Duration::ZERO };
        while self.operation.is_some()
            && let Some(event) = events.next(deadline)
        {
            if matches!(event, Event::OperationEnded)
                && let Err(failure) = self.ended()
            {
                return failure;
            }
        }
        Failure::new(self.origin.exit(broken.at()), broken.to_string()).caused_by(broken.clone())
    }

    /// Destroys what was built, then tells the other side.
    fn give_up(mut self, failure: Failure, events: &Events<O::Data>) -> Failure {
        self.origin.end_data();
        let late = self.operation.take().and_then(|operation| operation.abort_and_wait().ok());
        let restored = self.restored.map(|(domid, _)| domid).or(late);
        let left = restored.or_else(|| self.host.find(&self.name).ok().map(|left| left.domid));
        let failure = match left.map(|domid| (domid, self.host.destroy(domid))) {
            None | Some((_, Ok(()) | Err(HostError::NoSuchDomain(_)))) => {
                // Until here the record is open: what a killed session leaves is looked for.
                self.ledger.abort(true);
                self.guard.tell(&Word::Done);
                failure
            }
            // The guard tries again, and `rxl recover` after it.
            Some((domid, Err(error))) => {
                let what =
                    format!("{}; and what was built of it is still there: {error}", failure.what);
                Failure { what, ..failure }.next(format!("`xl destroy {domid}`"))
            }
        };
        self.origin.tell_failure(&failure, events);
        failure
    }
}
