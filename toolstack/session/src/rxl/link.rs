//! The source's control channel: opened, greeted, given up.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use migrate_stream::frame::Purpose;

use crate::events::{Event, Events, control_channel, unexpected};
use crate::gang_words::ToMember;
use crate::job::given_up;
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_core::text::one_line;
use rxl_datapath::send::Sent;
use rxl_link::control::{Accept, Control, Hello, Incoming, Message, Offer};
use rxl_link::ssh::{RECEIVER, Remote, Retries, Route};
use rxl_link::transport::Ticket;

/// The control channel with the process behind it, dropped in this order.
pub struct TargetLink {
    pub control: Control,
    remote: Remote,
    /// The target as the user named it.
    pub host: String,
}

impl TargetLink {
    /// Starts `rxl receive` there, says which migration this is, and greets it. A host that turns
    /// the connection away is tried again.
    pub fn open(
        route: &Route,
        ticket: &Ticket,
        patience: Duration,
        events: &Events<Sent>,
    ) -> Result<Self, Failure> {
        let mut retries = Retries::until(Instant::now() + deadlines::CONNECT);
        loop {
            let mut link = Self::start(route, ticket, patience, events)?;
            let failure = match link.greet(events, retries.deadline()) {
                Ok(()) => return Ok(link),
                Err(failure) => failure,
            };
            let Some(pause) = retries.after(&failure, link.remote.was_turned_away()) else {
                return Err(failure);
            };
            tracing::info!("{}; it is tried again", failure.what);
            drop(link);
            rest(events, pause)?;
        }
    }

    fn start(
        route: &Route,
        ticket: &Ticket,
        patience: Duration,
        events: &Events<Sent>,
    ) -> Result<Self, Failure> {
        let (remote, pipes) = Remote::start_for(route, RECEIVER, patience)?;
        let mut to = File::from(pipes.to);
        // So little goes into a new pipe at once. Where nobody reads it the channel is lost, too.
        let _ = to.write_all(&ticket.preamble(Purpose::Control, 0));
        let control = control_channel(events, pipes.from, to.into(), patience)
            .map_err(|e| Failure::internal("control channel", &e))?;
        Ok(Self { control, remote, host: route.host().into() })
    }

    fn greet(&mut self, events: &Events<Sent>, deadline: Instant) -> Result<(), Failure> {
        self.control.send(Message::Hello(Hello::ours()));
        match await_message(self, events, deadline)? {
            Message::Hello(hello) => hello.check(),
            Message::Refuse(refusal) => Err(refused(&self.host, refusal.what, refusal.next)),
            other => Err(Failure::new(Exit::NoPeer, unexpected(&other)).context(&self.host)),
        }
    }

    /// Tells the target that it is over, and waits until it has cleaned up and gone.
    pub fn give_up(self, reason: &str, events: &Events<Sent>) {
        self.control.send(Message::Abort { reason: reason.into() });
        let patience = if self.control.is_lost() { Duration::ZERO } else { deadlines::PEER_ABORT };
        let deadline = Instant::now() + patience;
        while let Some(event) = events.next(deadline) {
            if matches!(
                event,
                Event::Control(Incoming::Lost(_) | Incoming::Message(Message::Failed { .. }))
            ) {
                break;
            }
        }
    }
}

/// Asks the target to take the domain.
pub fn negotiate(
    link: &mut TargetLink,
    offer: Offer,
    events: &Events<Sent>,
) -> Result<Accept, Failure> {
    link.control.send(Message::Offer(Box::new(offer)));
    // Meanwhile the target makes the domain, for which it has less time.
    let deadline = Instant::now() + deadlines::CONNECT;
    match await_message(link, events, deadline)? {
        Message::Accept(accept) => Ok(accept),
        Message::Refuse(refusal) => Err(refused(&link.host, refusal.what, refusal.next)),
        other => Err(Failure::new(Exit::NoPeer, unexpected(&other)).context(&link.host)),
    }
}

fn refused(host: &str, what: String, next: Option<String>) -> Failure {
    let failure = Failure::new(Exit::Refused, format!("{host} refused: {what}"));
    match next {
        Some(next) => failure.next(one_line(&next)),
        None => failure,
    }
}

/// A message before anything has begun: whatever else happens ends the attempt.
fn await_message(
    link: &mut TargetLink,
    events: &Events<Sent>,
    deadline: Instant,
) -> Result<Message, Failure> {
    loop {
        match events.next(deadline) {
            Some(Event::Control(Incoming::Message(message))) => return Ok(message),
            Some(Event::Control(Incoming::Lost(reason))) => {
                tracing::debug!(reason, "control channel lost while connecting");
                return Err(link.remote.post_mortem());
            }
            Some(event) => check_stop(event).map(drop)?,
            None => return Err(link.remote.post_mortem()),
        }
    }
}

/// An event before anything has begun: an error where somebody wants to stop, else the event.
fn check_stop(event: Event<Sent>) -> Result<Event<Sent>, Failure> {
    match event {
        Event::Interrupt => Err(Failure::new(Exit::Cancelled, "cancelled before anything began")),
        Event::Gang(ToMember::Abort { reason }) => Err(given_up(&reason)),
        event => Ok(event),
    }
}

/// Waits, unless somebody wants to stop.
fn rest(events: &Events<Sent>, pause: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + pause;
    while let Some(event) = events.next(deadline) {
        check_stop(event)?;
    }
    Ok(())
}

/// What comes while the data connections are opened: why to stop, where somebody wants that or the
/// target is gone. All else is kept for the session.
pub struct Meanwhile<'a> {
    events: &'a Events<Sent>,
    host: &'a str,
    kept: Vec<Event<Sent>>,
}

impl<'a> Meanwhile<'a> {
    /// Begins to look.
    pub fn new(events: &'a Events<Sent>, host: &'a str) -> Self {
        Self { events, host, kept: Vec::new() }
    }

    /// Looks at what has come.
    pub fn stop(&mut self) -> Option<Failure> {
        while let Some(event) = self.events.next(Instant::now()) {
            let lost = |what: &str| Failure::new(Exit::FailedSourceRuns, what).context(self.host);
            match check_stop(event) {
                Err(why) => return Some(why),
                Ok(Event::Control(Incoming::Lost(reason))) => return Some(lost(&reason)),
                Ok(Event::Control(Incoming::Message(Message::Failed { reason }))) => {
                    return Some(lost(&reason));
                }
                Ok(event) => self.kept.push(event),
            }
        }
        None
    }
}

impl Drop for Meanwhile<'_> {
    fn drop(&mut self) {
        let sender = self.events.sender();
        // The queue is ours: it takes them.
        self.kept.drain(..).for_each(|event| drop(sender.send(event)));
    }
}
