//! `rxl restore`: a domain out of a file.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::saved::Saved;
use crate::data::{At, Broken};
use crate::error::{Exit, Failure};
use crate::host::{DomId, Host, HostError, Operation, RestoreAs};
use crate::io::{Cancel, Guarded, pipe};
use crate::session::target::lock_key;
use crate::session::{Event, Events, STALL_PATIENCE};
use crate::state_dir::StateDir;
use crate::stream::config::Config;

/// Bytes given to libxl at once.
const BUFFER: usize = 1 << 20;

/// How long libxl may take to say why, once it has stopped reading.
const REASON_PATIENCE: Duration = Duration::from_secs(20);

/// From the end of the stream to libxl's word: devices are attached.
const DEVICES_PATIENCE: Duration = Duration::from_secs(300);

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The file.
    pub path: PathBuf,
    /// Do not let it run.
    pub leave_paused: bool,
}

/// A domain that was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Its name.
    pub name: String,
    /// Its number here.
    pub domid: DomId,
    /// Bytes of its libxl stream.
    pub stream_bytes: u64,
}

/// Restores a domain. Nothing has happened to anything before the whole file has been checked.
pub fn restore(
    host: &dyn Host,
    state: &StateDir,
    request: &Request,
    events: &Events<u64>,
) -> Result<Restored, Failure> {
    let saved = Saved::open(&request.path)?;
    let name = name_of(&saved, request)?;
    let _lock = state.lock(&format!("incoming-{}", lock_key(&name)), &name)?;
    match host.find(&name) {
        Err(HostError::NoSuchDomain(_)) => {}
        Ok(_) => return Err(Failure::from(HostError::NameTaken(name.clone())).next(rename_it(&name))),
        Err(error) => return Err(Failure::from(error)),
    }
    saved.check()?;
    let (domid, stream_bytes) = Restoring::begin(host, &saved, &name, events)?.run(events)?;
    if !request.leave_paused {
        host.unpause(domid).map_err(|error| {
            let what = format!("{name} is restored, but does not run: {error}");
            Failure::new(Exit::MovedWithWarnings, what).next(format!("`xl unpause {name}`"))
        })?;
    }
    Ok(Restored { name, domid, stream_bytes })
}

fn rename_it(name: &str) -> String {
    format!("`xl rename {name} NEW-NAME` makes room")
}

fn name_of(saved: &Saved, request: &Request) -> Result<String, Failure> {
    let bad = |what: String| Failure::new(Exit::BadStream, format!("{}: {what}", request.path.display()));
    let config = Config::parse(saved.config_json()).map_err(|e| bad(format!("the configuration is no JSON: {e}")))?;
    config.name.filter(|name| !name.is_empty()).ok_or_else(|| bad("the configuration has no name".into()))
}

/// libxl is building the domain. Whatever fails, nothing of it is left.
struct Restoring<'a> {
    host: &'a dyn Host,
    name: &'a str,
    operation: Option<Operation<DomId>>,
    giver: Giver,
}

/// The thread that gives libxl its stream. Dropped, it stops, and libxl's restore fails if it has not ended.
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
    fn begin(host: &'a dyn Host, saved: &Saved, name: &'a str, events: &Events<u64>) -> Result<Self, Failure> {
        let broken = |e| Failure::internal("data path", &e);
        let cancel = Cancel::new().map_err(broken)?;
        let (reading, writing) = pipe().map_err(broken)?;
        let to_libxl = Guarded::new(writing, cancel.clone(), Some(STALL_PATIENCE)).map_err(broken)?;
        let stream = saved.stream().map_err(broken)?;
        let queue = events.sender();
        let give = move || {
            let given = give(stream, to_libxl);
            let _ = queue.send(Event::Data(given));
        };
        let thread = std::thread::Builder::new().name("give".into()).spawn(give).map_err(broken)?;
        let giver = Giver { cancel, thread: Some(thread) };
        let notes = events.notes().map_err(broken)?;
        let restore_as = RestoreAs { name: name.into(), domid: None };
        let operation = host.restore(saved.config_json(), &restore_as, reading, notes).map_err(Failure::from)?;
        Ok(Self { host, name, operation: Some(operation), giver })
    }

    /// Until libxl has restored, and every byte that it was given has been found right.
    fn run(mut self, events: &Events<u64>) -> Result<(DomId, u64), Failure> {
        let (mut domid, mut given) = (None, None);
        let mut deadline = None;
        loop {
            if let (Some(domid), Some(given)) = (domid, given) {
                return Ok((domid, given));
            }
            // While the stream is being read, its own deadline holds.
            let until = deadline.unwrap_or_else(|| Instant::now() + 2 * STALL_PATIENCE);
            let failure = match events.next(until) {
                Some(Event::Data(Ok(bytes))) => {
                    given = Some(bytes);
                    deadline = Some(Instant::now() + DEVICES_PATIENCE);
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
        let deadline = Instant::now() + if broken.at == At::Libxl { REASON_PATIENCE } else { Duration::ZERO };
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
        let left = self.host.find(self.name).ok().map(|domain| domain.domid);
        let Some(domid) = domid.or(late).or(left) else { return failure };
        match self.host.destroy(domid) {
            Ok(()) | Err(HostError::NoSuchDomain(_)) => failure,
            Err(error) => {
                let what = format!("{}; and what was built of it is still there: {error}", failure.what);
                Failure { what, ..failure }.next(format!("`xl destroy {domid}`"))
            }
        }
    }
}

/// Reads the stream, which checks itself, into libxl's pipe. Bytes given.
fn give(mut stream: Box<dyn Read + Send>, mut to_libxl: Guarded) -> Result<u64, Broken> {
    let mut buffer = vec![0; BUFFER];
    let mut given = 0;
    loop {
        let length = stream.read(&mut buffer).map_err(|e| Broken::peer(e.to_string()))?;
        if length == 0 {
            return Ok(given);
        }
        let written = to_libxl.write_all(&buffer[..length]);
        written.map_err(|e| Broken::libxl(format!("libxl stopped reading its stream: {e}")))?;
        given += length as u64;
    }
}
