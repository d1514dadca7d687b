//! The target's end of a migration.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::check::{Arrival, at_target};
use crate::events::{Event, Events, control_channel, unexpected};
use crate::incoming::{Arriving, Holding, Receiving, TargetLedger};
use rxl_core::deadlines;

pub use crate::rxl::inward::Data;
use crate::rxl::inward::{RxlOrigin, await_end};
use rxl_core::domain::{DomId, RestoreAs};
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_core::io::{Cancel, Guarded, pipe};
use rxl_core::names::{INCOMING, lock_key};
use rxl_core::notes::Notes;
use rxl_core::operation::Operation;
use rxl_core::peer::Transport;
use rxl_core::state_dir::{DomainLock, StateDir};
use rxl_core::steering::Restorer;
use rxl_core::text::one_line;
use rxl_datapath::broken::Broken;
use rxl_datapath::receive::{Pipe, Receiver};
use rxl_handover::Other;
use rxl_host::host::{Host, RestoreAhead, RestoreRequest};
use rxl_link::control::{Accept, Control, Hello, Incoming, Message, Offer, Refusal};
use rxl_link::transport::{
    Connection, Expected, Rendezvous, RendezvousError, Ticket, listen_address, ssh_client_address,
};
use rxl_recover::Asking;

/// What a session needs of the process it runs in.
pub struct Endpoint {
    /// Control messages come here; the preamble has been read.
    pub input: OwnedFd,
    /// And go there.
    pub output: OwnedFd,
    /// What the preamble said.
    pub ticket: Ticket,
    /// Silence after which the source is dead.
    pub patience: Duration,
    /// How the source is asked when its word does not come.
    pub asking: Asking,
}

/// Receives one domain. `host` is an error where this machine has no Xen: the source hears of it.
pub fn receive(
    host: Result<Arc<dyn Host>, HostError>,
    state: &StateDir,
    endpoint: Endpoint,
    events: Events<Data>,
) -> Result<(), Failure> {
    let control = control_channel(&events, endpoint.input, endpoint.output, endpoint.patience)
        .map_err(|e| Failure::internal("control channel", &e))?;
    let session = Session { control, events, asking: endpoint.asking };
    session.run(host, state, &endpoint.ticket, endpoint.patience)
}

struct Session {
    control: Control,
    events: Events<Data>,
    asking: Asking,
}

impl Session {
    fn run(
        self,
        host: Result<Arc<dyn Host>, HostError>,
        state: &StateDir,
        ticket: &Ticket,
        patience: Duration,
    ) -> Result<(), Failure> {
        let (source, offer) = self.negotiate(patience)?;
        let host = match host {
            Ok(host) => host,
            Err(error) => return Err(self.refuse(Refusal { what: error.to_string(), next: None })),
        };
        let lock = match state.lock(&format!("incoming-{}", lock_key(&offer.name)), &offer.name) {
            Ok(lock) => lock,
            Err(failure) => {
                return Err(self.refuse(Refusal { what: failure.what, next: failure.next }));
            }
        };
        let accept = match at_target(&*host, &Arrival::from(&*offer)) {
            Ok(accept) => accept,
            Err(refusal) => return Err(self.refuse(refusal)),
        };
        if offer.dry_run {
            return self.end_dry_run(accept);
        }
        let connections = self.connect(state, ticket, &offer, accept)?;
        let arriving = arriving(ticket, &offer, source, self.asking.clone());
        match TargetLedger::begin(state, arriving) {
            Ok(ledger) => self.take(&*host, &offer, connections, (&lock, ledger)),
            Err(failure) => {
                self.control.send(Message::Failed { reason: failure.to_string() });
                await_end(&self.events);
                Err(failure)
            }
        }
    }

    fn take(
        self,
        host: &dyn Host,
        offer: &Offer,
        connections: Vec<Connection>,
        custody: (&DomainLock, TargetLedger),
    ) -> Result<(), Failure> {
        let Self { control, events, .. } = self;
        let incoming = format!("{}{INCOMING}", offer.name);
        let origin = RxlOrigin::new(control);
        let start = |origin: &mut RxlOrigin| {
            start_restore(origin, host, offer, &incoming, connections, &events)
        };
        let receiving = Receiving::begin(host, &incoming, custody, origin, &events, start)?;
        let (built, wire) = receiving.run(&events)?;
        let (name, leave_paused) = (offer.name.clone(), offer.leave_paused);
        let no_monitor = offer.no_monitor;
        Holding { built, wire, name, leave_paused, no_monitor, events: &events }.run()
    }

    /// The source's own name, and what it offers.
    fn negotiate(&self, patience: Duration) -> Result<(String, Box<Offer>), Failure> {
        let deadline = Instant::now() + patience;
        self.control.send(Message::Hello(Hello::ours()));
        let source = match self.await_message(deadline)? {
            Message::Hello(hello) => hello.check().map(|()| hello.host)?,
            other => return Err(Failure::new(Exit::NoPeer, unexpected(&other))),
        };
        match self.await_message(deadline)? {
            Message::Offer(offer) => Ok((source, offer)),
            other => Err(Failure::new(Exit::NoPeer, unexpected(&other))),
        }
    }

    fn await_message(&self, deadline: Instant) -> Result<Message, Failure> {
        loop {
            match self.events.next(deadline) {
                Some(Event::Control(Incoming::Message(message))) => return Ok(message),
                Some(Event::Control(Incoming::Lost(reason))) => {
                    return Err(Failure::new(Exit::Cancelled, reason));
                }
                Some(Event::Interrupt) => return Err(Failure::new(Exit::Cancelled, "interrupted")),
                Some(_) => {}
                None => return Err(Failure::new(Exit::Cancelled, "the source said nothing")),
            }
        }
    }

    fn refuse(&self, refusal: Refusal) -> Failure {
        let failure = Failure::new(Exit::Refused, refusal.what.clone());
        self.control.send(Message::Refuse(refusal));
        await_end(&self.events);
        failure
    }

    fn end_dry_run(&self, accept: Accept) -> Result<(), Failure> {
        self.control.send(Message::Accept(accept));
        await_end(&self.events);
        Ok(())
    }

    fn connect(
        &self,
        state: &StateDir,
        ticket: &Ticket,
        offer: &Offer,
        accept: Accept,
    ) -> Result<Vec<Connection>, Failure> {
        let tcp = match offer.transport {
            Transport::Ssh => None,
            Transport::Tcp => Some(
                listen_address(offer.data_address.as_deref())
                    .ok_or_else(|| self.refuse(no_data_address()))?,
            ),
        };
        let queue = self.events.sender();
        let deliver = move |connections: Result<_, RendezvousError>| {
            let connections = connections.map(Data::Connected);
            let broken = |error: RendezvousError| Broken::peer(error);
            let _ = queue.send(Event::Data(connections.map_err(broken)));
        };
        let rendezvous =
            Rendezvous::open(state, ticket, Expected::new(offer.connections, tcp), deliver)
                .map_err(|failure| self.refuse(Refusal { what: failure.what, next: None }))?;
        let address = rendezvous.tcp.map(|listens| listens.ip().to_string());
        let port = rendezvous.tcp.map(|listens| listens.port());
        self.control.send(Message::Accept(Accept { port, address, ..accept }));
        self.await_connections()
    }

    fn await_connections(&self) -> Result<Vec<Connection>, Failure> {
        // The rendezvous has a deadline of its own, and reports before this one.
        let deadline = Instant::now() + deadlines::DATA_CONNECTIONS + deadlines::CONNECT;
        loop {
            let failure = match self.events.next(deadline) {
                Some(Event::Data(Ok(Data::Connected(connections)))) => return Ok(connections),
                Some(Event::Data(Err(broken))) => {
                    self.control.send(Message::Failed { reason: broken.to_string() });
                    broken.to_string()
                }
                Some(Event::Control(Incoming::Lost(reason))) => reason,
                Some(Event::Control(Incoming::Message(Message::Abort { reason }))) => {
                    one_line(&reason)
                }
                Some(Event::Interrupt) => "interrupted".into(),
                Some(_) => continue,
                None => "no data connections".into(),
            };
            return Err(Failure::new(Exit::Cancelled, failure));
        }
    }
}

/// What the record says from its beginning on. The source is asked by its own name, else at the
/// address that its ssh came from.
fn arriving(ticket: &Ticket, offer: &Offer, source: String, asking: Asking) -> Arriving {
    let is_a_host = |host: &String| {
        !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b))
            && !host.starts_with('-')
    };
    let address = ssh_client_address().map(|address| address.to_string());
    let hosts = [Some(source), address].into_iter().flatten().filter(is_a_host).collect();
    Arriving {
        id: ticket.id.to_string(),
        name: offer.name.clone(),
        config_json: offer.config_json.clone(),
        other: Other::Rxl { hosts, ssh_command: None },
        leave_paused: offer.leave_paused,
        no_monitor: offer.no_monitor,
        asking,
    }
}

/// Data over TCP is asked for, and nobody has said by which address this host is reached.
fn no_data_address() -> Refusal {
    Refusal {
        what: "it does not know by which of its addresses data is to come".into(),
        next: Some("name its IP address with --data-address".into()),
    }
}

/// Starts a restore from the connections, which become frames that `origin` hears of.
fn start_restore(
    origin: &mut RxlOrigin,
    host: &dyn Host,
    offer: &Offer,
    incoming: &str,
    connections: Vec<Connection>,
    events: &Events<Data>,
) -> Result<Operation<DomId>, Failure> {
    let broken = |e| Failure::internal("data path", &e);
    let cancel = Cancel::new().map_err(broken)?;
    let (mut streams, mut keepers) = (Vec::new(), Vec::new());
    for connection in connections {
        streams.push(
            Guarded::new(connection.fd, cancel.clone(), Some(deadlines::STALL)).map_err(broken)?,
        );
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
    let restore_as = RestoreAs { name: incoming.into(), domid: offer.domid.map(DomId) };
    let notes = events.notes().map_err(broken)?;
    let (restorer, RestoreAhead { operation, sink }) =
        restore(host, offer, &restore_as, &cancel, notes)?;
    origin.restorer = restorer;
    let receiver = Receiver::start(streams, sink, cancel, on_restored, on_end).map_err(broken)?;
    origin.receiver = Some(receiver);
    Ok(operation)
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
        && let Some(ahead) = host.restore_ahead(&request, special, cancel)?
    {
        return Ok((Restorer::Rxl, ahead));
    }
    let broken = |e| Failure::internal("data path", &e);
    let (reading, writing) = pipe().map_err(broken)?;
    let to_libxl = Guarded::new(writing, cancel.clone(), Some(deadlines::STALL)).map_err(broken)?;
    let operation = host.restore(request, reading)?;
    Ok((Restorer::Libxc, RestoreAhead { operation, sink: Box::new(Pipe(to_libxl)) }))
}
