//! `rxl restore`: a domain out of a file.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use crate::events::Events;
use crate::incoming::{Arriving, Feeder, Origin, Receiving, TargetLedger, restore_from};
use rxl_agent_protocol::{Command, Stamp, Verb};
use rxl_core::domain::{DomId, RestoreAs};
use rxl_core::domain_config::DomainConfig;
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_core::io::{Cancel, Guarded};
use rxl_core::names::lock_key;
use rxl_core::operation::Operation;
use rxl_core::state_dir::StateDir;
use rxl_datapath::broken::{At, Broken};
use rxl_handover::Other;
use rxl_handover::record::AfterSave;
use rxl_host::host::Host;
use rxl_host::watch;
use rxl_inspect::savefile::saved::Saved;
use rxl_link::transport::Ticket;
use rxl_quiesce::epoch_now;
use rxl_recover::Asking;

/// Bytes given to libxl at once.
const BUFFER: usize = 1 << 20;

/// What the user of `rxl restore` asked for.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    pub path: PathBuf,
    /// The domain is not to run yet.
    pub leave_paused: bool,
    /// No process is to wait for the domain's end.
    pub no_monitor: bool,
}

/// A domain that was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
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
    request: &RestoreRequest,
    events: &Events<u64>,
) -> Result<Restored, Failure> {
    let saved = Saved::open(&request.path)?;
    let name = name_of(&saved, request)?;
    let lock = state.lock(&format!("incoming-{}", lock_key(&name)), &name)?;
    match host.find(&name) {
        Err(HostError::NoSuchDomain(_)) => {}
        Ok(_) => {
            return Err(Failure::from(HostError::NameTaken(name.clone())).next(rename_it(&name)));
        }
        Err(error) => return Err(Failure::from(error)),
    }
    saved.check()?;
    let origin = FileOrigin { feeder: None, given: None };
    let start = |origin: &mut FileOrigin| {
        let (operation, feeder) = start(host, &saved, &name, events)?;
        origin.feeder = Some(feeder);
        Ok(operation)
    };
    let ledger = TargetLedger::begin(state, arriving(&saved, &name, request)?)?;
    let receiving = Receiving::begin(host, &name, (&lock, ledger), origin, events, start)?;
    let (built, origin) = receiving.run(events)?;
    // Before it may run: what runs is not to be destroyed.
    let taken = host.mark(built.domid, built.ledger.id()).map_err(Failure::from);
    taken.and_then(|()| built.ledger.hold(built.domid))?;
    built.ledger.take().map_err(Failure::from)?;
    let (domid, stream_bytes) = (built.domid, origin.given.unwrap_or_default());
    let_ranks_run(host, domid, &name);
    if !request.leave_paused {
        host.unpause(domid).map_err(|error| {
            let what = format!("{name} is restored, but does not run: {error}");
            Failure::new(Exit::MovedWithWarnings, what).next(format!("`xl unpause {name}`"))
        })?;
    }
    if !request.no_monitor {
        watch::start(host, domid);
    }
    built.ledger.started();
    built.ledger.settled();
    built.settled();
    Ok(Restored { name, domid, stream_bytes })
}

/// What the restore's record says from its beginning on.
fn arriving(saved: &Saved, name: &str, request: &RestoreRequest) -> Result<Arriving, Failure> {
    let ticket = Ticket::random().map_err(|e| Failure::internal("random numbers", &e))?;
    let path = request.path.clone();
    Ok(Arriving {
        id: ticket.id.to_string(),
        name: name.into(),
        config_json: saved.config_json().into(),
        other: Other::File { path, unfinished: None, after: AfterSave::Run },
        leave_paused: request.leave_paused,
        no_monitor: request.no_monitor,
        asking: Asking::default(),
    })
}

/// A domain that was saved with its MPI ranks frozen has its agent's epoch in it. A later one ends
/// that; without a word the agent would wait for the end of its lease. Without an agent nobody
/// reads it.
fn let_ranks_run(host: &dyn Host, domid: DomId, name: &str) {
    let command = Command { stamp: Stamp { epoch: epoch_now(), sequence: 1 }, verb: Verb::Abort };
    if let Err(error) = host.tell_agent(domid, &command.to_string()) {
        tracing::warn!("{name}: its agent: {error}");
    }
}

fn start(
    host: &dyn Host,
    saved: &Saved,
    name: &str,
    events: &Events<u64>,
) -> Result<(Operation<DomId>, Feeder), Failure> {
    let broken = |e| Failure::internal("data path", &e);
    let stream = saved.stream().map_err(broken)?;
    let restore_as = RestoreAs { name: name.into(), domid: None };
    let cancel = Cancel::new().map_err(broken)?;
    let give = move |to_libxl| give(stream, to_libxl);
    restore_from(host, saved.config_json(), &restore_as, events, cancel, give)
}

/// The file as the origin of a domain. Its stream checks itself while it is read.
struct FileOrigin {
    /// None before the data path has begun, and once it has been ended.
    feeder: Option<Feeder>,
    /// Bytes that libxl has been given, once that is all.
    given: Option<u64>,
}

impl Origin for FileOrigin {
    type Data = u64;

    fn take_data(&mut self, bytes: u64) -> Result<(), Failure> {
        self.given = Some(bytes);
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.given.is_some()
    }

    fn exit(&self, at: At) -> Exit {
        if at == At::Peer { Exit::BadStream } else { Exit::Internal }
    }

    fn end_data(&mut self) {
        self.feeder = None;
    }
}

fn rename_it(name: &str) -> String {
    format!("`xl rename {name} NEW-NAME` makes room")
}

fn name_of(saved: &Saved, request: &RestoreRequest) -> Result<String, Failure> {
    let bad =
        |what: String| Failure::new(Exit::BadStream, format!("{}: {what}", request.path.display()));
    let config = DomainConfig::parse(saved.config_json())
        .map_err(|error| bad(format!("the configuration {error}")))?;
    let name = config.name().ok_or_else(|| bad("the configuration has no name".into()))?;
    Ok(name.to_owned())
}

/// Reads the stream, which checks itself, into libxl's pipe. Bytes given.
fn give(mut stream: Box<dyn Read + Send>, mut to_libxl: Guarded) -> Result<u64, Broken> {
    let mut buffer = vec![0; BUFFER];
    let mut given = 0;
    loop {
        let length = stream.read(&mut buffer).map_err(Broken::peer)?;
        if length == 0 {
            return Ok(given);
        }
        let written = to_libxl.write_all(buffer.get(..length).unwrap_or_default());
        written.map_err(|e| Broken::LibxlWrite(Arc::new(e)))?;
        given += length as u64;
    }
}
