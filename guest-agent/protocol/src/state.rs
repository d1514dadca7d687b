//! What the agent answers.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::fields::{Fields, Malformed, flag, micros};
use crate::{Freezer, Stamp};

/// Longest explanation, in bytes. It is cut when written, refused when read.
pub const MAX_DETAIL: usize = 200;

/// `EPOCH SEQUENCE STATUS key=value...`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Of the last command that was obeyed.
    pub stamp: Stamp,
    /// What came of it.
    pub status: Status,
}

/// What came of a command, or has happened since. Spans are sent in whole microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// No epoch is under way.
    Idle,
    /// Answer to `survey`: the job rows are current.
    Surveyed {
        /// Ranks in this domain.
        ranks: u32,
    },
    /// Answer to `prepare`: freeze will do.
    Ready(Ready),
    /// Answer to `prepare`: no. Nothing was changed, the epoch is over here.
    Nack {
        /// Why.
        reason: Reason,
        /// Why, for people: printable ASCII, may be empty.
        detail: String,
    },
    /// Answer to `freeze`.
    Frozen(Frozen),
    /// Answer to `flush`.
    Flushed(Flushed),
    /// Answer to `hold`: the domain runs, the agent with it.
    Resumed {
        /// Whether the ranks are still frozen. They are not when the lease ended first.
        frozen: bool,
    },
    /// Answer to `thaw`.
    Thawed(Thawed),
    /// The lease ended, and the ranks run. The epoch is over here.
    Expired {
        /// From freeze to thaw; zero if nothing was frozen.
        paused: Duration,
    },
    /// Answer to `finish` and `abort`: all is as it was before the epoch.
    Finished(Finished),
    /// A command could not be obeyed. The ranks run, the epoch is over here.
    Failed {
        /// Why.
        reason: Reason,
        /// Why, for people: printable ASCII, may be empty.
        detail: String,
    },
}

/// Answer to `prepare`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Ranks in this domain; none is no veto.
    pub ranks: u32,
    /// Processes that will be frozen: ranks and what they have started.
    pub processes: u32,
    /// Their TCP connections to other addresses than the loopback's.
    pub connections: u32,
    /// How they will be stopped.
    pub how: Freezer,
    /// The shortest time after which one of the connections gives up a peer that does not answer,
    /// as far as it can be told.
    pub patience: Option<Duration>,
    /// Time that preparing took.
    pub took: Duration,
}

/// Answer to `freeze`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// How they were stopped.
    pub how: Freezer,
    /// Processes that stand still.
    pub processes: u32,
    /// From the command to the last one's stop.
    pub took: Duration,
}

/// Answer to `flush`. Sums are over all connections, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Whether nothing is in flight: all is acknowledged, and what is not sent waits for a peer's
    /// closed window.
    pub clean: bool,
    /// Connections looked at.
    pub connections: u32,
    /// Nodes `data/rxl/cut/N` that were written.
    pub chunks: u32,
    /// Connections for which there was no room in them.
    pub left_out: u32,
    /// Sent and not acknowledged.
    pub unacked: u64,
    /// In the senders' queues, not yet sent.
    pub notsent: u64,
    /// In the receivers' queues, not yet read.
    pub unread: u64,
    /// When the last of what is in flight is sent again, or of what a probe takes along into a
    /// window with little room; none if there is neither, or if its kernel does not know.
    pub resend: Option<Duration>,
    /// Time that flushing took.
    pub took: Duration,
}

/// Answer to `thaw`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thawed {
    /// Time from the command until the ranks ran.
    pub took: Duration,
    /// From the freeze to the thaw, by the guest's clock, which stands still while it is suspended.
    pub paused: Duration,
    /// Connections of the freeze that were gone before the thaw.
    pub lost: u32,
    /// Segments retransmitted from the cut (the end of the flush; the freeze, if there was none) to
    /// the thaw.
    pub retransmits: u64,
}

/// Answer to `finish` and `abort`: what the connections of the freeze have done since the cut. A
/// job that runs loses a segment now and then without any migration; those of `thawed` alone are
/// due to the pause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Segments retransmitted, those of `thawed` included.
    pub retransmits: u64,
    /// Connections that had any.
    pub connections: u32,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A process is in uninterruptible sleep (state D): it could not be frozen, nor the domain
    /// suspended.
    Uninterruptible,
    /// A connection of a rank is still being opened.
    Connecting,
    /// A connection would give up during the announced pause.
    ImpatientConnection,
    /// Ranks live in another network namespace, whose connections the agent cannot see.
    ForeignNamespace,
    /// More ranks, processes or connections than the protocol has room for.
    TooMany,
    /// The ranks did not all stop before the deadline.
    FreezeDeadline,
    /// The command does not fit the agent's state.
    WrongState,
    /// The command makes no sense.
    Malformed,
    /// The guest's kernel refused something.
    System,
    /// The agent is being stopped.
    Stopping,
}

impl Reason {
    const NAMES: [(Reason, &'static str); 10] = [
        (Self::Uninterruptible, "uninterruptible"),
        (Self::Connecting, "connecting"),
        (Self::ImpatientConnection, "impatient-connection"),
        (Self::ForeignNamespace, "foreign-namespace"),
        (Self::TooMany, "too-many"),
        (Self::FreezeDeadline, "freeze-deadline"),
        (Self::WrongState, "wrong-state"),
        (Self::Malformed, "malformed"),
        (Self::System, "system"),
        (Self::Stopping, "stopping"),
    ];

    fn take(fields: &mut Fields) -> Result<Self, Malformed> {
        let name = fields.field("reason")?;
        Self::NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(reason, _)| *reason)
            .ok_or(Malformed::Bad("reason"))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name =
            Self::NAMES.iter().find(|(reason, _)| reason == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for State {
    type Err = Malformed;

    fn from_str(value: &str) -> Result<Self, Malformed> {
        let (front, detail) = Fields::split_tail(value, "detail");
        let detail = detail.map(check_detail).transpose()?;
        let mut fields = Fields::of(front)?;
        let stamp = Stamp::take(&mut fields)?;
        let status = Status::take(&mut fields, detail)?;
        fields.end()?;
        Ok(Self { stamp, status })
    }
}

fn check_detail(text: &str) -> Result<&str, Malformed> {
    let good = text.len() <= MAX_DETAIL && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if good { Ok(text) } else { Err(Malformed::Bad("detail")) }
}

impl Status {
    fn take(fields: &mut Fields, detail: Option<&str>) -> Result<Self, Malformed> {
        let name = fields.word("status")?;
        match (name, detail) {
            ("nack", Some(detail)) => {
                Ok(Self::Nack { reason: Reason::take(fields)?, detail: detail.into() })
            }
            ("failed", Some(detail)) => {
                Ok(Self::Failed { reason: Reason::take(fields)?, detail: detail.into() })
            }
            (_, None) => Self::take_plain(name, fields),
            (_, Some(_)) => Err(Malformed::Surplus),
        }
    }

    fn take_plain(name: &str, fields: &mut Fields) -> Result<Self, Malformed> {
        match name {
            "idle" => Ok(Self::Idle),
            "surveyed" => Ok(Self::Surveyed { ranks: fields.number_field("ranks")? }),
            "ready" => Ready::take(fields).map(Self::Ready),
            "frozen" => Frozen::take(fields).map(Self::Frozen),
            "flushed" => Flushed::take(fields).map(Self::Flushed),
            "resumed" => Ok(Self::Resumed { frozen: fields.flag("frozen")? }),
            "thawed" => Thawed::take(fields).map(Self::Thawed),
            "expired" => Ok(Self::Expired { paused: fields.micros("paused")? }),
            "finished" => Finished::take(fields).map(Self::Finished),
            "nack" | "failed" => Err(Malformed::Missing("detail")),
            _ => Err(Malformed::Bad("status")),
        }
    }
}

impl Ready {
    fn take(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self {
            ranks: fields.number_field("ranks")?,
            processes: fields.number_field("processes")?,
            connections: fields.number_field("connections")?,
            how: fields.parsed("how")?,
            patience: span(fields, "patience")?,
            took: fields.micros("us")?,
        })
    }
}

impl Frozen {
    fn take(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self {
            how: fields.parsed("how")?,
            processes: fields.number_field("processes")?,
            took: fields.micros("us")?,
        })
    }
}

impl Flushed {
    fn take(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self {
            clean: fields.flag("clean")?,
            connections: fields.number_field("connections")?,
            chunks: fields.number_field("chunks")?,
            left_out: fields.number_field("left-out")?,
            unacked: fields.number_field("unacked")?,
            notsent: fields.number_field("notsent")?,
            unread: fields.number_field("unread")?,
            resend: span(fields, "resend")?,
            took: fields.micros("us")?,
        })
    }
}

impl Thawed {
    fn take(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self {
            lost: fields.number_field("lost")?,
            retransmits: fields.number_field("retransmits")?,
            paused: fields.micros("paused")?,
            took: fields.micros("us")?,
        })
    }
}

impl Finished {
    fn take(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self {
            retransmits: fields.number_field("retransmits")?,
            connections: fields.number_field("connections")?,
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.stamp, self.status)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::Surveyed { ranks } => write!(f, "surveyed ranks={ranks}"),
            Self::Ready(ready) => ready.fmt(f),
            Self::Nack { reason, detail } => {
                write!(f, "nack reason={reason} detail={}", Detail(detail))
            }
            Self::Frozen(frozen) => frozen.fmt(f),
            Self::Flushed(flushed) => flushed.fmt(f),
            Self::Resumed { frozen } => write!(f, "resumed frozen={}", flag(*frozen)),
            Self::Thawed(thawed) => thawed.fmt(f),
            Self::Expired { paused } => write!(f, "expired paused={}", micros(*paused)),
            Self::Finished(finished) => finished.fmt(f),
            Self::Failed { reason, detail } => {
                write!(f, "failed reason={reason} detail={}", Detail(detail))
            }
        }
    }
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { ranks, processes, connections, how, patience, took } = self;
        write!(f, "ready ranks={ranks} processes={processes} connections={connections} how={how}")?;
        write!(f, " patience={} us={}", Span(*patience), micros(*took))
    }
}

impl fmt::Display for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "frozen how={} processes={} us={}", self.how, self.processes, micros(self.took))
    }
}

impl fmt::Display for Flushed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { clean, connections, chunks, left_out, unacked, notsent, unread, resend, took } =
            self;
        write!(
            f,
            "flushed clean={} connections={connections} chunks={chunks} left-out={left_out}",
            flag(*clean)
        )?;
        write!(f, " unacked={unacked} notsent={notsent} unread={unread}")?;
        write!(f, " resend={} us={}", Span(*resend), micros(*took))
    }
}

impl fmt::Display for Thawed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { took, paused, lost, retransmits } = self;
        write!(
            f,
            "thawed lost={lost} retransmits={retransmits} paused={} us={}",
            micros(*paused),
            micros(*took)
        )
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "finished retransmits={} connections={}", self.retransmits, self.connections)
    }
}

/// Whole milliseconds in 32 bits, or `none`.
fn span(fields: &mut Fields, key: &'static str) -> Result<Option<Duration>, Malformed> {
    match fields.field(key)? {
        "none" => Ok(None),
        ms => ms
            .parse::<u32>()
            .map(|ms| Some(Duration::from_millis(ms.into())))
            .map_err(|_| Malformed::Bad(key)),
    }
}

/// For writing: as [`span`] reads it; what is longer becomes the longest.
struct Span(Option<Duration>);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Some(span) => write!(f, "{}", u32::try_from(span.as_millis()).unwrap_or(u32::MAX)),
            None => f.write_str("none"),
        }
    }
}

/// Any text as a detail: other characters become `?`, and it is cut at [`MAX_DETAIL`].
struct Detail<'a>(&'a str);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for c in self.0.chars().take(MAX_DETAIL) {
            let c = if (' '..='~').contains(&c) { c } else { '?' };
            write!(f, "{c}")?;
        }
        Ok(())
    }
}
