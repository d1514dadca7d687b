//! The messages, and how they are written.
//!
//! Wire format: u32 length (little-endian, at most [`MAX_MESSAGE`]), then that many bytes of JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ControlError;
use rxl_core::deadlines;
use rxl_core::domain::SpecialPages;
use rxl_core::error::{Exit, Failure};
use rxl_core::peer::Transport;
use rxl_core::target_spans::TargetSpans;
use rxl_core::text::one_line;

/// Version of this protocol. Another version is refused: a wrong guess could lose a domain.
pub const PROTOCOL_VERSION: u32 = 5;

/// Largest message in bytes. A domain's configuration in JSON takes some tens of KiB.
pub const MAX_MESSAGE: usize = 4 << 20;

/// What the two sides say to each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum Message {
    /// The first message of each side: who speaks.
    Hello(Hello),
    /// The source asks whether the target takes this domain.
    Offer(Box<Offer>),
    /// The target takes the domain: its data may be sent.
    Accept(Accept),
    /// The target does not take the domain, and has begun nothing.
    Refuse(Refusal),
    /// How many frames the target's libxl has taken: what bounds the source's window.
    Restored { frames: u64 },
    /// The source has sent the whole stream.
    StreamEnd(StreamEnd),
    /// The target has verified and restored: the domain stands paused under its incoming name.
    Ready(TargetSpans),
    /// The source hands the domain over. From here on it never runs it again by itself.
    Go {
        /// Written for the guest's agent before the domain runs (rxl-agent-protocol).
        agent_command: Option<String>,
    },
    /// The domain runs at the target.
    Done(TargetSpans),
    /// The target could not run the domain after `Go` and has destroyed its copy: the source's is
    /// the only one.
    GivenBack { reason: String },
    /// The target has given up before `Go`, and its copy is gone.
    Failed { reason: String },
    /// The source has given up before `Go`, and the domain runs on there.
    Abort { reason: String },
    /// The source has destroyed its copy after `Done`, and recorded that: it will ask nothing about
    /// this migration.
    Released,
    /// Sent where nothing else was for [`HEARTBEAT`](rxl_core::deadlines::HEARTBEAT).
    Ping,
}

impl Message {
    /// The message's name on the wire, for errors and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Offer(_) => "offer",
            Self::Accept(_) => "accept",
            Self::Refuse(_) => "refuse",
            Self::Restored { .. } => "restored",
            Self::StreamEnd(_) => "stream-end",
            Self::Ready(_) => "ready",
            Self::Go { .. } => "go",
            Self::Done(_) => "done",
            Self::GivenBack { .. } => "given-back",
            Self::Failed { .. } => "failed",
            Self::Abort { .. } => "abort",
            Self::Released => "released",
            Self::Ping => "ping",
        }
    }

    /// The bytes of one message on the wire.
    pub(super) fn encode(&self) -> Result<Vec<u8>, ControlError> {
        let mut frame = vec![0; size_of::<u32>()];
        serde_json::to_writer(&mut frame, self).map_err(ControlError::Json)?;
        let length = frame.len() - size_of::<u32>();
        let header = u32::try_from(length).ok().filter(|_| length <= MAX_MESSAGE);
        let header = header.ok_or(ControlError::TooLong(length))?.to_le_bytes();
        frame.iter_mut().zip(header).for_each(|(to, from)| *to = from);
        Ok(frame)
    }

    /// The length of the body that follows this header, checked before anything is allocated.
    pub(super) fn body_length(header: [u8; 4]) -> Result<usize, ControlError> {
        let length = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
        if length <= MAX_MESSAGE { Ok(length) } else { Err(ControlError::TooLong(length)) }
    }

    /// Understands a message's body.
    pub(super) fn decode(body: &[u8]) -> Result<Self, ControlError> {
        serde_json::from_slice(body).map_err(ControlError::Json)
    }
}

/// The first message of each side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The speaker's [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// The version of rxl, for people.
    pub rxl: String,
    /// The host's own name, for people.
    pub host: String,
}

impl Hello {
    /// What this process says.
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

/// The domain that the source wants to move, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The domain's name at the source.
    pub name: String,
    /// libxl's JSON configuration, as the target is to use it.
    pub config_json: String,
    /// `pv`, `pvh` or `hvm`.
    pub guest_type: String,
    /// Version of the source's Xen.
    pub xen_version: String,
    /// What will carry the data.
    pub transport: Transport,
    /// Number of data connections.
    pub connections: u16,
    /// For [`Transport::Tcp`]: the target's IP address that the source will connect to, where the
    /// user named one.
    pub data_address: Option<String>,
    /// The domain stays paused after it has moved (`xl migrate -p`).
    pub leave_paused: bool,
    /// The domid to keep (`xl migrate -D`).
    pub domid: Option<u32>,
    /// No process is to wait for the domain's end at the target (`xl migrate -e`).
    pub no_monitor: bool,
    /// How long either side may hear nothing of the other before it takes it for lost, in seconds.
    pub silence_seconds: u64,
    /// The target is only to check: nothing will follow.
    pub dry_run: bool,
    /// Where the guest's special pages are, if the target may fill its memory by itself
    /// (rxl-precopy).
    pub special_pages: Option<SpecialPages>,
}

impl Offer {
    /// How long either side may be silent, within what a user may ask for.
    pub fn silence(&self) -> Duration {
        let asked = Duration::from_secs(self.silence_seconds);
        asked.clamp(deadlines::SHORTEST_SILENCE, deadlines::LONGEST_SILENCE)
    }
}

/// The target takes the domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accept {
    /// For [`Transport::Tcp`]: the port that the target listens on.
    pub port: Option<u16>,
    /// For [`Transport::Tcp`]: the address that the target listens on.
    pub address: Option<String>,
    /// Memory that was free at the target before, in KiB.
    pub free_memory_kib: u64,
}

/// The target does not take the domain.
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
    /// Frames sent on all data connections.
    pub frames: u64,
    /// Bytes of libxl's stream, before compression.
    pub bytes: u64,
    /// Digest over all frames, in hexadecimal.
    pub digest: String,
}

#[cfg(test)]
mod tests {
    use rxl_core::steering::Restorer;

    use super::*;

    fn all() -> Vec<Message> {
        let spans = TargetSpans {
            domid: 7,
            restorer: Restorer::Rxl,
            restore_total: 1.5,
            restore_after_stream: 0.5,
            resume: 0.0,
            frames_verified: 9,
        };
        vec![
            Message::Hello(Hello::ours()),
            Message::Accept(Accept { port: None, address: None, free_memory_kib: 1 }),
            Message::Refuse(Refusal { what: "no".into(), next: None }),
            Message::Restored { frames: 1 },
            Message::StreamEnd(StreamEnd { frames: 7, bytes: 8, digest: "ab".into() }),
            Message::Ready(spans),
            Message::Go { agent_command: None },
            Message::Done(spans),
            Message::GivenBack { reason: "no".into() },
            Message::Failed { reason: "no".into() },
            Message::Abort { reason: "no".into() },
            Message::Released,
            Message::Ping,
        ]
    }

    #[test]
    fn a_message_survives_the_wire_under_its_name() {
        for message in all() {
            let frame = message.encode().unwrap();
            let (header, body) = frame.split_first_chunk().unwrap();
            assert_eq!(Message::body_length(*header).unwrap(), body.len());
            assert_eq!(Message::decode(body).unwrap(), message);
            let name = serde_json::to_value(&message).unwrap()["message"].clone();
            assert_eq!(name, message.name());
        }
    }

    #[test]
    fn a_huge_length_is_refused_before_it_is_allocated() {
        let error = Message::body_length([0xff; 4]).unwrap_err();
        assert!(error.to_string().contains("4294967295"), "{error}");
        let long = Message::Abort { reason: "x".repeat(MAX_MESSAGE) };
        assert!(matches!(long.encode(), Err(ControlError::TooLong(_))), "nor is it sent");
    }

    #[test]
    fn rubbish_is_an_error() {
        assert!(matches!(Message::decode(b"xyz"), Err(ControlError::Json(_))));
        assert!(matches!(Message::decode(b"{\"message\":\"dance\"}"), Err(ControlError::Json(_))));
    }
}
