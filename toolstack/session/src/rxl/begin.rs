//! A domain is made, its source hears that it is taken, and its data connections are made.

use std::time::{Duration, Instant};

use crate::check::FREE_SOME;
use crate::events::{Event, Events};
use crate::rxl::inward::{Data, RxlOrigin};
use rxl_core::deadlines;
use rxl_core::domain::{DomId, RestoreAs};
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_core::io::{Cancel, Guarded, pipe};
use rxl_core::notes::{Note, NoteKind, Notes};
use rxl_core::operation::Operation;
use rxl_core::peer::Transport;
use rxl_core::state_dir::StateDir;
use rxl_core::steering::Restorer;
use rxl_core::text::one_line;
use rxl_datapath::broken::Broken;
use rxl_datapath::receive::{Pipe, Receiver};
use rxl_datapath::sink::StreamSink;
use rxl_host::host::{Host, RestoreAhead, RestoreRequest};
use rxl_link::control::{Accept, Incoming, Message, Offer};
use rxl_link::transport::{
    Connection, Expected, Rendezvous, RendezvousError, Ticket, listen_address,
};

/// A domain that passed every check.
pub(super) struct Taken<'a> {
    pub(super) state: &'a StateDir,
    pub(super) ticket: &'a Ticket,
    pub(super) offer: &'a Offer,
    pub(super) accept: Accept,
}

/// Says that the domain is taken, and waits for its data connections.
fn connect(
    origin: &mut RxlOrigin,
    taken: Taken<'_>,
    events: &Events<Data>,
) -> Result<Vec<Connection>, Failure> {
    let Taken { state, ticket, offer, accept } = taken;
    let tcp = match offer.transport {
        Transport::Ssh => None,
        Transport::Tcp => {
            Some(listen_address(offer.data_address.as_deref()).ok_or_else(no_data_address)?)
        }
    };
    let queue = events.sender();
    let deliver = move |connections: Result<_, RendezvousError>| {
        let connections = connections.map(Data::Connected);
        let broken = |error: RendezvousError| Broken::peer(error);
        let _ = queue.send(Event::Data(connections.map_err(broken)));
    };
    let stall = deadlines::stall(offer.silence());
    let expected = Expected { stall, ..Expected::new(offer.connections, tcp) };
    let rendezvous = Rendezvous::open(state, ticket, expected, deliver)?;
    let address = rendezvous.tcp.map(|listens| listens.ip().to_string());
    let port = rendezvous.tcp.map(|listens| listens.port());
    origin.control.send(Message::Accept(Accept { port, address, ..accept }));
    origin.accepted = true;
    // The rendezvous has a deadline of its own, and reports before this one.
    let deadline = Instant::now() + deadlines::DATA_CONNECTIONS + deadlines::CONNECT;
    loop {
        match events.next(deadline) {
            Some(Event::Data(Ok(Data::Connected(connections)))) => return Ok(connections),
            Some(Event::Data(Err(broken))) => {
                return Err(Failure::new(Exit::Cancelled, broken.to_string()));
            }
            event => check_wait(event, "no data connections")?,
        }
    }
}

/// Waits until Xen keeps the memory for the domain.
fn await_claim(
    operation: Operation<DomId>,
    events: &Events<Data>,
) -> Result<Operation<DomId>, Failure> {
    let deadline = Instant::now() + deadlines::CLAIM;
    loop {
        match events.next(deadline) {
            Some(Event::Note(Note { what: NoteKind::MemoryClaimed, .. })) => return Ok(operation),
            Some(Event::OperationEnded) => {
                return Err(operation.wait().err().map_or_else(ended_early, no_restore));
            }
            event => check_wait(event, "libxl has not made the domain in time")?,
        }
    }
}

/// Fails at an event that ends a wait, and where none came.
fn check_wait(event: Option<Event<Data>>, late: &str) -> Result<(), Failure> {
    let why = match event {
        Some(Event::Control(Incoming::Lost(reason))) => reason,
        Some(Event::Control(Incoming::Message(Message::Abort { reason }))) => one_line(&reason),
        Some(Event::Interrupt) => "interrupted".into(),
        Some(Event::OperationEnded) => return Err(ended_early()),
        Some(_) => return Ok(()),
        None => late.into(),
    };
    Err(Failure::new(Exit::Cancelled, why))
}

fn ended_early() -> Failure {
    Failure::new(Exit::FailedSourceRuns, "libxl ended its restore before it had begun")
}

/// The host's reason not to restore.
fn no_restore(error: HostError) -> Failure {
    let advice = matches!(error, HostError::NoMemory(_)).then_some(FREE_SOME);
    Failure { next: advice.map(Into::into), ..Failure::from(error) }
}

/// Data over TCP is asked for, and nobody has said by which address this host is reached.
fn no_data_address() -> Failure {
    let what = "it does not know by which of its addresses data is to come";
    Failure::new(Exit::Refused, what).next("name its IP address with --data-address")
}

/// Starts a restore, and then has the connections made, which become frames that `origin` hears
/// of. The source is told that its domain is taken when nothing but the domain itself can be
/// lacking.
pub(super) fn start_restore(
    origin: &mut RxlOrigin,
    host: &dyn Host,
    taken: Taken<'_>,
    incoming: &str,
    events: &Events<Data>,
) -> Result<Operation<DomId>, Failure> {
    let broken = |e| Failure::internal("data path", &e);
    origin.stall = deadlines::stall(taken.offer.silence());
    let cancel = Cancel::new().map_err(broken)?;
    let restore_as = RestoreAs { name: incoming.into(), domid: taken.offer.domid.map(DomId) };
    let notes = events.notes().map_err(broken)?;
    let (restorer, ahead) = restore(host, taken.offer, &restore_as, &cancel, notes)?;
    origin.restorer = restorer;
    let RestoreAhead { mut operation, sink } = ahead;
    if restorer == Restorer::Rxl {
        operation = await_claim(operation, events)?;
    }
    let connections = connect(origin, taken, events)?;
    let receiver = receive_frames(connections, sink, origin.stall, cancel, events)?;
    origin.receiver = Some(receiver);
    Ok(operation)
}

fn receive_frames(
    connections: Vec<Connection>,
    sink: Box<dyn StreamSink>,
    stall: Duration,
    cancel: Cancel,
    events: &Events<Data>,
) -> Result<Receiver, Failure> {
    let broken = |e| Failure::internal("data path", &e);
    let (mut streams, mut keepers) = (Vec::new(), Vec::new());
    for connection in connections {
        streams.push(Guarded::new(connection.fd, cancel.clone(), Some(stall)).map_err(broken)?);
        keepers.push(connection.keeper);
    }
    let queue = events.sender();
    let on_end = move |received: Result<_, _>| {
        // The processes behind the connections may go now.
        drop(keepers);
        let _ = queue.send(Event::Data(received.map(Data::Received)));
    };
    let queue = events.sender();
    let on_restored = move |frames| {
        let _ = queue.send(Event::Data(Ok(Data::Restored(frames))));
    };
    Receiver::start(streams, sink, cancel, on_restored, on_end).map_err(broken)
}

/// Past libxl where source and host can do that, else through libxl's pipe.
fn restore(
    host: &dyn Host,
    offer: &Offer,
    restore_as: &RestoreAs,
    cancel: &Cancel,
    notes: Notes,
) -> Result<(Restorer, RestoreAhead), Failure> {
    let request = RestoreRequest::new(&offer.config_json, restore_as, notes)?;
    if let Some(special) = offer.special_pages
        && let Some(ahead) = host.restore_ahead(&request, special, cancel).map_err(no_restore)?
    {
        return Ok((Restorer::Rxl, ahead));
    }
    let broken = |e| Failure::internal("data path", &e);
    let (reading, writing) = pipe().map_err(broken)?;
    let to_libxl = Guarded::new(writing, cancel.clone(), Some(deadlines::STALL)).map_err(broken)?;
    let operation = host.restore(request, reading).map_err(no_restore)?;
    Ok((Restorer::Libxc, RestoreAhead { operation, sink: Box::new(Pipe(to_libxl)) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rxl_core::operation::Abort;

    /// A restore that tells this note, and then ends so.
    fn restore(
        events: &Events<Data>,
        note: Option<NoteKind>,
        end: Result<DomId, HostError>,
    ) -> Operation<DomId> {
        let notes = events.notes().unwrap();
        let tell = move || {
            if let Some(what) = note {
                notes.send(Note { at: Instant::now(), what }).unwrap();
            }
            drop(notes);
            end
        };
        Operation::spawn("restore", Abort::new(|| {}), tell).unwrap()
    }

    #[test]
    fn a_domain_is_taken_once_its_memory_is_claimed() {
        let events = Events::default();
        let claimed = restore(&events, Some(NoteKind::MemoryClaimed), Ok(DomId(7)));
        assert_eq!(await_claim(claimed, &events).unwrap().wait().unwrap(), DomId(7));
    }

    #[test]
    fn a_restore_that_ends_before_says_why() {
        let events = Events::default();
        let taken = HostError::no_memory("9 MiB have been taken");
        let failure = await_claim(restore(&events, None, Err(taken)), &events).err().unwrap();
        assert_eq!((failure.exit, &*failure.what), (Exit::Refused, "9 MiB have been taken"));
        assert_eq!(failure.next.as_deref(), Some(FREE_SOME));
    }

    #[test]
    fn a_source_that_goes_ends_the_wait() {
        let events = Events::default();
        let notes = events.notes().unwrap();
        let lost = Incoming::Lost("cut".into());
        events.sender().send(Event::Control(lost)).unwrap();
        let waiting = Operation::spawn("restore", Abort::new(|| {}), || Ok(DomId(7))).unwrap();
        let failure = await_claim(waiting, &events).err().unwrap();
        assert_eq!((failure.exit, &*failure.what), (Exit::Cancelled, "cut"));
        drop(notes);
    }
}
