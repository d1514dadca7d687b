//! The target as the destination of a domain, over rxl's wire.

use std::sync::Arc;
use std::time::Instant;

use crate::events::{Event, Events, unexpected};
use crate::outgoing::{Answer, Destination, Measurements, Wire};
use crate::rxl::link::TargetLink;
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_core::text::one_line;
use rxl_datapath::broken::{Broken, Cause};
use rxl_datapath::send::{Sender, Sent};
use rxl_link::control::{Incoming, Message, StreamEnd};
use rxl_link::transport::Connections;

/// The target, with the frames that are on their way to it.
pub struct RxlDestination {
    link: TargetLink,
    /// None once the data path has been ended.
    sender: Option<Sender>,
    /// The processes behind the data connections.
    connections: Connections,
    progress: Progress,
}

/// How far the stream has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Sending,
    Sent,
    /// StreamEnd was said: READY may come.
    Ended,
    Ready,
}

impl RxlDestination {
    pub fn new(link: TargetLink, sender: Sender, connections: Connections) -> Self {
        let progress = Progress::Sending;
        Self { link, sender: Some(sender), connections, progress }
    }
}

impl Destination for RxlDestination {
    type Data = Sent;

    fn name(&self) -> &str {
        &self.link.host
    }

    fn take_data(&mut self, sent: Sent, measured: &mut Measurements) -> Result<(), Failure> {
        measured.sent(sent);
        self.progress = Progress::Sent;
        Ok(())
    }

    fn take_control(
        &mut self,
        incoming: Incoming,
        measured: &mut Measurements,
    ) -> Result<(), Failure> {
        let host = &self.link.host;
        let what = match incoming {
            Incoming::Message(Message::Restored { frames }) => {
                measured.meter.backlog.restored(frames);
                return Ok(());
            }
            Incoming::Message(Message::Ready(spans)) if self.progress == Progress::Ended => {
                measured.target = Some(spans);
                self.progress = Progress::Ready;
                return Ok(());
            }
            Incoming::Message(Message::Failed { reason }) => {
                format!("{host}: {}", one_line(&reason))
            }
            Incoming::Message(other) => format!("{host}: {}", unexpected(&other)),
            Incoming::Lost(reason) => format!("the connection to {host} was lost ({reason})"),
        };
        Err(Failure::new(Exit::FailedSourceRuns, what))
    }

    fn is_sent(&self) -> bool {
        self.progress >= Progress::Sent
    }

    fn end_stream(&mut self, measured: &Measurements) -> Result<(), Failure> {
        let sent = measured.sent.as_ref().ok_or_else(|| {
            Failure::new(Exit::FailedSourceRuns, "the data path ended without a result")
        })?;
        self.link.control.send(Message::StreamEnd(StreamEnd {
            frames: sent.frames,
            bytes: sent.stream_bytes,
            digest: sent.digest.clone(),
        }));
        self.progress = Progress::Ended;
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.progress == Progress::Ready
    }

    fn path_failure(&self, broken: &Broken) -> Failure {
        let what = format!("data to {}: {broken}{}", self.link.host, self.connections.heard());
        Failure::new(Exit::FailedSourceRuns, what).caused_by(broken.clone())
    }

    fn abort(&mut self, failure: &Failure) {
        self.link.control.send(Message::Abort { reason: failure.to_string() });
    }

    fn abandon(&self) {
        if let Some(sender) = &self.sender {
            sender.abandon();
        }
    }

    fn end_data(&mut self) {
        self.sender = None;
    }

    fn wind_up(self, failure: &Failure, events: &Events<Sent>) {
        self.link.give_up(&failure.to_string(), events);
    }
}

impl Wire for RxlDestination {
    fn say_go(&mut self, agent_command: Option<String>) -> Result<(), Cause> {
        let deadline = Instant::now() + deadlines::SAY_GO;
        let said = self.link.control.send_now(Message::Go { agent_command }, deadline);
        said.map_err(|error| Arc::new(error) as Cause)
    }

    fn await_answer(&mut self, events: &Events<Sent>) -> Answer {
        let deadline = Instant::now() + deadlines::DONE;
        loop {
            let message = match events.next(deadline) {
                Some(Event::Control(Incoming::Message(message))) => message,
                Some(Event::Control(Incoming::Lost(reason))) => return Answer::Unknown(reason),
                Some(_) => continue,
                None => {
                    let seconds = deadlines::DONE.as_secs();
                    return Answer::Unknown(format!("no answer in {seconds} s"));
                }
            };
            match message {
                Message::Restored { .. } => {}
                Message::Done(spans) => return Answer::Runs(Some(spans)),
                Message::GivenBack { reason } => {
                    return Answer::GivenBack(format!("{}: {}", self.link.host, one_line(&reason)));
                }
                other => return Answer::Unknown(unexpected(&other)),
            }
        }
    }

    fn say_released(&mut self) {
        self.link.control.send(Message::Released);
    }

    /// What has been said is still written before the channel closes.
    fn close(self, _events: &Events<Sent>) {}
}
