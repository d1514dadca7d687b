//! What the engine needs of the system it runs on.

use std::path::PathBuf;
use std::time::Duration;

use rxl_agent_protocol::{Connection, Freezer, JobRow, Prepare, Reason, Unclaimed};
use serde::{Deserialize, Serialize};

/// Why the agent did not do something. dom0 is told both fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// The reason, for programs.
    pub reason: Reason,
    /// The explanation for people, one line.
    pub detail: String,
}

impl Refusal {
    /// Makes a refusal for this reason. Characters that the protocol has no room for are replaced
    /// when it is sent.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// Makes a refusal of an error, for `map_err`: the agent cannot do `what`.
    pub fn system<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Self {
        move |error| Self::new(Reason::System, format!("cannot {what}: {error}"))
    }
}

/// What a survey has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The ranks, by job.
    pub rows: Vec<JobRow>,
    /// Processes that look like ranks and are in no row.
    pub unclaimed: Option<Unclaimed>,
    /// Lines for people: why processes are ranks or are none.
    pub explanation: Vec<String>,
}

/// What `prepare` has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// The ranks, by job.
    pub rows: Vec<JobRow>,
    /// Processes that a freeze will stop.
    pub processes: u32,
    /// TCP connections of these processes.
    pub connections: u32,
    /// The shortest time after which one of the connections gives up a silent peer.
    pub patience: Option<Duration>,
}

/// What a freeze has stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Processes that stand still.
    pub processes: u32,
    /// Time until the last of them stood still.
    pub took: Duration,
}

/// The ranks' connections after a flush.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Whether nothing is in flight.
    pub clean: bool,
    /// When the last of what is in flight is sent again, where that is known.
    pub resend: Option<Duration>,
    /// The ranks' connections as they stand at the cut.
    pub connections: Vec<Connection>,
}

/// What has happened to the connections since the cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// Connections that are gone.
    pub lost: u32,
    /// Segments that were sent again on them.
    pub retransmits: u64,
    /// Connections with retransmitted segments.
    pub connections: u32,
}

/// What has to be put back, in a form that outlives the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Cgroups made for ranks, each below the cgroup that its processes came from.
    pub groups: Vec<PathBuf>,
    /// Such cgroups of earlier epochs that could not be dissolved. Their processes run.
    #[serde(default)]
    pub leftovers: Vec<PathBuf>,
    /// Processes to be stopped by signal: pid, and start time in clock ticks since boot, which
    /// together name a process.
    pub processes: Vec<(i32, u64)>,
    /// Receive buffers of ranks that were raised, or were about to be.
    #[serde(default)]
    pub buffers: Vec<Buffer>,
}

/// A socket's receive buffer as its rank had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// The socket's inode, which names it.
    pub inode: u64,
    /// Bytes, as getsockopt(SO_RCVBUF) tells.
    pub size: usize,
    /// As getsockopt(SO_BUF_LOCK) tells: which of the socket's buffers the kernel does not tune.
    pub locks: u32,
    /// Bytes, as getsockopt(TCP_WINDOW_CLAMP) tells.
    pub clamp: u32,
}

/// The ranks of one domain. `prepare` and `freeze` may refuse for reasons that lie in the ranks,
/// the others only for the system's. After a refusal the engine calls `thaw` and `finish`.
pub trait Guest {
    /// The time by CLOCK_MONOTONIC, which stands still while the domain is suspended.
    fn now(&self) -> Duration;

    /// How ranks would be stopped here.
    fn freezer(&self) -> Freezer;

    /// Looks for ranks. Changes nothing.
    fn survey(&mut self) -> Result<Survey, Refusal>;

    /// Gathers the ranks so that a freeze takes little time. They run on.
    fn prepare(&mut self, how: &Prepare) -> Result<Prepared, Refusal>;

    /// Stops what was gathered within the deadline.
    fn freeze(&mut self, deadline: Duration) -> Result<Stopped, Refusal>;

    /// Finds the receive buffers that a flush will raise. They stand in `held` from then on;
    /// nothing is changed yet.
    fn note_buffers(&mut self) -> Result<(), Refusal>;

    /// Raises those buffers, and waits until nothing is in flight, or the deadline is over, or what
    /// is in flight is sent again only after the deadline.
    fn flush(&mut self, deadline: Duration) -> Result<Cut, Refusal>;

    /// Lets the ranks run. Harmless when they run already.
    fn thaw(&mut self) -> Result<Since, Refusal>;

    /// Puts back what `prepare` and `flush` have changed. Harmless when nothing was. After a
    /// refusal the ranks run, `held` tells what is left, and a later call tries that again.
    fn finish(&mut self) -> Result<Since, Refusal>;

    /// Tells what `finish` would have to put back.
    fn held(&self) -> Held;

    /// Takes over what an earlier agent has left. Tells whether ranks are frozen.
    fn take_over(&mut self, held: Held) -> Result<bool, Refusal>;
}
