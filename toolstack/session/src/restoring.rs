//! A domain that libxl builds from a stream which this process gives it: out of a file, or off xl's
//! wire.

use rxl_core::deadlines;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::events::{Event, Events};
use rxl_core::domain::{DomId, RestoreAs};
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_core::io::{Cancel, Guarded, pipe};
use rxl_core::operation::Operation;
use rxl_datapath::broken::{At, Broken};
use rxl_host::host::{Host, RestoreRequest};

/// libxl is building the domain. Whatever fails, nothing of it is left.
///
/// The caller holds the lock of the name that it gets, and has found the name free.
pub struct Restoring<'a> {
    host: &'a dyn Host,
    name: String,
    operation: Option<Operation<DomId>>,
    giver: Giver,
}

/// The thread that gives libxl its stream. Dropped, it stops, and libxl's restore fails if it has
/// not ended.
struct Giver {
    cancel: Cancel,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Giver {
    fn drop(&mut self) {
        self.cancel.pull();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

impl<'a> Restoring<'a> {
    /// Starts. `give` runs on a thread of its own: it writes the stream, and tells how many bytes
    /// it had. It has to end soon after `cancel` is pulled.
    pub fn begin(
        host: &'a dyn Host,
        config_json: &str,
        restore_as: &RestoreAs,
        events: &Events<u64>,
        cancel: Cancel,
        give: impl FnOnce(Guarded) -> Result<u64, Broken> + Send + 'static,
    ) -> Result<Self, Failure> {
        let broken = |e| Failure::internal("data path", &e);
        let (reading, writing) = pipe().map_err(broken)?;
        let to_libxl =
            Guarded::new(writing, cancel.clone(), Some(deadlines::STALL)).map_err(broken)?;
        let queue = events.sender();
        let work = move || {
            let given = give(to_libxl);
            let _ = queue.send(Event::Data(given));
        };
        let thread = std::thread::Builder::new().name("give".into()).spawn(work).map_err(broken)?;
        let giver = Giver { cancel, thread: Some(thread) };
        let notes = events.notes().map_err(broken)?;
        let request = RestoreRequest::new(config_json, restore_as, notes)?;
        let operation = host.restore(request, reading)?;
        Ok(Self { host, name: restore_as.name.clone(), operation: Some(operation), giver })
    }

    /// Until libxl has restored, and every byte that it was given has been found right.
    pub fn run(mut self, events: &Events<u64>) -> Result<(DomId, u64), Failure> {
        let (mut domid, mut given) = (None, None);
        let mut deadline = None;
        loop {
            if let (Some(domid), Some(given)) = (domid, given) {
                return Ok((domid, given));
            }
            // While the stream is being read, its own deadline holds.
            let until = deadline.unwrap_or_else(|| Instant::now() + 2 * deadlines::STALL);
            let failure = match events.next(until) {
                Some(Event::Data(Ok(bytes))) => {
                    given = Some(bytes);
                    deadline = Some(Instant::now() + deadlines::DEVICES);
                    continue;
                }
                Some(Event::OperationEnded) => match self.restored() {
                    Ok(restored) => {
                        domid = Some(restored);
                        continue;
                    }
                    Err(failure) => failure,
                },
                Some(Event::Data(Err(broken))) => self.data_failure(&broken, events),
                Some(Event::Interrupt) => Failure::new(Exit::Cancelled, "cancelled"),
                Some(_) => continue,
                None => Failure::new(Exit::Internal, "libxl did not end its restore"),
            };
            return Err(self.give_up(domid, failure));
        }
    }

    fn restored(&mut self) -> Result<DomId, Failure> {
        let lost = HostError::Failed { operation: "restore", reason: "it ended twice".into() };
        let ended = self.operation.take().map_or(Err(lost), Operation::wait);
        ended.map_err(|e| Failure::from(e).with_exit(Exit::Internal))
    }

    /// When libxl has stopped reading, its own reason is the better one.
    fn data_failure(&mut self, broken: &Broken, events: &Events<u64>) -> Failure {
        let deadline = Instant::now()
            + if broken.at == At::Libxl { deadlines::LIBXL_REASON } else { Duration::ZERO };
        while let Some(event) = events.next(deadline) {
            if matches!(event, Event::OperationEnded)
                && let Err(failure) = self.restored()
            {
                return failure;
            }
        }
        let exit = if broken.at == At::Peer { Exit::BadStream } else { Exit::Internal };
        Failure::new(exit, broken.what.clone())
    }

    fn give_up(mut self, domid: Option<DomId>, failure: Failure) -> Failure {
        self.giver.cancel.pull();
        let late = self.operation.take().and_then(|operation| operation.abort_and_wait().ok());
        // The lock is held and the name was free before: a domain of that name is this restore's.
        let left = self.host.find(&self.name).ok().map(|domain| domain.domid);
        let Some(domid) = domid.or(late).or(left) else { return failure };
        match self.host.destroy(domid) {
            Ok(()) | Err(HostError::NoSuchDomain(_)) => failure,
            Err(error) => {
                let what =
                    format!("{}; and what was built of it is still there: {error}", failure.what);
                Failure { what, ..failure }.next(format!("`xl destroy {domid}`"))
            }
        }
    }
}
