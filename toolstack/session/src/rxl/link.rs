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
use rxl_link::ssh::{RECEIVER, Remote, Route};
use rxl_link::transport::Ticket;

/// The control channel with the process behind it, dropped in this order.
pub struct TargetLink {
    pub control: Control,
    remote: Remote,
    /// The target as the user named it.
    pub host: String,
}

impl TargetLink {
    /// Starts `rxl receive` there and says which migration this is.
    pub fn open(
        route: &Route,
        ticket: &Ticket,
        patience: Duration,
        events: &Events<Sent>,
    ) -> Result<Self, Failure> {
        let (mut remote, pipes) = Remote::start(route, RECEIVER)?;
        // So little goes into a new pipe at once.
        let mut to = File::from(pipes.to);
        if to.write_all(&ticket.preamble(Purpose::Control, 0)).is_err() {
            return Err(remote.post_mortem());
        }
        let control = control_channel(events, pipes.from, to.into(), patience)
            .map_err(|e| Failure::internal("control channel", &e))?;
        Ok(Self { control, remote, host: route.host().into() })
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

/// Greets the target and asks it to take the domain.
pub fn negotiate(
    link: &mut TargetLink,
    offer: Offer,
    events: &Events<Sent>,
) -> Result<Accept, Failure> {
    let deadline = Instant::now() + deadlines::CONNECT;
    link.control.send(Message::Hello(Hello::ours()));
    match await_message(link, events, deadline)? {
        Message::Hello(hello) => hello.check()?,
        Message::Refuse(refusal) => return Err(refused(&link.host, refusal.what, refusal.next)),
        other => return Err(Failure::new(Exit::NoPeer, unexpected(&other)).context(&link.host)),
    }
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
            Some(Event::Interrupt) => {
                return Err(Failure::new(Exit::Cancelled, "cancelled before anything began"));
            }
            Some(Event::Gang(ToMember::Abort { reason })) => return Err(given_up(&reason)),
            Some(_) => {}
            None => return Err(link.remote.post_mortem()),
        }
    }
}
