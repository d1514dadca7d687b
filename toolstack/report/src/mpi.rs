//! The report's part about the MPI job.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use rxl_agent_protocol::Connection;
use rxl_core::level::Level;
use rxl_core::units::seconds;

/// Most directions that a report lists. Thousands of ranks have millions of connections.
const LONGEST_CUT: usize = 256;

/// What became of the job. Times are ms on the source's monotonic clock, but for those that say
/// otherwise; a figure is null where the step was not reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MpiPart {
    /// As asked.
    pub level: Level,
    /// Why the job was not quiesced, or not to the end.
    pub problem: Option<String>,
    /// Number of the attempt, as the agents know it.
    pub epoch: u64,
    /// The launcher's names for the jobs.
    pub jobs: Vec<String>,
    /// Which launcher.
    pub launcher: String,
    /// Ranks of the job, as the launcher says.
    pub size: u32,
    /// Those that were held still; those that moved come first.
    pub domains: Vec<MpiDomain>,
    /// Those that moved in this epoch, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gang: Vec<String>,
    /// Processes that were frozen.
    pub processes: u32,
    /// TCP connections of theirs.
    pub connections: u32,
    /// The least time, ms, for which one of these bears to hear nothing. None where there are none.
    pub patience: Option<f64>,
    /// Until all domains were ready to freeze.
    pub prepare: Option<f64>,
    /// Until all ranks of all domains stood still.
    pub freeze: Option<f64>,
    /// The same on the slowest domain's own clock.
    pub freeze_in_guest: Option<f64>,
    /// Until nothing was on the wire, and both ends of all connections had been compared.
    pub flush: Option<f64>,
    /// Nothing was unacknowledged, and what was not sent waited for a closed window.
    pub clean: Option<bool>,
    /// Connections both of whose ends say the same: what one has had acknowledged, the other has
    /// received.
    pub connections_agreed: Option<usize>,
    /// Those whose ends do not.
    pub connections_disagreed: Option<usize>,
    /// Those of which one end only was found.
    pub connections_one_ended: Option<usize>,
    /// Bytes in flight at the cut.
    pub unacked: Option<u64>,
    /// Bytes at the cut in the senders' queues, not yet sent.
    pub notsent: Option<u64>,
    /// Bytes at the cut in the receivers' queues, not yet read.
    pub unread: Option<u64>,
    /// When the last of what was in flight at the cut would be sent again, or of what a probe takes
    /// along, ms after it. None where there was neither.
    pub resend: Option<f64>,
    /// The cut, a direction of a connection each: those that do not agree first, 256 at most. The
    /// counts above are of all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<Direction>,
    /// From the target's word that the domain runs to its agent's.
    pub resume: Option<f64>,
    /// From the target's word until its network forwarded to the domain; none where it did not in
    /// time.
    pub network: Option<f64>,
    /// Until all ranks ran again.
    pub thaw: Option<f64>,
    /// From the first freeze to the last thaw: what the application stood still. Not the blackout,
    /// which is `downtime`.
    pub application_pause: Option<f64>,
    /// Connections that were lost meanwhile.
    pub connections_lost: Option<u32>,
    /// Segments retransmitted from the cut to the thaw.
    pub retransmits: Option<u64>,
    /// Segments retransmitted in the second after the thaw.
    pub retransmits_later: Option<u64>,
}

/// A domain of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MpiDomain {
    /// Its name.
    pub name: String,
    /// Where it was.
    pub host: String,
    /// Its ranks.
    pub ranks: Vec<u32>,
}

/// One direction of a connection between ranks, at the cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Direction {
    /// The sender's end.
    pub from: SocketAddr,
    /// The receiver's.
    pub to: SocketAddr,
    /// Bytes that the sender has had acknowledged. Linux counts the SYN of the end that opened the
    /// connection.
    pub acked: u64,
    /// Bytes that the receiver has received; none where its end was not found.
    pub received: Option<u64>,
    /// Bytes in flight.
    pub unacked: u32,
    /// Bytes in the sender's queue, not yet sent.
    pub notsent: u32,
    /// Bytes in the receiver's queue, not yet read.
    pub unread: Option<u32>,
    /// Whether all that was sent has arrived, and both ends say so.
    pub agrees: bool,
}

impl Direction {
    /// Of the ends of all connections in all domains.
    pub fn all(ends: &[Connection]) -> Vec<Self> {
        let by_name: HashMap<_, _> =
            ends.iter().map(|end| ((end.local, end.remote), end)).collect();
        let direction = |end: &Connection| {
            let peer = by_name.get(&(end.remote, end.local));
            Self {
                from: end.local,
                to: end.remote,
                acked: end.acked,
                received: peer.map(|peer| peer.received),
                unacked: end.unacked,
                notsent: end.notsent,
                unread: peer.map(|peer| peer.unread),
                agrees: peer.is_some_and(|peer| end.arrived_at(peer)),
            }
        };
        let mut all: Vec<_> = ends.iter().map(direction).collect();
        all.sort_by_key(|direction| (direction.agrees, direction.from, direction.to));
        all.truncate(LONGEST_CUT);
        all
    }
}

impl MpiPart {
    /// Of a job that was found.
    pub fn new(level: Level, epoch: u64, jobs: Vec<String>, launcher: String, size: u32) -> Self {
        Self {
            level,
            problem: None,
            epoch,
            jobs,
            launcher,
            size,
            domains: Vec::new(),
            gang: Vec::new(),
            processes: 0,
            connections: 0,
            patience: None,
            prepare: None,
            freeze: None,
            freeze_in_guest: None,
            flush: None,
            clean: None,
            connections_agreed: None,
            connections_disagreed: None,
            connections_one_ended: None,
            unacked: None,
            notsent: None,
            unread: None,
            resend: None,
            cut: Vec::new(),
            resume: None,
            network: None,
            thaw: None,
            application_pause: None,
            connections_lost: None,
            retransmits: None,
            retransmits_later: None,
        }
    }

    /// Of one that was not.
    pub fn none(level: Level, problem: String) -> Self {
        Self { problem: Some(problem), ..Self::new(level, 0, Vec::new(), String::new(), 0) }
    }

    /// Nothing was on the wire, at no connection.
    pub fn is_cut_clean(&self) -> bool {
        self.clean == Some(true) && self.connections_disagreed == Some(0)
    }

    /// For people; from the second line on with two spaces before it.
    pub fn describe(&self) -> String {
        if self.domains.is_empty() {
            return format!("mpi: {}", self.problem.as_deref().unwrap_or("no rank runs in it"));
        }
        let time = |time: Option<f64>| time.map_or_else(|| "-".into(), seconds);
        let ranks: usize = self.domains.iter().map(|domain| domain.ranks.len()).sum();
        let mut text = format!(
            "mpi: job {} ({}), {ranks} of {} ranks in {} domains; prepare {}, freeze {}, flush {}, \
             resume {}, network {}, thaw {}",
            self.jobs.join(", "),
            self.launcher,
            self.size,
            self.domains.len(),
            time(self.prepare),
            time(self.freeze),
            time(self.flush),
            time(self.resume),
            time(self.network),
            time(self.thaw),
        );
        if !self.gang.is_empty() {
            let _ = write!(text, "\n  mpi: moved together: {}", self.gang.join(", "));
        }
        if let Some(agreed) = self.connections_agreed {
            let cut = if self.is_cut_clean() { "clean" } else { "NOT clean" };
            let _ = write!(text, "\n  mpi: cut {cut}, {agreed} connections agree at both ends");
            let _ = write!(text, ", {} bytes in flight", self.unacked.unwrap_or(0));
            if let Some(resend) = self.resend {
                let _ = write!(text, ", sent again after {}", seconds(resend));
            }
        }
        if let Some(pause) = self.application_pause {
            let _ = write!(text, "\n  mpi: application pause {}", seconds(pause));
        }
        if let Some(retransmits) = self.retransmits {
            let _ = write!(text, ", {retransmits} segments retransmitted until the thaw");
        }
        if let Some(problem) = &self.problem {
            let _ = write!(text, "\n  mpi: {problem}");
        }
        text
    }
}
