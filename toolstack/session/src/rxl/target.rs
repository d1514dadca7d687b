//! The target's end of a migration.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::check::{Arrival, at_target};
use crate::events::{Event, Events, control_channel, unexpected};
use crate::incoming::{Arriving, Holding, Receiving, TargetLedger};
use crate::rxl::begin::{Taken, start_restore};

pub use crate::rxl::inward::Data;
use crate::rxl::inward::{RxlOrigin, await_end};
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_core::names::{INCOMING, lock_key};
use rxl_core::state_dir::{DomainLock, StateDir};
use rxl_handover::Other;
use rxl_host::host::Host;
use rxl_link::control::{Accept, Control, Hello, Incoming, Message, Offer, Refusal};
use rxl_link::transport::{Ticket, ssh_client_address};
use rxl_recover::Asking;

/// What a session needs of the process it runs in.
pub struct Endpoint {
    /// Control messages come here; the preamble has been read.
    pub input: OwnedFd,
    /// And go there.
    pub output: OwnedFd,
    /// What the preamble said.
    pub ticket: Ticket,
    /// Silence after which the source is dead, until its offer says another.
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
        self.control.set_silence(offer.silence());
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
        let arriving = arriving(ticket, &offer, source, self.asking.clone());
        match TargetLedger::begin(state, arriving) {
            Ok(ledger) => {
                let taken = Taken { state, ticket, offer: &offer, accept };
                self.take(&*host, taken, (&lock, ledger))
            }
            Err(Failure { what, next, .. }) => Err(self.refuse(Refusal { what, next })),
        }
    }

    fn take(
        self,
        host: &dyn Host,
        taken: Taken<'_>,
        custody: (&DomainLock, TargetLedger),
    ) -> Result<(), Failure> {
        let Self { control, events, .. } = self;
        let offer = taken.offer;
        let incoming = format!("{}{INCOMING}", offer.name);
        let origin = RxlOrigin::new(control);
        let start = |origin: &mut RxlOrigin| start_restore(origin, host, taken, &incoming, &events);
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
