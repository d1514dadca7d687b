//! The target's end of a migration.

use rxl_core::deadlines;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::check::{Arrival, at_target};
use crate::events::{Event, Events, control_channel, unexpected};
use rxl_core::domain::{DomId, RestoreAs, RunState};
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_core::io::{Cancel, Guarded, pipe};
use rxl_core::names::{INCOMING, lock_key};
use rxl_core::notes::Notes;
use rxl_core::operation::Operation;
use rxl_core::peer::Transport;
use rxl_core::state_dir::{DomainLock, StateDir};
use rxl_core::steering::Restorer;
use rxl_core::target_spans::TargetSpans;
use rxl_core::text::one_line;
use rxl_core::units::ms;
use rxl_datapath::broken::{At, Broken};
use rxl_datapath::receive::{Pipe, Received, Receiver};
use rxl_host::announce::arrival;
use rxl_host::guard;
use rxl_host::guard_line::{Guard, Word};
use rxl_host::host::{Host, RestoreAhead, RestoreRequest};
use rxl_link::control::{Accept, Control, Hello, Incoming, Message, Offer, Refusal, StreamEnd};
use rxl_link::transport::{
    Connection, Expected, Rendezvous, RendezvousError, Ticket, listen_address,
};

/// What the target's data path yields.
pub enum Data {
    /// All connections are there.
    Connected(Vec<Connection>),
    /// libxl has taken so many frames.
    Restored(u64),
    /// The stream has gone to libxl, verified.
    Received(Received),
}

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
    let session = Session { control, events };
    session.run(host, state, &endpoint.ticket, endpoint.patience)
}

struct Session {
    control: Control,
    events: Events<Data>,
}

impl Session {
    fn run(
        self,
        host: Result<Arc<dyn Host>, HostError>,
        state: &StateDir,
        ticket: &Ticket,
        patience: Duration,
    ) -> Result<(), Failure> {
        let offer = self.negotiate(patience)?;
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
        let receiving = Receiving::begin(self, host, offer, connections, lock)?;
        receiving.run()?.run()
    }

    fn negotiate(&self, patience: Duration) -> Result<Box<Offer>, Failure> {
        let deadline = Instant::now() + patience;
        self.control.send(Message::Hello(Hello::ours()));
        match self.await_message(deadline)? {
            Message::Hello(hello) => hello.check()?,
            other => return Err(Failure::new(Exit::NoPeer, unexpected(&other))),
        }
        match self.await_message(deadline)? {
            Message::Offer(offer) => Ok(offer),
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
        self.await_end();
        failure
    }

    fn end_dry_run(&self, accept: Accept) -> Result<(), Failure> {
        self.control.send(Message::Accept(accept));
        self.await_end();
        Ok(())
    }

    /// The source closes when it has read what was said: ending earlier could lose it.
    fn await_end(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Some(event) = self.events.next(deadline) {
            if matches!(
                event,
                Event::Control(Incoming::Lost(_) | Incoming::Message(Message::Abort { .. }))
            ) {
                return;
            }
        }
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
            let broken = |error: RendezvousError| Broken::peer(error.to_string());
            let _ = queue.send(Event::Data(connections.map_err(broken)));
        };
        let rendezvous =
            Rendezvous::open(state, ticket, Expected::new(offer.connections, tcp), deliver)
                .map_err(|failure| self.refuse(Refusal { what: failure.what, next: None }))?;
        let address = rendezvous.tcp.map(|listens| listens.ip().to_string());
        let port = rendezvous.tcp.map(|listens| listens.port());
        self.control.send(Message::Accept(Accept { port, address, ..accept }));
        // The rendezvous has a deadline of its own, and reports before this one.
        let deadline = Instant::now() + deadlines::DATA_CONNECTIONS + deadlines::CONNECT;
        loop {
            let failure = match self.events.next(deadline) {
                Some(Event::Data(Ok(Data::Connected(connections)))) => return Ok(connections),
                Some(Event::Data(Err(broken))) => {
                    self.control.send(Message::Failed { reason: broken.what.clone() });
                    broken.what
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

/// Data over TCP is asked for, and nobody has said by which address this host is reached.
fn no_data_address() -> Refusal {
    Refusal {
        what: "it does not know by which of its addresses data is to come".into(),
        next: Some("name its IP address with --data-address".into()),
    }
}

/// Before READY: pages flow into libxl. Whatever fails, nothing is left here.
pub struct Receiving {
    session: Session,
    host: Arc<dyn Host>,
    offer: Box<Offer>,
    incoming: String,
    receiver: Receiver,
    restore: Option<Operation<DomId>>,
    restorer: Restorer,
    began: Instant,
    guard: Guard,
    lock: DomainLock,
}

/// What must be there before READY.
#[derive(Default)]
struct Parts {
    domid: Option<DomId>,
    restored_at: Option<Instant>,
    received: Option<Received>,
    announced: Option<StreamEnd>,
}

impl Receiving {
    fn begin(
        session: Session,
        host: Arc<dyn Host>,
        offer: Box<Offer>,
        connections: Vec<Connection>,
        lock: DomainLock,
    ) -> Result<Self, Failure> {
        let incoming = format!("{}{INCOMING}", offer.name);
        let guard = guard::coming(&*host, &incoming, &lock);
        let started = start_restore(&session, &*host, &offer, &incoming, connections);
        let Started { receiver, restore, restorer } = started.inspect_err(|failure| {
            session.control.send(Message::Failed { reason: failure.to_string() });
        })?;
        let began = Instant::now();
        Ok(Self {
            session,
            host,
            offer,
            incoming,
            receiver,
            restore: Some(restore),
            restorer,
            began,
            guard,
            lock,
        })
    }

    fn run(mut self) -> Result<Holding, Failure> {
        let mut parts = Parts::default();
        match self.collect(&mut parts).and_then(|()| self.verify(&parts)) {
            Ok(spans) => {
                self.guard.tell(&Word::Held);
                self.session.control.send(Message::Ready(spans));
                let Self { session, host, offer, incoming, guard, lock, .. } = self;
                Ok(Holding {
                    session,
                    host,
                    offer,
                    incoming,
                    domid: DomId(spans.domid),
                    spans,
                    guard,
                    _lock: lock,
                })
            }
            Err(failure) => Err(self.give_up(failure)),
        }
    }

    /// Until libxl has restored, the data path has ended, and the source has said what it sent.
    fn collect(&mut self, parts: &mut Parts) -> Result<(), Failure> {
        while parts.domid.is_none() || parts.received.is_none() || parts.announced.is_none() {
            // The data path and libxl end by their own deadlines; the source is watched by the
            // control channel's.
            let Some(event) = self.session.events.next(Instant::now() + 2 * deadlines::STALL)
            else {
                return Err(Failure::new(Exit::FailedSourceRuns, "nothing happened for too long"));
            };
            self.take(event, parts)?;
        }
        Ok(())
    }

    fn take(&mut self, event: Event<Data>, parts: &mut Parts) -> Result<(), Failure> {
        match event {
            Event::Control(incoming) => parts.announced = Some(stream_end(incoming)?),
            Event::Data(Ok(Data::Restored(frames))) => {
                self.session.control.send(Message::Restored { frames })
            }
            Event::Data(Ok(Data::Received(received))) => parts.received = Some(received),
            Event::Data(Err(broken)) => return Err(self.data_failure(broken)),
            Event::OperationEnded => {
                parts.restored_at = Some(Instant::now());
                parts.domid = Some(self.restored()?);
            }
            Event::Interrupt => return Err(Failure::new(Exit::Cancelled, "interrupted")),
            // A restore asks nothing, and has no leader.
            Event::Data(Ok(Data::Connected(_)))
            | Event::Note(_)
            | Event::Asked(_)
            | Event::Gang(_) => {}
        }
        Ok(())
    }

    fn restored(&mut self) -> Result<DomId, Failure> {
        let ended = self.restore.take().map(Operation::wait);
        let lost = HostError::Failed { operation: "restore", reason: "it ended twice".into() };
        ended.unwrap_or(Err(lost)).map_err(|e| Failure::from(e).with_exit(Exit::FailedSourceRuns))
    }

    /// When libxl has stopped reading, its own reason is the better one.
    fn data_failure(&mut self, broken: Broken) -> Failure {
        let deadline = Instant::now()
            + if broken.at == At::Libxl { deadlines::LIBXL_REASON } else { Duration::ZERO };
        while let Some(event) = self.session.events.next(deadline) {
            if matches!(event, Event::OperationEnded)
                && let Err(failure) = self.restored()
            {
                return failure;
            }
        }
        Failure::new(Exit::FailedSourceRuns, broken.what)
    }

    /// The digest over all that libxl was given equals the source's over all that it sent.
    fn verify(&self, parts: &Parts) -> Result<TargetSpans, Failure> {
        let (Some(domid), Some(received), Some(announced)) =
            (parts.domid, &parts.received, &parts.announced)
        else {
            return Err(Failure::new(Exit::FailedSourceRuns, "READY without all of its parts"));
        };
        let ours = (received.frames, received.stream_bytes, &received.digest);
        if ours != (announced.frames, announced.bytes, &announced.digest) {
            let what = format!(
                "digest mismatch: {} frames, {} bytes, {} here; {} frames, {} bytes, {} sent",
                received.frames,
                received.stream_bytes,
                received.digest,
                announced.frames,
                announced.bytes,
                one_line(&announced.digest)
            );
            return Err(Failure::new(Exit::FailedSourceRuns, what));
        }
        let restored_at =
            parts.restored_at.map_or(received.finished, |at| at.max(received.finished));
        Ok(TargetSpans {
            domid: domid.0,
            restorer: self.restorer,
            restore_total: ms(restored_at - self.began),
            restore_after_stream: ms(restored_at.saturating_duration_since(received.stream_end)),
            resume: 0.0,
            frames_verified: received.frames,
        })
    }

    /// Destroys what was built, then tells the source.
    fn give_up(mut self, failure: Failure) -> Failure {
        drop(self.receiver);
        if let Some(restore) = self.restore.take()
            && let Ok(domid) = restore.abort_and_wait()
        {
            destroy(&*self.host, domid);
        }
        // The lock is held and the name was free before: a domain of that name is this session's.
        if let Ok(left) = self.host.find(&self.incoming) {
            destroy(&*self.host, left.domid);
        }
        self.guard.done();
        self.session.control.send(Message::Failed { reason: failure.to_string() });
        self.session.await_end();
        failure
    }
}

/// A restore under way.
struct Started {
    receiver: Receiver,
    restore: Operation<DomId>,
    restorer: Restorer,
}

fn start_restore(
    session: &Session,
    host: &dyn Host,
    offer: &Offer,
    incoming: &str,
    connections: Vec<Connection>,
) -> Result<Started, Failure> {
    let broken = |e| Failure::internal("data path", &e);
    let cancel = Cancel::new().map_err(broken)?;
    let (mut streams, mut keepers) = (Vec::new(), Vec::new());
    for connection in connections {
        streams.push(
            Guarded::new(connection.fd, cancel.clone(), Some(deadlines::STALL)).map_err(broken)?,
        );
        keepers.push(connection.keeper);
    }
    let queue = session.events.sender();
    let on_end = move |received: Result<_, _>| {
        // The processes behind the connections may go now.
        drop(keepers);
        let _ = queue.send(Event::Data(received.map(Data::Received)));
    };
    let queue = session.events.sender();
    let on_restored = move |frames| {
        let _ = queue.send(Event::Data(Ok(Data::Restored(frames))));
    };
    let restore_as = RestoreAs { name: incoming.into(), domid: offer.domid.map(DomId) };
    let notes = session.events.notes().map_err(broken)?;
    let (restorer, RestoreAhead { operation, sink }) =
        restore(host, offer, &restore_as, &cancel, notes)?;
    let receiver = Receiver::start(streams, sink, cancel, on_restored, on_end).map_err(broken)?;
    Ok(Started { receiver, restore: operation, restorer })
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

/// Before READY the source may only end its stream or give up.
fn stream_end(incoming: Incoming) -> Result<StreamEnd, Failure> {
    let why = match incoming {
        Incoming::Message(Message::StreamEnd(end)) => return Ok(end),
        Incoming::Message(Message::Abort { reason }) => {
            format!("the source gave up: {}", one_line(&reason))
        }
        Incoming::Message(other) => unexpected(&other),
        Incoming::Lost(reason) => format!("the source was lost: {reason}"),
    };
    Err(Failure::new(Exit::Cancelled, why))
}

fn destroy(host: &dyn Host, domid: DomId) {
    if let Err(error) = host.destroy(domid) {
        tracing::error!("domain {domid} is left here: {error}; `xl destroy {domid}` removes it");
    }
}

/// READY was said: a paused copy stands here, and whether it is to run is the source's to say.
pub struct Holding {
    session: Session,
    host: Arc<dyn Host>,
    offer: Box<Offer>,
    incoming: String,
    domid: DomId,
    spans: TargetSpans,
    guard: Guard,
    _lock: DomainLock,
}

/// The source's word.
struct Go {
    agent_command: Option<String>,
}

impl Holding {
    fn run(mut self) -> Result<(), Failure> {
        let decided = self.decide();
        self.guard.done();
        decided
    }

    fn decide(&mut self) -> Result<(), Failure> {
        match self.await_go() {
            Ok(Some(go)) => self.take_over(&go),
            Ok(None) => {
                destroy(&*self.host, self.domid);
                self.session
                    .control
                    .send(Message::Failed { reason: "destroyed, as the source gave up".into() });
                Err(Failure::new(Exit::Cancelled, "the source gave up"))
            }
            Err(reason) => Err(self.undecided(&reason)),
        }
    }

    /// None for Abort. An interrupt is too late here: the answer is the source's.
    fn await_go(&self) -> Result<Option<Go>, String> {
        let deadline = Instant::now() + deadlines::GO;
        loop {
            match self.session.events.next(deadline) {
                Some(Event::Control(Incoming::Message(Message::Go { agent_command }))) => {
                    return Ok(Some(Go { agent_command }));
                }
                Some(Event::Control(Incoming::Message(Message::Abort { .. }))) => return Ok(None),
                Some(Event::Control(Incoming::Message(other))) => return Err(unexpected(&other)),
                Some(Event::Control(Incoming::Lost(reason))) => return Err(reason),
                Some(_) => {}
                None => return Err(format!("no word in {} s", deadlines::GO.as_secs())),
            }
        }
    }

    fn take_over(&mut self, go: &Go) -> Result<(), Failure> {
        let begun = Instant::now();
        self.guard.tell(&Word::Taken {
            domid: self.domid.0,
            incoming: self.incoming.clone(),
            name: self.offer.name.clone(),
            paused: self.offer.leave_paused,
        });
        let started = self.start_domain(go);
        self.guard.tell(&Word::Held);
        match started {
            Ok(()) => {
                self.spans.resume = ms(begun.elapsed());
                self.session.control.send(Message::Done(self.spans));
                let announcing = (!self.offer.leave_paused).then(|| self.announce());
                self.session.await_end();
                if let Some(announcing) = announcing {
                    let _ = announcing.join();
                }
                Ok(())
            }
            Err(error) => Err(self.give_back(&error)),
        }
    }

    /// On a thread: it ends within seconds, and nobody waits for it but this program's end.
    fn announce(&self) -> std::thread::JoinHandle<()> {
        let (host, domid, name) = (self.host.clone(), self.domid, self.offer.name.clone());
        std::thread::spawn(move || arrival(&*host, domid, &name))
    }

    fn start_domain(&self, go: &Go) -> Result<(), HostError> {
        self.host.rename(self.domid, &self.incoming, &self.offer.name)?;
        if let Some(command) = &go.agent_command
            && let Err(error) = self.host.tell_agent(self.domid, command)
        {
            // The agent thaws by itself when it hears nothing.
            tracing::warn!("{}: its agent: {error}", self.offer.name);
        }
        if self.offer.leave_paused { Ok(()) } else { self.host.unpause(self.domid) }
    }

    /// Only a copy that is known not to run, and is then destroyed, lets the source run its own
    /// again.
    fn give_back(&self, error: &HostError) -> Failure {
        let paused =
            self.host.domain(self.domid).is_ok_and(|domain| domain.state == RunState::Paused);
        if !paused {
            return self.undecided(&format!("it could not be started for certain: {error}"));
        }
        if let Err(left) = self.host.destroy(self.domid) {
            return self.undecided(&format!("{error}; and it could not be destroyed: {left}"));
        }
        let reason = format!("{} could not be started there: {error}", self.offer.name);
        self.session.control.send(Message::GivenBack { reason: reason.clone() });
        self.session.await_end();
        Failure::new(Exit::FailedSourceRuns, reason)
    }

    fn undecided(&self, reason: &str) -> Failure {
        let (name, incoming) = (&self.offer.name, &self.incoming);
        let what = format!(
            "{name} was received, and whether it is to run here is not known ({reason}); \
             {incoming} is kept, paused"
        );
        Failure::new(Exit::Undecided, what).next(format!(
            "if {name} runs at the source, `xl destroy {incoming}`; if it is there as \
             {name}--migratedaway, `xl rename {incoming} {name}` and `xl unpause {name}` here"
        ))
    }
}
