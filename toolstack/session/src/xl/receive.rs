//! `rxl migrate-receive`: in place of stock xl's receiver, byte for byte on the wire.

use rxl_core::deadlines;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use migrate_stream::reader::{Start, StreamReader};
use migrate_stream::xl::{BANNER, GO, READY, REPORT};

use crate::check::{Arrival, at_target};
use crate::events::Events;
use crate::restoring::Restoring;
use crate::xl::wire::{Announced, Go, read_announcement, read_go, say};
use rxl_core::domain::{DomId, RestoreAs, RunState};
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_core::io::{Cancel, Guarded};
use rxl_core::names::INCOMING;
use rxl_core::names::lock_key;
use rxl_core::state_dir::{DomainLock, StateDir};
use rxl_core::text::one_line;
use rxl_datapath::broken::Broken;
use rxl_host::announce::arrival;
use rxl_host::guard;
use rxl_host::host::Host;

/// Most bytes read at once.
const BUFFER: usize = 1 << 20;

/// The status byte of success.
const RUNS: u8 = 0;

/// xl's status byte when it has not read GO: -1 of its `migrate_read_fixedmessage`'s 1.
const NOT_TOLD: u8 = 0xff;

/// xl's status byte when the domain could not be renamed or unpaused: ERROR_FAIL is -3.
const NOT_STARTED: u8 = 3;

/// What the user of xl may ask of a receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Do not let it run.
    pub leave_paused: bool,
    /// Show the configuration on standard error.
    pub show_config: bool,
}

/// Receives one domain from `input`, and answers on `output`. Both become non-blocking.
pub fn receive(
    host: &Arc<dyn Host>,
    state: &StateDir,
    (input, output): (OwnedFd, OwnedFd),
    options: Options,
    events: &Events<u64>,
) -> Result<(), Failure> {
    let mut wire = Wire::new(input, output).map_err(|e| Failure::internal("standard input", &e))?;
    wire.say(BANNER)
        .map_err(|e| Failure::new(Exit::Unreachable, format!("the sender is gone: {e}")))?;
    let announced = read_announcement(&mut wire.input)
        .map_err(|e| not_received(format!("the sender's stream: {e}")))?;
    if options.show_config {
        // Nobody may be left to read it.
        let _ = writeln!(std::io::stderr(), "{}", announced.config_json);
    }
    let lock = state.lock(&format!("incoming-{}", lock_key(&announced.name)), &announced.name)?;
    check(&**host, &announced)?;
    tracing::info!("receiving {} over xl's protocol", announced.name);
    let incoming = incoming_name(&announced.name);
    let guard = guard::coming(&**host, &incoming, &lock);
    let restored = restore(&**host, &wire, &announced, events);
    guard.done();
    let domid = restored?;
    Held { host: host.clone(), wire, name: announced.name, incoming, domid, options, _lock: lock }
        .run()
}

fn not_received(what: String) -> Failure {
    Failure::new(Exit::FailedSourceRuns, what)
}

fn incoming_name(name: &str) -> String {
    format!("{name}{INCOMING}")
}

fn check(host: &dyn Host, announced: &Announced) -> Result<(), Failure> {
    let Announced { name, max_memory_kib, .. } = announced;
    let arrival = Arrival { name, max_memory_kib: *max_memory_kib, xen_version: None };
    let refused = at_target(host, &arrival).err();
    refused.map_or(Ok(()), |refusal| {
        Err(Failure {
            next: refusal.next,
            ..Failure::new(
                Exit::Refused,
                format!("{} is refused: {}", one_line(name), refusal.what),
            )
        })
    })
}

/// Until a paused copy stands here. Whatever fails, nothing is left; the sender learns of it by the
/// end of its connection.
fn restore(
    host: &dyn Host,
    wire: &Wire,
    announced: &Announced,
    events: &Events<u64>,
) -> Result<DomId, Failure> {
    let broken = |e| Failure::internal("data path", &e);
    let restore_as = RestoreAs { name: incoming_name(&announced.name), domid: announced.domid };
    let cancel = Cancel::new().map_err(broken)?;
    let from = wire.input.with(cancel.clone(), deadlines::STALL).map_err(broken)?;
    let give = move |to_libxl| give(from, to_libxl);
    let restoring =
        Restoring::begin(host, &announced.config_json, &restore_as, events, cancel, give)?;
    let (domid, _) = restoring.run(events).map_err(|failure| match failure.exit {
        Exit::Cancelled => failure,
        _ => failure.with_exit(Exit::FailedSourceRuns),
    })?;
    Ok(domid)
}

/// Reads the stream, which is judged on its way, into libxl's pipe, and nothing behind it. Bytes
/// given.
fn give(mut from: Guarded, mut to_libxl: Guarded) -> Result<u64, Broken> {
    let mut reader = StreamReader::new(Start::Libxl);
    let mut buffer = vec![0; BUFFER];
    while !reader.is_complete() {
        let wanted = usize::try_from(reader.wanted()).unwrap_or(BUFFER).min(BUFFER);
        let length = std::io::Read::read(&mut from, &mut buffer[..wanted])
            .map_err(|e| Broken::peer(format!("the sender's stream: {e}")))?;
        if length == 0 {
            let why = reader.finish().err().map_or_else(|| "it was cut".into(), |e| e.to_string());
            return Err(Broken::peer(format!("the sender's stream: {why}")));
        }
        let mut rest = &buffer[..length];
        while reader
            .next(&mut rest)
            .map_err(|e| Broken::peer(format!("the sender's stream: {e}")))?
            .is_some()
        {}
        let written = to_libxl.write_all(&buffer[..length]);
        written.map_err(|e| Broken::libxl(format!("libxl stopped reading its stream: {e}")))?;
    }
    Ok(reader.offset())
}

/// The connection.
struct Wire {
    input: Guarded,
    output: Guarded,
}

impl Wire {
    fn new(input: OwnedFd, output: OwnedFd) -> std::io::Result<Self> {
        let cancel = Cancel::new()?;
        let input = Guarded::new(input, cancel.clone(), Some(deadlines::GO))?;
        let output = Guarded::new(output, cancel, Some(deadlines::GO))?;
        Ok(Self { input, output })
    }

    fn say(&mut self, word: &[u8]) -> Result<(), String> {
        say(&mut self.output, word)
    }
}

/// A paused copy stands here, and does not run before GO has come. An interrupt is not looked for:
/// the sender decides, within a deadline.
struct Held {
    host: Arc<dyn Host>,
    wire: Wire,
    name: String,
    incoming: String,
    domid: DomId,
    options: Options,
    _lock: DomainLock,
}

impl Held {
    fn run(mut self) -> Result<(), Failure> {
        let go = self.wire.say(READY).and_then(|()| read_go(&mut self.wire.input));
        match go {
            Ok(go) => self.take_over(go),
            Err(reason) => Err(self.give_back(
                NOT_TOLD,
                &format!("the sender did not say that it is to run: {reason}"),
            )),
        }
    }

    fn take_over(mut self, _go: Go) -> Result<(), Failure> {
        if let Err(error) = self.start_domain() {
            let paused =
                self.host.domain(self.domid).is_ok_and(|domain| domain.state == RunState::Paused);
            return Err(if paused {
                self.give_back(NOT_STARTED, &format!("it could not be started: {error}"))
            } else {
                self.undecided(&format!("it could not be started for certain: {error}"))
            });
        }
        let told = self.wire.say(&[&REPORT[..], &[RUNS]].concat());
        if !self.options.leave_paused {
            arrival(&*self.host, self.domid, &self.name);
        }
        told.map_err(|error| {
            let name = &self.name;
            let what = format!("{name} is here, and the sender could not be told: {error}");
            Failure::new(Exit::MovedWithWarnings, what)
                .next(format!("its old copy stands still there: `xl destroy {name}--migratedaway`"))
        })
    }

    fn start_domain(&self) -> Result<(), HostError> {
        self.host.rename(self.domid, &self.incoming, &self.name)?;
        if self.options.leave_paused { Ok(()) } else { self.host.unpause(self.domid) }
    }

    /// This copy does not run. It is destroyed before anything is said, so that nothing is left of
    /// it when nobody hears that; the sender may run its own again only when it is gone.
    fn give_back(mut self, status: u8, reason: &str) -> Failure {
        let destroyed = match self.host.destroy(self.domid) {
            Ok(()) | Err(HostError::NoSuchDomain(_)) => Ok(()),
            Err(error) => Err(error),
        };
        let mut words = [&REPORT[..], &[status]].concat();
        if destroyed.is_ok() {
            words.extend_from_slice(GO);
        }
        // A sender that does not hear it keeps its copy.
        if let Err(error) = self.wire.say(&words) {
            tracing::info!("the sender is gone: {error}");
        }
        let (name, domid) = (&self.name, self.domid);
        match destroyed {
            Ok(()) => not_received(format!("{name} was received and is destroyed: {reason}")),
            Err(error) => {
                let what = format!(
                    "{name} was received, and does not run: {reason}; and it could not be \
                     destroyed: {error}"
                );
                Failure::new(Exit::Undecided, what).next(format!("`xl destroy {domid}`"))
            }
        }
    }

    /// Saying nothing leaves the sender's copy as it is.
    fn undecided(&self, reason: &str) -> Failure {
        let (name, domid) = (&self.name, self.domid);
        Failure::new(Exit::Undecided, format!("{name} was received, and {reason}")).next(format!(
            "if it runs here, `xl destroy {name}--migratedaway` at the source; if not, `xl destroy \
             {domid}` here and `xl rename {name}--migratedaway {name}` and `xl resume {name}` there"
        ))
    }
}
