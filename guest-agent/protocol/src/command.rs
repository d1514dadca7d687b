//! What dom0 asks for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::fields::{Fields, Malformed};
use crate::{Stamp, Token};

/// `EPOCH SEQUENCE VERB key=value...`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its place among all commands.
    pub stamp: Stamp,
    /// What to do.
    pub verb: Verb,
}

/// What to do. Leases and deadlines are sent in whole milliseconds; see the bounds below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Look for ranks and write the job rows. Changes nothing. Answer: `surveyed`.
    Survey,
    /// Get ready to freeze, or say why not. Answer: `ready` or `nack`.
    Prepare(Prepare),
    /// Stop the ranks within the deadline. Answer: `frozen`, or `failed`.
    Freeze {
        /// How long to stay without hearing from dom0.
        lease: Duration,
        /// How long stopping may take.
        deadline: Duration,
    },
    /// Wait until nothing that a rank has sent is unacknowledged, no longer than the deadline.
    /// Answer: `flushed`.
    Flush {
        /// As above.
        lease: Duration,
        /// After it the cut is called unclean.
        deadline: Duration,
        /// Whether the ranks at the other ends stand still, too: then receive queues that are full
        /// are given room for what is in flight to them. Who still sends would only fill them
        /// again.
        room: bool,
    },
    /// Stay as you are and say that you run, after a suspend. Answer: `resumed`.
    Hold {
        /// As above.
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

/// How to prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// How long to stay prepared without hearing from dom0.
    pub lease: Duration,
    /// How long preparing may take.
    pub deadline: Duration,
    /// How long the ranks may be unreachable, at most: a rank's connection with less patience is a
    /// veto.
    pub pause: Duration,
    /// Only this job's ranks; else all.
    pub job: Option<Token>,
}

/// Bounds of a lease, in ms.
const LEASE: (u64, u64) = (100, 600_000);

/// Bounds of a deadline, in ms. The agent hears nothing meanwhile, so they are short.
const DEADLINE: (u64, u64) = (1, 10_000);

/// Bounds of the announced pause, in ms.
const PAUSE: (u64, u64) = (0, 3_600_000);

impl Verb {
    /// The lease that it brings.
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
            pause: fields.millis("pause", PAUSE.0, PAUSE.1)?,
            job: fields.optional("job").map(str::parse).transpose()?,
        })
    }
}

fn lease(fields: &mut Fields) -> Result<Duration, Malformed> {
    fields.millis("lease", LEASE.0, LEASE.1)
}

fn deadline(fields: &mut Fields) -> Result<Duration, Malformed> {
    fields.millis("deadline", DEADLINE.0, DEADLINE.1)
}

impl Command {
    /// The stamp of a command that is malformed beyond it, so that it can be answered.
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

/// `EPOCH COUNT`: written anew with another count, it renews the epoch's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose lease. That of another epoch is ignored.
    pub epoch: u64,
    /// Any number that differs from the last.
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
