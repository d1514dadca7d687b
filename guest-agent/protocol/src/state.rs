//! The agent's answers.

use std::fmt;
use std::time::Duration;

use crate::agent::Freezer;
use crate::fields::{Fields, Malformed};
use crate::stamp::Stamp;

mod text;

/// Longest explanation, in bytes. A longer one is cut when written and refused when read.
pub const MAX_DETAIL: usize = 200;

/// The agent's state: `EPOCH SEQUENCE STATUS key=value...`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Stamp of the last command that the agent obeyed.
    pub stamp: Stamp,
    /// What came of that command, or has happened since.
    pub status: Status,
}

/// What came of a command, or has happened since. Spans are sent in whole microseconds, but for
/// `patience` and `resend`, which are in whole milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// No epoch is under way.
    Idle,
    /// Answer to `survey`: the job rows are current.
    Surveyed {
        /// Ranks in this domain.
        ranks: u32,
    },
    /// Answer to `prepare`: the ranks can be frozen.
    Ready(Ready),
    /// Answer to `prepare`: the ranks cannot be frozen. Nothing was changed, and the epoch is over
    /// in this domain.
    Nack {
        /// The reason, for programs.
        reason: Reason,
        /// The reason, for people: printable ASCII, may be empty.
        detail: String,
    },
    /// Answer to `freeze`.
    Frozen(Frozen),
    /// Answer to `flush`.
    Flushed(Flushed),
    /// Answer to `hold`: the domain runs, and the agent with it.
    Resumed {
        /// Whether the ranks are still frozen. They are not if the lease ended before.
        frozen: bool,
    },
    /// Answer to `thaw`.
    Thawed(Thawed),
    /// The lease ended, and the ranks run. The epoch is over in this domain.
    Expired {
        /// Time from freeze to thaw. Zero if nothing was frozen.
        paused: Duration,
    },
    /// Answer to `finish` and `abort`: all is as it was before the epoch, but for what the guest's
    /// kernel refuses to put back. The ranks run.
    Finished(Finished),
    /// A command could not be obeyed. The ranks run, or will as soon as their kernel allows it, and
    /// the epoch is over in this domain.
    Failed {
        /// The reason, for programs.
        reason: Reason,
        /// The reason, for people: printable ASCII, may be empty.
        detail: String,
    },
}

/// Answer to `prepare`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Ranks in this domain. To have none is no veto.
    pub ranks: u32,
    /// Processes that will be frozen: ranks and what they have started.
    pub processes: u32,
    /// TCP connections of these processes to other addresses than the loopback's.
    pub connections: u32,
    /// How the processes will be stopped.
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
    /// How the processes were stopped.
    pub how: Freezer,
    /// Processes that stand still.
    pub processes: u32,
    /// Time from the command until the last process stood still.
    pub took: Duration,
}

/// Answer to `flush`. Sums are over all connections, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Whether nothing is in flight: all is acknowledged, and what is not sent waits for a peer's
    /// closed window.
    pub clean: bool,
    /// Connections of the ranks.
    pub connections: u32,
    /// Nodes `data/rxl/cut/N` that were written.
    pub chunks: u32,
    /// Connections for which there was no room in those nodes.
    pub left_out: u32,
    /// Bytes that are sent and not acknowledged.
    pub unacked: u64,
    /// Bytes in the senders' queues that are not yet sent.
    pub notsent: u64,
    /// Bytes in the receivers' queues that are not yet read.
    pub unread: u64,
    /// Time until the last of what is in flight is sent again, or of what a probe takes along into
    /// a window with little room. None if there is neither, or if the kernel does not tell.
    pub resend: Option<Duration>,
    /// Time that flushing took.
    pub took: Duration,
}

/// Answer to `thaw`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thawed {
    /// Time from the command until the ranks ran.
    pub took: Duration,
    /// Time from the freeze to the thaw, by the guest's clock, which stands still while the domain
    /// is suspended.
    pub paused: Duration,
    /// Connections of the freeze that were gone before the thaw.
    pub lost: u32,
    /// Segments retransmitted from the cut (the end of the flush; the freeze, if there was none) to
    /// the thaw.
    pub retransmits: u64,
}

/// Answer to `finish` and `abort`: what the connections of the freeze have done since the cut. A
/// job that runs loses a segment now and then without any migration. Only the retransmissions that
/// [`Thawed`] tells are due to the pause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Segments retransmitted, those of `thawed` included.
    pub retransmits: u64,
    /// Connections with retransmitted segments.
    pub connections: u32,
}

/// Why the agent refuses.
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
    /// The command cannot be read.
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
