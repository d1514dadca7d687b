//! `rxl migrate-receive`: in place of stock xl's receiver, byte for byte on the wire.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use migrate_stream::reader::{Start, StreamReader};
use migrate_stream::xl::BANNER;

use crate::check::{Arrival, at_target};
use crate::events::Events;
use crate::incoming::{Arriving, Feeder, Holding, Receiving, TargetLedger, restore_from};
use crate::xl::inward::{Connection, XlOrigin};
use crate::xl::wire::{Announced, read_announcement};
use rxl_core::domain::{DomId, RestoreAs};
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, Guarded};
use rxl_core::names::{INCOMING, lock_key};
use rxl_core::operation::Operation;
use rxl_core::state_dir::StateDir;
use rxl_core::text::one_line;
use rxl_datapath::broken::Broken;
use rxl_handover::Other;
use rxl_host::host::Host;
use rxl_link::transport::Ticket;
use rxl_recover::Asking;

/// Most bytes read at once.
const BUFFER: usize = 1 << 20;

/// What the user of xl may ask of a receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Do not let it run.
    pub leave_paused: bool,
    /// Start no process that waits for the domain's end.
    pub no_monitor: bool,
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
    let mut connection =
        Connection::new(input, output).map_err(|e| Failure::internal("standard input", &e))?;
    connection
        .say(BANNER)
        .map_err(|e| Failure::new(Exit::Unreachable, format!("the sender is gone: {e}")))?;
    let announced = read_announcement(&mut connection.input)
        .map_err(|e| not_received(format!("the sender's stream: {e}")).caused_by(e))?;
    if options.show_config {
        // Nobody may be left to read it.
        let _ = writeln!(std::io::stderr(), "{}", announced.config_json);
    }
    let lock = state.lock(&format!("incoming-{}", lock_key(&announced.name)), &announced.name)?;
    check(&**host, &announced)?;
    tracing::info!("receiving {} over xl's protocol", announced.name);
    let incoming = format!("{}{INCOMING}", announced.name);
    let origin = XlOrigin::new(connection);
    let start = |origin: &mut XlOrigin| {
        let from = origin.stream().map_err(|e| Failure::internal("data path", &e))?;
        restore(&**host, from, &announced, &incoming, events)
            .map(|(operation, feeder)| origin.feed(operation, feeder))
    };
    let ledger = TargetLedger::begin(state, arriving(&announced, options)?)?;
    let receiving = Receiving::begin(&**host, &incoming, (&lock, ledger), origin, events, start)?;
    let (built, wire) = receiving.run(events)?;
    let Options { leave_paused, no_monitor, .. } = options;
    Holding { built, wire, name: announced.name, leave_paused, no_monitor, events }.run()
}

/// The sender has no id for the migration, and cannot be asked about it.
fn arriving(announced: &Announced, options: Options) -> Result<Arriving, Failure> {
    let ticket = Ticket::random().map_err(|e| Failure::internal("random numbers", &e))?;
    Ok(Arriving {
        id: ticket.id.to_string(),
        name: announced.name.clone(),
        config_json: announced.config_json.clone(),
        other: Other::Xl { host: None },
        leave_paused: options.leave_paused,
        no_monitor: options.no_monitor,
        asking: Asking::default(),
    })
}

fn not_received(what: String) -> Failure {
    Failure::new(Exit::FailedSourceRuns, what)
}

fn check(host: &dyn Host, announced: &Announced) -> Result<(), Failure> {
    let Announced { name, config_json, .. } = announced;
    let arrival = Arrival { name, config_json, xen_version: None };
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

/// Starts the restore from the sender's stream.
fn restore(
    host: &dyn Host,
    from: (Guarded, Cancel),
    announced: &Announced,
    incoming: &str,
    events: &Events<u64>,
) -> Result<(Operation<DomId>, Feeder), Failure> {
    let (from, cancel) = from;
    let restore_as = RestoreAs { name: incoming.into(), domid: announced.domid };
    let give = move |to_libxl| give(from, to_libxl);
    restore_from(host, &announced.config_json, &restore_as, events, cancel, give)
}

/// Reads the stream, which is judged on its way, into libxl's pipe, and nothing behind it. Bytes
/// given.
fn give(mut from: Guarded, mut to_libxl: Guarded) -> Result<u64, Broken> {
    let mut reader = StreamReader::new(Start::Libxl);
    let mut buffer = vec![0; BUFFER];
    while !reader.is_complete() {
        let wanted = usize::try_from(reader.wanted()).unwrap_or(BUFFER).min(BUFFER);
        let room = buffer.get_mut(..wanted).unwrap_or_default();
        let length = std::io::Read::read(&mut from, room)
            .map_err(|e| Broken::peer(format!("the sender's stream: {e}")))?;
        if length == 0 {
            let why = reader.finish().err().map_or_else(|| "it was cut".into(), |e| e.to_string());
            return Err(Broken::peer(format!("the sender's stream: {why}")));
        }
        let read = buffer.get(..length).unwrap_or_default();
        let mut rest = read;
        while reader
            .next(&mut rest)
            .map_err(|e| Broken::peer(format!("the sender's stream: {e}")))?
            .is_some()
        {}
        let written = to_libxl.write_all(read);
        written.map_err(|e| Broken::LibxlWrite(Arc::new(e)))?;
    }
    Ok(reader.offset())
}
