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
//!    | StreamEnd{digest} ----------------------> |   the guest is suspended, all its state is on the wire
//!    | <------------------------- Ready | Failed |   digest agrees, libxl restored: a paused copy stands there
//!    | Go -------------------------------------> |   the line: from here the source never runs it again by itself
//!    | <----------------------- Done | GivenBack |   renamed, unpaused
//! ```
//! Before `Go` the source may send `Abort` and the target `Failed` at any time; both send `Ping`
//! when they have had nothing else to say for [`deadlines::HEARTBEAT`], and a side that has heard nothing at
//! all for its patience takes the other for dead.
//!
//! Wire format: u32 length (little-endian, at most [`MAX_MESSAGE`]), then that many bytes of JSON.

use rxl_core::deadlines;
use std::io;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use rxl_core::domain::SpecialPages;
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, Guarded};
use rxl_core::peer::Transport;
use rxl_core::target_spans::TargetSpans;
use rxl_core::text::one_line;

/// Version of this protocol. Another version is refused: a wrong guess could lose a domain.
pub const PROTOCOL_VERSION: u32 = 3;

/// Largest message in bytes. A domain's configuration in JSON takes some tens of KiB.
pub const MAX_MESSAGE: usize = 4 << 20;

/// What the two sides say to each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum Message {
    /// Who speaks.
    Hello(Hello),
    /// Source: take this domain?
    Offer(Box<Offer>),
    /// Target: yes; send its data.
    Accept(Accept),
    /// Target: no, and nothing was begun.
    Refuse(Refusal),
    /// Target: how far it has come. See [`rxl_datapath::backlog`].
    Restored {
        /// Frames that libxl has taken.
        frames: u64,
    },
    /// Source: the stream is complete.
    StreamEnd(StreamEnd),
    /// Target: verified and restored; the domain stands paused under its incoming name.
    Ready(TargetSpans),
    /// Source: it is yours.
    Go {
        /// Before it runs, write this command for its guest's agent (rxl-agent-protocol).
        agent_command: Option<String>,
    },
    /// Target: it runs.
    Done(TargetSpans),
    /// Target, after `Go`: it could not run the domain and has destroyed its copy. The source's is
    /// the only one.
    GivenBack {
        /// One line.
        reason: String,
    },
    /// Target, before `Go`: given up; why. Its copy is gone.
    Failed {
        /// One line.
        reason: String,
    },
    /// Source: given up before `Go`; the domain runs on at the source.
    Abort {
        /// One line.
        reason: String,
    },
    /// I am alive.
    Ping,
}

/// The first message of each side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// rxl's version, for people.
    pub rxl: String,
    /// The host's own name, for people.
    pub host: String,
}

impl Hello {
    /// This side's.
    pub fn ours() -> Self {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        Self {
            protocol: PROTOCOL_VERSION,
            rxl: env!("CARGO_PKG_VERSION").into(),
            host: host.unwrap_or_else(|| "unknown".into()),
        }
    }

    /// Refuses a peer that speaks another protocol.
    pub fn check(&self) -> Result<(), Failure> {
        if self.protocol == PROTOCOL_VERSION {
            return Ok(());
        }
        let what = format!(
            "rxl {} on {} speaks migration protocol {}, this rxl {} speaks {PROTOCOL_VERSION}",
            one_line(&self.rxl),
            one_line(&self.host),
            self.protocol,
            env!("CARGO_PKG_VERSION"),
        );
        Err(Failure::new(Exit::NoPeer, what).next("install the same rxl on both hosts"))
    }
}

/// The source's question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The domain's name at the source.
    pub name: String,
    /// libxl's JSON configuration, as the target is to use it.
    pub config_json: String,
    /// `pv`, `pvh` or `hvm`.
    pub guest_type: String,
    /// Memory that the domain may take, in KiB.
    pub max_memory_kib: u64,
    /// Version of the source's Xen.
    pub xen_version: String,
    /// How data will come.
    pub transport: Transport,
    /// On how many connections.
    pub connections: u16,
    /// For [`Transport::Tcp`]: the target's address that the source will connect to, where the user
    /// named one.
    pub data_address: Option<String>,
    /// Leave it paused after it has moved (`xl migrate -p`).
    pub leave_paused: bool,
    /// Keep this domid (`xl migrate -D`).
    pub domid: Option<u32>,
    /// Only check; nothing will follow.
    pub dry_run: bool,
    /// Where the guest's special pages are, if the target may fill its memory by itself
    /// ([`rxl_precopy::load_memory`]).
    pub special_pages: Option<SpecialPages>,
}

/// The target's yes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accept {
    /// For [`Transport::Tcp`]: the port it listens on.
    pub port: Option<u16>,
    /// For [`Transport::Tcp`]: the address by which ssh reached the target, if it came by ssh.
    pub address: Option<String>,
    /// Memory free there before, in KiB.
    pub free_memory_kib: u64,
}

/// Why the target will not take the domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is in the way.
    pub what: String,
    /// What the user can do about it.
    pub next: Option<String>,
}

/// The source's summary of its stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEnd {
    /// Frames sent.
    pub frames: u64,
    /// Bytes of libxl's stream.
    pub bytes: u64,
    /// Digest over all frames (hex).
    pub digest: String,
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
    begun: Option<SyncSender<io::Result<()>>>,
}

/// One end of a control channel, with its two threads. Dropping it says what is still queued,
/// closes it and joins them.
pub struct Control {
    outgoing: Option<Sender<Queued>>,
    cancel: Cancel,
    lost: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
    reader: Option<JoinHandle<()>>,
}

impl Control {
    /// Starts a channel over a reading and a writing descriptor. What comes is given to `deliver`,
    /// on a thread of its own; after a `Lost` nothing more comes.
    pub fn start(
        input: Guarded,
        output: Guarded,
        cancel: Cancel,
        mut deliver: impl FnMut(Incoming) + Send + 'static,
    ) -> io::Result<Self> {
        let (outgoing, queue) = channel();
        let writer = std::thread::Builder::new()
            .name("control-out".into())
            .spawn(move || write_all(output, &queue))?;
        let lost = Arc::new(AtomicBool::new(false));
        let told = lost.clone();
        let reader = std::thread::Builder::new().name("control-in".into()).spawn(move || {
            let reason = read_all(input, &mut deliver);
            told.store(true, Ordering::SeqCst);
            deliver(Incoming::Lost(reason));
        })?;
        Ok(Self {
            outgoing: Some(outgoing),
            cancel,
            lost,
            writer: Some(writer),
            reader: Some(reader),
        })
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
    pub fn send_now(&self, message: Message, deadline: Instant) -> io::Result<()> {
        let closed = || io::Error::new(io::ErrorKind::NotConnected, "the connection is lost");
        let outgoing = self.outgoing.as_ref().filter(|_| !self.is_lost()).ok_or_else(closed)?;
        tracing::trace!(?message, "control out, at once");
        let (begun, told) = sync_channel(1);
        outgoing.send(Queued { message, begun: Some(begun) }).map_err(|_| closed())?;
        match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(begun) => begun,
            // The writer has ended, and what it had not taken was dropped.
            Err(RecvTimeoutError::Disconnected) => Err(closed()),
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!("control channel: a message is not known to have left");
                Ok(())
            }
        }
    }

    /// Nothing more will come: `Lost` was delivered, or is about to be.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.outgoing.take());
        if let Some(writer) = self.writer.take() {
            // Its every write has a deadline. A panic of its has been printed.
            let _ = writer.join();
        }
        self.cancel.pull();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn write_all(mut output: Guarded, queue: &Receiver<Queued>) {
    loop {
        let queued = match queue.recv_timeout(deadlines::HEARTBEAT) {
            Ok(queued) => queued,
            Err(RecvTimeoutError::Timeout) => Queued { message: Message::Ping, begun: None },
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if let Err(error) = write_queued(&mut output, queued) {
            tracing::debug!(%error, "control channel: cannot write");
            return;
        }
    }
}

/// The error is also told to who waits for it, as long as nothing of the message has left.
fn write_queued(output: &mut impl Write, queued: Queued) -> io::Result<()> {
    let Queued { message, begun: Some(begun) } = queued else {
        return write_message(output, &queued.message);
    };
    let tell = |told| {
        // Who waited has had its deadline.
        let _ = begun.try_send(told);
    };
    let frame = frame(&message);
    let written = frame.and_then(|frame| Ok((output.write(&frame)?, frame)));
    match written {
        Ok((0, _)) => {
            tell(Err(io::ErrorKind::WriteZero.into()));
            Err(io::ErrorKind::WriteZero.into())
        }
        Ok((written, frame)) => {
            tell(Ok(()));
            output.write_all(frame.get(written..).unwrap_or_default())
        }
        Err(error) => {
            tell(Err(io::Error::new(error.kind(), error.to_string())));
            Err(error)
        }
    }
}

fn read_all(mut input: Guarded, deliver: &mut impl FnMut(Incoming)) -> String {
    loop {
        match read_message(&mut input) {
            Ok(Message::Ping) => {}
            Ok(message) => {
                tracing::trace!(?message, "control in");
                deliver(Incoming::Message(message));
            }
            Err(error) => return one_line(&error.to_string()),
        }
    }
}

/// Writes one message.
pub fn write_message(output: &mut impl Write, message: &Message) -> io::Result<()> {
    output.write_all(&frame(message)?)
}

fn frame(message: &Message) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length as usize <= MAX_MESSAGE);
    let length = length.ok_or_else(|| {
        io::Error::other(format!("a message of {} bytes is too long", body.len()))
    })?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Reads one message. The length is checked before anything is allocated.
pub fn read_message(input: &mut impl Read) -> io::Result<Message> {
    let mut length = [0; 4];
    input.read_exact(&mut length).map_err(|error| closed(&error))?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(io::Error::other(format!("not a control message (length {length})")));
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).map_err(|error| closed(&error))?;
    serde_json::from_slice(&body)
        .map_err(|error| io::Error::other(format!("unreadable control message: {error}")))
}

fn closed(error: &io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the connection was closed"),
        kind => io::Error::new(kind, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_message_survives_the_wire() {
        let message = Message::StreamEnd(StreamEnd { frames: 7, bytes: 8, digest: "ab".into() });
        let mut wire = Vec::new();
        write_message(&mut wire, &message).unwrap();
        assert_eq!(read_message(&mut wire.as_slice()).unwrap(), message);
    }

    #[test]
    fn a_huge_length_is_refused_before_it_is_allocated() {
        let wire = [0xff, 0xff, 0xff, 0xff, b'{'];
        assert!(
            read_message(&mut wire.as_slice())
                .unwrap_err()
                .to_string()
                .contains("length 4294967295")
        );
    }

    #[test]
    fn garbage_is_an_error_not_a_panic() {
        let wire = [3, 0, 0, 0, b'x', b'y', b'z'];
        assert!(read_message(&mut wire.as_slice()).is_err());
        assert!(read_message(&mut [1u8, 0].as_slice()).is_err());
    }

    /// Two ends that never say a word: what is written stays in the pipe.
    fn silent(patience: Duration) -> (Control, std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
        let (input, held) = rxl_core::io::pipe().unwrap();
        let (read, output) = rxl_core::io::pipe().unwrap();
        let cancel = Cancel::new().unwrap();
        let input = Guarded::new(input, cancel.clone(), None).unwrap();
        let output = Guarded::new(output, cancel.clone(), Some(patience)).unwrap();
        (Control::start(input, output, cancel, |_| {}).unwrap(), held, read)
    }

    #[test]
    fn a_message_that_is_sent_now_has_left_or_was_not_said() {
        let go = || Message::Go { agent_command: None };
        let (control, _held, read) = silent(Duration::from_secs(5));
        control.send(Message::Abort { reason: "first".into() });
        control.send_now(go(), Instant::now() + Duration::from_secs(5)).unwrap();
        let mut read = std::fs::File::from(read);
        read_message(&mut read).unwrap();
        assert_eq!(read_message(&mut read).unwrap(), go());
        drop(read);
        let error = control.send_now(go(), Instant::now() + Duration::from_secs(5)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let error = control.send_now(go(), Instant::now() + Duration::from_secs(5)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected, "the writer has ended");
    }

    #[test]
    fn a_silent_peer_is_lost_after_the_patience() {
        let (input, _held) = rxl_core::io::pipe().unwrap();
        let (_held_too, output) = rxl_core::io::pipe().unwrap();
        let cancel = Cancel::new().unwrap();
        let input = Guarded::new(input, cancel.clone(), Some(Duration::from_millis(50))).unwrap();
        let output = Guarded::new(output, cancel.clone(), None).unwrap();
        let (tx, rx) = channel();
        let _control =
            Control::start(input, output, cancel, move |incoming| tx.send(incoming).unwrap())
                .unwrap();
        let Incoming::Lost(reason) = rx.recv_timeout(Duration::from_secs(5)).unwrap() else {
            panic!("a message?")
        };
        assert!(reason.contains("nothing moved"), "{reason}");
    }
}
