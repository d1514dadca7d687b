//! The control channel: small, ordered messages between the source's rxl and the target's, apart
//! from the data.
//!
//! ```text
//!  source                                      target
//!    | preamble (role control, id, token)        |   the first 64 bytes on ssh's stdin
//!    | Hello ----------------------------------> |
//!    | <---------------------------------- Hello |
//!    | Offer ----------------------------------> |   checks: name, memory, Xen, guest type
//!    | <------------------------ Accept | Refuse |
//!    |           (data connections open, pages flow on them)
//!    | <------------------------ Restored{frames} |   again and again
//!    | StreamEnd{digest} ----------------------> |   the guest is suspended, all is on the wire
//!    | <------------------------- Ready | Failed |   digest agrees, libxl restored: a paused copy
//!    | Go -------------------------------------> |   from here the source never runs it again
//!    | <----------------------- Done | GivenBack |   renamed, unpaused
//! ```
//! Before `Go` the source may send `Abort` and the target `Failed` at any time. Both send `Ping`
//! when they have had nothing else to say for [`deadlines::HEARTBEAT`]. A side that has heard
//! nothing at all for the silence it was started with takes the other for dead.

mod message;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rxl_core::deadlines;
use rxl_core::text::one_line;
use std::io;
use std::os::fd::OwnedFd;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::descriptor::{Descriptor, Silence};
use crate::runtime::runtime;

pub use message::{
    Accept, Hello, MAX_MESSAGE, Message, Offer, PROTOCOL_VERSION, Refusal, StreamEnd,
};

/// Why a control channel is gone.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The other side has ended.
    #[error("the connection was closed")]
    Closed,
    /// The connection broke, or nothing came for too long.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// A message is longer than [`MAX_MESSAGE`], or what came is no message.
    #[error("not a control message (length {0})")]
    TooLong(usize),
    /// A message is no JSON, or of another protocol.
    #[error("unreadable control message: {0}")]
    Json(#[source] serde_json::Error),
}

impl From<io::Error> for ControlError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// What the channel delivers.
#[derive(Debug)]
pub enum Incoming {
    /// A message other than `Ping`.
    Message(Message),
    /// The channel is gone: closed, broken, silent for too long, or garbled. One line.
    Lost(String),
}

/// A message that waits for the writer.
struct Queued {
    message: Message,
    /// Where to tell how the writing began, if somebody waits for that.
    begun: Option<SyncSender<Result<(), ControlError>>>,
}

/// How long either direction may see nothing move, in milliseconds: the two ends agree on it once
/// they talk.
struct Agreed(AtomicU64);

impl Agreed {
    fn set(&self, silence: Duration) {
        self.0.store(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Silence for Agreed {
    fn longest(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// One end of a control channel: two tasks of the runtime. Dropping it sends what is still queued
/// and closes it.
pub struct Control {
    outgoing: Option<UnboundedSender<Queued>>,
    lost: Arc<AtomicBool>,
    silence: Arc<Agreed>,
    runtime: Handle,
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
}

impl Control {
    /// Starts a channel over a reading and a writing descriptor: pipes or sockets. Either
    /// direction may see nothing move for `silence`.
    ///
    /// What comes is given to `deliver`, which must not block. After a `Lost` nothing more comes,
    /// nor does after the channel was dropped.
    pub fn start(
        input: impl Into<OwnedFd>,
        output: impl Into<OwnedFd>,
        silence: Duration,
        mut deliver: impl FnMut(Incoming) + Send + 'static,
    ) -> io::Result<Self> {
        let runtime = runtime()?;
        let input = Descriptor::new(&runtime, input)?;
        let output = Descriptor::new(&runtime, output)?;
        let (outgoing, queue) = unbounded_channel();
        let agreed = Arc::new(Agreed(AtomicU64::new(0)));
        agreed.set(silence);
        let writer = runtime.spawn(write_queued(output, queue, agreed.clone()));
        let lost = Arc::new(AtomicBool::new(false));
        let (told, silence) = (lost.clone(), agreed.clone());
        let reader = runtime.spawn(async move {
            let error = read_all(&input, &silence, &mut deliver).await;
            told.store(true, Ordering::SeqCst);
            deliver(Incoming::Lost(one_line(&error.to_string())));
        });
        Ok(Self { outgoing: Some(outgoing), lost, silence: agreed, runtime, writer, reader })
    }

    /// Queues a message. A broken channel is told by `deliver`, not here.
    pub fn send(&self, message: Message) {
        if let Some(outgoing) = &self.outgoing {
            tracing::trace!(?message, "control out");
            // The writer is gone only when the channel is broken, and then the reader delivers
            // `Lost`.
            let _ = outgoing.send(Queued { message, begun: None });
        }
    }

    /// Writes a message, after those that are queued, and waits for that. An error says that not
    /// one byte of it has left: it was not said. Anything else counts as said: a part of it, whose
    /// arrival nobody knows, and a writer that has not answered at the deadline.
    pub fn send_now(&self, message: Message, deadline: Instant) -> Result<(), ControlError> {
        let outgoing = self.outgoing.as_ref().filter(|_| !self.is_lost());
        tracing::trace!(?message, "control out, at once");
        let (begun, told) = sync_channel(1);
        let queued = Queued { message, begun: Some(begun) };
        let sent = outgoing.map(|outgoing| outgoing.send(queued));
        sent.and_then(Result::ok).ok_or(ControlError::Closed)?;
        match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(begun) => begun,
            // The writer has ended, and what it had not taken was dropped.
            Err(RecvTimeoutError::Disconnected) => Err(ControlError::Closed),
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!("control channel: a message is not known to have left");
                Ok(())
            }
        }
    }

    /// From now on either direction may see nothing move for so long. A wait that is under way ends
    /// no sooner than it would have.
    pub fn set_silence(&self, silence: Duration) {
        self.silence.set(silence);
    }

    /// Nothing more will come: `Lost` was delivered, or is about to be.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.outgoing.take());
        let (writer, reader, silence) =
            (&mut self.writer, &mut self.reader, self.silence.longest());
        // A panic in a task has been printed.
        self.runtime.block_on(async {
            if timeout(silence, &mut *writer).await.is_err() {
                writer.abort();
                let _ = writer.await;
            }
            reader.abort();
            let _ = reader.await;
        });
    }
}

/// Sends what is queued until the queue is closed and empty, or the channel breaks.
async fn write_queued(
    output: Descriptor,
    mut queue: UnboundedReceiver<Queued>,
    silence: Arc<Agreed>,
) {
    loop {
        let queued = match timeout(deadlines::HEARTBEAT, queue.recv()).await {
            Ok(Some(queued)) => queued,
            Ok(None) => return,
            Err(_) => Queued { message: Message::Ping, begun: None },
        };
        if let Err(error) = write(&output, queued, &silence).await {
            tracing::debug!(%error, "control channel: cannot write");
            return;
        }
    }
}

/// Writes one message. Who waits for its beginning is told of that, or why nothing has left.
async fn write(output: &Descriptor, queued: Queued, silence: &Agreed) -> Result<(), ControlError> {
    let begin = async {
        let frame = queued.message.encode()?;
        Ok((output.write(&frame, silence).await?, frame))
    };
    // Who waits may have had its deadline.
    let tell = |told| queued.begun.map(|begun| begun.try_send(told));
    match begin.await {
        Ok((written, frame)) => {
            tell(Ok(()));
            Ok(output.write_all(frame.get(written..).unwrap_or_default(), silence).await?)
        }
        Err(error) => {
            tracing::debug!(%error, "control channel: cannot write");
            tell(Err(error));
            Err(ControlError::Closed)
        }
    }
}

/// Delivers messages until there are no more, and returns why.
async fn read_all(
    input: &Descriptor,
    silence: &Agreed,
    deliver: &mut impl FnMut(Incoming),
) -> ControlError {
    loop {
        match read(input, silence).await {
            Ok(Message::Ping) => {}
            Ok(message) => {
                tracing::trace!(?message, "control in");
                deliver(Incoming::Message(message));
            }
            Err(error) => return error,
        }
    }
}

async fn read(input: &Descriptor, silence: &Agreed) -> Result<Message, ControlError> {
    let mut header = [0; 4];
    input.read_exact(&mut header, silence).await?;
    let mut body = vec![0; Message::body_length(header)?];
    input.read_exact(&mut body, silence).await?;
    Message::decode(&body)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// A channel, what it delivers, and the other end's descriptors.
    fn started(silence: Duration) -> (Control, Receiver<Incoming>, File, File) {
        let (input, to) = rxl_core::io::pipe().unwrap();
        let (from, output) = rxl_core::io::pipe().unwrap();
        let (tx, rx) = channel();
        let deliver = move |incoming| drop(tx.send(incoming));
        let control = Control::start(input, output, silence, deliver).unwrap();
        (control, rx, to.into(), from.into())
    }

    fn lost(delivered: &Receiver<Incoming>) -> String {
        match delivered.recv_timeout(SOON).unwrap() {
            Incoming::Lost(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_come_in_their_order_and_the_end_after_them() {
        let (control, delivered, mut to, _from) = started(SOON);
        for frames in [1, 2] {
            to.write_all(&Message::Restored { frames }.encode().unwrap()).unwrap();
            to.write_all(&Message::Ping.encode().unwrap()).unwrap();
        }
        for expected in [1, 2] {
            let incoming = delivered.recv_timeout(SOON).unwrap();
            let Incoming::Message(Message::Restored { frames }) = incoming else {
                panic!("{incoming:?}")
            };
            assert_eq!(frames, expected);
        }
        assert!(!control.is_lost());
        drop(to);
        assert_eq!(lost(&delivered), "the connection was closed");
        assert!(control.is_lost());
    }

    #[test]
    fn what_is_queued_is_sent_before_the_channel_is_closed() {
        let (control, _delivered, _to, mut from) = started(SOON);
        let long = Message::Failed { reason: "x".repeat(3 << 20) };
        let expected = [long.encode().unwrap(), Message::Ping.encode().unwrap()].concat();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            from.read_to_end(&mut all).unwrap();
            all
        });
        control.send(long);
        control.send(Message::Ping);
        drop(control);
        assert!(reader.join().unwrap() == expected);
    }

    #[test]
    fn a_message_that_is_sent_now_has_left_or_was_not_said() {
        let (control, _delivered, _to, mut from) = started(SOON);
        let (first, go) = (Message::Ping, Message::Go { agent_command: None });
        let expected = [first.encode().unwrap(), go.encode().unwrap()].concat();
        control.send(first);
        let send_now = || control.send_now(go.clone(), Instant::now() + SOON);
        send_now().unwrap();
        let mut read = vec![0; expected.len()];
        from.read_exact(&mut read).unwrap();
        assert_eq!(read, expected);
        drop(from);
        let error = send_now().unwrap_err();
        assert!(matches!(error, ControlError::Io(_)), "{error}");
        let error = send_now().unwrap_err();
        assert!(matches!(error, ControlError::Closed), "the writer has ended: {error}");
    }

    #[test]
    fn a_silent_peer_is_lost_after_the_silence() {
        let (_control, delivered, _to, _from) = started(Duration::from_millis(50));
        let reason = lost(&delivered);
        assert!(reason.contains("nothing moved"), "{reason}");
    }

    #[test]
    fn a_silence_that_is_agreed_on_later_holds_for_a_wait_that_is_under_way() {
        let (control, delivered, _to, _from) = started(Duration::from_millis(200));
        let begun = Instant::now();
        control.set_silence(Duration::from_millis(700));
        lost(&delivered);
        assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_peer_that_reads_nothing_does_not_keep_the_channel() {
        let (control, _delivered, _to, _from) = started(Duration::from_millis(50));
        control.send(Message::Failed { reason: "x".repeat(3 << 20) });
        let begun = Instant::now();
        drop(control);
        assert!(begun.elapsed() < SOON);
    }

    #[test]
    fn rubbish_ends_the_channel() {
        for rubbish in [&[3, 0, 0, 0, b'x', b'y', b'z'][..], &[0xff; 4]] {
            let (_control, delivered, mut to, _from) = started(SOON);
            to.write_all(rubbish).unwrap();
            assert!(lost(&delivered).contains("control message"), "{rubbish:?}");
        }
    }
}
