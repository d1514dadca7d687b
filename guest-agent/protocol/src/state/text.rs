//! The agent's answers as text, read and written.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Finished, Flushed, Frozen, MAX_DETAIL, Ready, Reason, State, Status, Thawed};
use crate::fields::{Fields, Malformed, flag, micros};
use crate::stamp::Stamp;

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

/// Reads whole milliseconds in 32 bits, or `none`.
fn span(fields: &mut Fields, key: &'static str) -> Result<Option<Duration>, Malformed> {
    match fields.field(key)? {
        "none" => Ok(None),
        ms => ms
            .parse::<u32>()
            .map(|ms| Some(Duration::from_millis(ms.into())))
            .map_err(|_| Malformed::Bad(key)),
    }
}

/// Writes what [`span`] reads. A longer span becomes the longest.
struct Span(Option<Duration>);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Some(span) => write!(f, "{}", u32::try_from(span.as_millis()).unwrap_or(u32::MAX)),
            None => f.write_str("none"),
        }
    }
}

/// Writes any text as a detail: other characters become `?`, and it is cut at [`MAX_DETAIL`].
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
