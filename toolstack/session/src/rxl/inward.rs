//! The source as the origin of a domain, over rxl's wire.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::events::{Event, Events, unexpected};
use crate::incoming::{Built, Decision, NotRun, Origin, Wire};
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_core::steering::Restorer;
use rxl_core::target_spans::TargetSpans;
use rxl_core::text::one_line;
use rxl_core::units::ms;
use rxl_datapath::broken::{At, Cause};
use rxl_datapath::receive::{Received, Receiver};
use rxl_link::control::{Control, Incoming, Message, Refusal, StreamEnd};
use rxl_link::transport::Connection;

/// What the target's data path yields.
pub enum Data {
    /// All connections are there.
    Connected(Vec<Connection>),
    /// libxl has taken so many frames.
    Restored(u64),
    /// The stream has gone to libxl, verified.
    Received(Received),
}

/// READY or Done was to be said of a stream that has not ended.
#[derive(Debug, thiserror::Error)]
#[error("the stream has not ended, or the source has not said what it sent")]
struct Incomplete;

/// The source, with the frames that come from it.
pub struct RxlOrigin {
    pub(super) control: Control,
    /// The source has been told that the domain is taken.
    pub(super) accepted: bool,
    /// None before the data path has begun, and once it has been ended.
    pub(super) receiver: Option<Receiver>,
    pub(super) restorer: Restorer,
    /// Longest time in which no byte moves on a data connection.
    pub(super) stall: Duration,
    received: Option<Received>,
    announced: Option<StreamEnd>,
    spans: Option<TargetSpans>,
}

impl RxlOrigin {
    pub fn new(control: Control) -> Self {
        let restorer = Restorer::Libxc;
        Self {
            control,
            accepted: false,
            receiver: None,
            restorer,
            stall: deadlines::STALL,
            received: None,
            announced: None,
            spans: None,
        }
    }

    fn spans(&self, built: &Built<'_>) -> Option<TargetSpans> {
        let received = self.received.as_ref()?;
        let restored_at = built.restored_at.max(received.finished);
        Some(TargetSpans {
            domid: built.domid.0,
            restorer: self.restorer,
            restore_total: ms(restored_at - built.began),
            restore_after_stream: ms(restored_at.saturating_duration_since(received.stream_end)),
            resume: 0.0,
            frames_verified: received.frames,
        })
    }
}

impl Origin for RxlOrigin {
    type Data = Data;

    fn take_data(&mut self, data: Data) -> Result<(), Failure> {
        match data {
            Data::Restored(frames) => self.control.send(Message::Restored { frames }),
            Data::Received(received) => self.received = Some(received),
            // All of them are there by now.
            Data::Connected(_) => {}
        }
        Ok(())
    }

    /// Before READY the source may only end its stream or give up.
    fn take_control(&mut self, incoming: Incoming) -> Result<(), Failure> {
        let why = match incoming {
            Incoming::Message(Message::StreamEnd(end)) => {
                self.announced = Some(end);
                return Ok(());
            }
            Incoming::Message(Message::Abort { reason }) => {
                format!("the source gave up: {}", one_line(&reason))
            }
            Incoming::Message(other) => unexpected(&other),
            Incoming::Lost(reason) => format!("the source was lost: {reason}"),
        };
        Err(Failure::new(Exit::Cancelled, why))
    }

    fn is_complete(&self) -> bool {
        self.received.is_some() && self.announced.is_some()
    }

    fn verify(&self) -> Result<(), Failure> {
        let (Some(received), Some(announced)) = (&self.received, &self.announced) else {
            return Err(Failure::new(Exit::FailedSourceRuns, Incomplete.to_string()));
        };
        let ours = (received.frames, received.stream_bytes, &received.digest);
        if ours == (announced.frames, announced.bytes, &announced.digest) {
            return Ok(());
        }
        let what = format!(
            "digest mismatch: {} frames, {} bytes, {} here; {} frames, {} bytes, {} sent",
            received.frames,
            received.stream_bytes,
            received.digest,
            announced.frames,
            announced.bytes,
            one_line(&announced.digest)
        );
        Err(Failure::new(Exit::FailedSourceRuns, what))
    }

    fn exit(&self, _at: At) -> Exit {
        Exit::FailedSourceRuns
    }

    fn stall(&self) -> Duration {
        self.stall
    }

    fn end_data(&mut self) {
        self.receiver = None;
    }

    fn tell_failure(&mut self, failure: &Failure, events: &Events<Data>) {
        let Failure { what, next, .. } = failure;
        self.control.send(if self.accepted {
            Message::Failed { reason: failure.to_string() }
        } else {
            Message::Refuse(Refusal { what: what.clone(), next: next.clone() })
        });
        await_end(events);
    }
}

impl Wire for RxlOrigin {
    /// The source may have said GO, and have been lost: then this may be the copy that counts.
    const KEEPS_UNDECIDED: bool = true;

    fn say_ready(&mut self, built: &Built<'_>) -> Result<(), Cause> {
        let spans = self.spans(built).ok_or_else(|| Arc::new(Incomplete) as Cause)?;
        self.spans = Some(spans);
        self.control.send(Message::Ready(spans));
        Ok(())
    }

    fn await_decision(&mut self, events: &Events<Data>) -> Decision {
        let deadline = Instant::now() + deadlines::GO;
        loop {
            let message = match events.next(deadline) {
                Some(Event::Control(Incoming::Message(message))) => message,
                Some(Event::Control(Incoming::Lost(reason))) => return Decision::Unknown(reason),
                Some(_) => continue,
                None => {
                    let seconds = deadlines::GO.as_secs();
                    return Decision::Unknown(format!("no word in {seconds} s"));
                }
            };
            return match message {
                Message::Go { agent_command } => Decision::Run { agent_command },
                Message::Abort { .. } => Decision::GivenUp,
                other => Decision::Unknown(unexpected(&other)),
            };
        }
    }

    fn say_runs(&mut self, took: Duration) -> Result<(), Cause> {
        let spans = self.spans.ok_or_else(|| Arc::new(Incomplete) as Cause)?;
        self.control.send(Message::Done(TargetSpans { resume: ms(took), ..spans }));
        Ok(())
    }

    fn say_not_run(&mut self, end: NotRun, reason: &str, destroyed: bool) {
        let reason = reason.to_owned();
        match (end, destroyed) {
            (NotRun::NotTold, _) => self.control.send(Message::Failed { reason }),
            (NotRun::NotStarted, true) => self.control.send(Message::GivenBack { reason }),
            // The source may not run its own copy while this one is there.
            (NotRun::NotStarted, false) => {}
        }
    }

    fn await_end(&mut self, events: &Events<Data>) -> bool {
        await_end(events)
    }
}

/// The source closes when it has read what was said: ending earlier could lose it. True where it
/// says that its copy is destroyed.
pub(super) fn await_end(events: &Events<Data>) -> bool {
    let deadline = Instant::now() + deadlines::PEER_READS;
    while let Some(event) = events.next(deadline) {
        match event {
            Event::Control(Incoming::Message(Message::Released)) => return true,
            Event::Control(Incoming::Lost(_) | Incoming::Message(Message::Abort { .. })) => {
                return false;
            }
            _ => {}
        }
    }
    false
}
