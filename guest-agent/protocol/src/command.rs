//! The commands that dom0 gives.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::deadlines::{
    LONGEST_DEADLINE, LONGEST_LEASE, LONGEST_PAUSE, SHORTEST_DEADLINE, SHORTEST_LEASE,
};
use crate::fields::{Fields, Malformed};
use crate::stamp::Stamp;
use crate::token::Token;

/// A command: `EPOCH SEQUENCE VERB key=value...`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The command's place among all commands.
    pub stamp: Stamp,
    /// What the agent is to do.
    pub verb: Verb,
}

/// What the agent is to do. Leases and deadlines are sent in whole milliseconds, within the bounds
/// of [`crate::deadlines`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Look for ranks and write the job rows. Changes nothing. Answer: `surveyed`.
    Survey,
    /// Get ready to freeze, or say why not. Answer: `ready` or `nack`.
    Prepare(Prepare),
    /// Stop the ranks within the deadline. Answer: `frozen`, or `failed`.
    Freeze {
        /// How long to stay frozen without hearing from dom0.
        lease: Duration,
        /// How long stopping may take.
        deadline: Duration,
    },
    /// Wait until nothing that a rank has sent is unacknowledged, no longer than the deadline.
    /// Answer: `flushed`.
    Flush {
        /// How long to stay frozen without hearing from dom0.
        lease: Duration,
        /// How long flushing may take. After it the cut is called unclean.
        deadline: Duration,
        /// Whether the ranks at the other ends stand still, too. Then full receive queues are given
        /// room for what is in flight to them. Ranks that still send would only fill them again.
        room: bool,
    },
    /// Change nothing and say that the domain runs, after a suspend. Answer: `resumed`.
    Hold {
        /// How long to stay frozen without hearing from dom0.
        lease: Duration,
    },
    /// Let the ranks run. Answer: `thawed`.
    Thaw {
        /// How long to keep figures for `finish`.
        lease: Duration,
    },
    /// Put everything back and say what was retransmitted. Answer: `finished`.
    Finish,
    /// `thaw` and `finish` in one, whatever the state. Answer: `finished`.
    Abort,
}

/// How the agent is to prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// How long to stay prepared without hearing from dom0.
    pub lease: Duration,
    /// How long preparing may take.
    pub deadline: Duration,
    /// How long the ranks may be unreachable, at most. A rank's connection that gives up earlier is
    /// a veto.
    pub pause: Duration,
    /// The job whose ranks are meant. None: all ranks.
    pub job: Option<Token>,
}

impl Verb {
    /// The lease that the command brings.
    pub fn lease(&self) -> Option<Duration> {
        match self {
            Self::Prepare(prepare) => Some(prepare.lease),
            Self::Freeze { lease, .. }
            | Self::Flush { lease, .. }
            | Self::Hold { lease }
            | Self::Thaw { lease } => Some(*lease),
            Self::Survey | Self::Finish | Self::Abort => None,
        }
    }

    fn take(fields: &mut Fields) -> Result<Self, Malformed> {
        match fields.word("verb")? {
            "survey" => Ok(Self::Survey),
            "prepare" => Prepare::take(fields).map(Self::Prepare),
            "freeze" => Ok(Self::Freeze { lease: lease(fields)?, deadline: deadline(fields)? }),
            "flush" => Ok(Self::Flush {
                lease: lease(fields)?,
                deadline: deadline(fields)?,
                room: fields.flag("room")?,
            }),
            "hold" => Ok(Self::Hold { lease: lease(fields)? }),
            "thaw" => Ok(Self::Thaw { lease: lease(fields)? }),
            "finish" => Ok(Self::Finish),
            "abort" => Ok(Self::Abort),
            _ => Err(Malformed::Bad("verb")),
        }
    }
}

impl Prepare {
    fn take(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self {
            lease: lease(fields)?,
            deadline: deadline(fields)?,
            pause: fields.millis("pause", Duration::ZERO..=LONGEST_PAUSE)?,
            job: fields.optional("job").map(str::parse).transpose()?,
        })
    }
}

fn lease(fields: &mut Fields) -> Result<Duration, Malformed> {
    fields.millis("lease", SHORTEST_LEASE..=LONGEST_LEASE)
}

fn deadline(fields: &mut Fields) -> Result<Duration, Malformed> {
    fields.millis("deadline", SHORTEST_DEADLINE..=LONGEST_DEADLINE)
}

impl Command {
    /// Reads the stamp alone, so that a command that is malformed beyond it can be answered.
    pub fn stamp_of(value: &str) -> Option<Stamp> {
        let mut fields = Fields::of(value).ok()?;
        Stamp::take(&mut fields).ok()
    }
}

impl FromStr for Command {
    type Err = Malformed;

    fn from_str(value: &str) -> Result<Self, Malformed> {
        let mut fields = Fields::of(value)?;
        let stamp = Stamp::take(&mut fields)?;
        if stamp.epoch == 0 || stamp.sequence == 0 {
            return Err(Malformed::Bad("stamp"));
        }
        let verb = Verb::take(&mut fields)?;
        fields.end()?;
        Ok(Self { stamp, verb })
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.stamp, self.verb)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Survey => f.write_str("survey"),
            Self::Prepare(prepare) => prepare.fmt(f),
            Self::Freeze { lease, deadline } => {
                write!(f, "freeze lease={} deadline={}", lease.as_millis(), deadline.as_millis())
            }
            Self::Flush { lease, deadline, room } => {
                let room = u8::from(*room);
                write!(
                    f,
                    "flush lease={} deadline={} room={room}",
                    lease.as_millis(),
                    deadline.as_millis()
                )
            }
            Self::Hold { lease } => write!(f, "hold lease={}", lease.as_millis()),
            Self::Thaw { lease } => write!(f, "thaw lease={}", lease.as_millis()),
            Self::Finish => f.write_str("finish"),
            Self::Abort => f.write_str("abort"),
        }
    }
}

impl fmt::Display for Prepare {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (lease, deadline) = (self.lease.as_millis(), self.deadline.as_millis());
        write!(f, "prepare lease={lease} deadline={deadline} pause={}", self.pause.as_millis())?;
        self.job.iter().try_for_each(|job| write!(f, " job={job}"))
    }
}

/// A lease: `EPOCH COUNT`. Written anew with another count, it renews the epoch's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The epoch whose lease is renewed. The agent ignores that of another epoch than its own.
    pub epoch: u64,
    /// Any number that differs from the one before.
    pub count: u64,
}

impl FromStr for Lease {
    type Err = Malformed;

    fn from_str(value: &str) -> Result<Self, Malformed> {
        let mut fields = Fields::of(value)?;
        let lease = Self { epoch: fields.number("epoch")?, count: fields.number("count")? };
        fields.end()?;
        Ok(lease)
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.epoch, self.count)
    }
}
