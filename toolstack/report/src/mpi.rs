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

/// How the job was quiesced. Times are ms on the source's monotonic clock if nothing else is said;
/// a figure is null if its step was not reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MpiPart {
    /// The level that was asked for.
    pub level: Level,
    /// Why the job was not quiesced, or not to the end.
    pub problem: Option<String>,
    /// What is to be known about a job that was quiesced, or a domain that seems to have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Number of the attempt, as in the agents' logs.
    pub epoch: u64,
    /// The launcher's names for the jobs.
    pub jobs: Vec<String>,
    pub launcher: String,
    /// Number of ranks in the whole job, by the launcher.
    pub size: u32,
    /// The frozen domains; those that moved come first.
    pub domains: Vec<MpiDomain>,
    /// The names of the domains that moved in this epoch, if there were several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gang: Vec<String>,
    /// Number of processes that were frozen.
    pub processes: u32,
    /// Number of their TCP connections, each end counted.
    pub connections: u32,
    /// Shortest silence, ms, after which one of these connections gives up. None if there are none.
    pub patience: Option<f64>,
    /// Time until all domains were ready to freeze.
    pub prepare: Option<f64>,
    /// Time until all ranks of all domains were frozen.
    pub freeze: Option<f64>,
    /// The same time on the slowest domain's own clock.
    pub freeze_in_guest: Option<f64>,
    /// Time until nothing was on the wire, and both ends of all connections had been compared.
    pub flush: Option<f64>,
    /// Whether nothing was unacknowledged, and all that was not sent waited for a closed window.
    pub clean: Option<bool>,
    /// Number of connections whose two ends agree: what one has had acknowledged, the other has
    /// received.
    pub connections_agreed: Option<usize>,
    /// Number of connections whose two ends do not agree.
    pub connections_disagreed: Option<usize>,
    /// Number of connections of which only one end was found.
    pub connections_one_ended: Option<usize>,
    /// Bytes in flight at the cut.
    pub unacked: Option<u64>,
    /// Bytes at the cut in the senders' queues, not yet sent.
    pub notsent: Option<u64>,
    /// Bytes at the cut in the receivers' queues, not yet read.
    pub unread: Option<u64>,
    /// Time from the cut, ms, until the last of what was in flight would be retransmitted, or sent
    /// by a window probe. None if there was neither.
    pub resend: Option<f64>,
    /// The directions of the connections at the cut, at most 256, those that do not agree first.
    /// The counts above are of all directions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<Direction>,
    /// Time from the target's message that the domain runs to its agent's answer.
    pub resume: Option<f64>,
    /// Time from that message until the target's network forwarded to the domain; none if it did
    /// not in time.
    pub network: Option<f64>,
    /// Time until all ranks ran again.
    pub thaw: Option<f64>,
    /// Time from the first freeze to the last thaw, in which the application did not run. The
    /// blackout, `downtime`, is a part of it.
    pub application_pause: Option<f64>,
    /// Number of connections that were lost between freeze and thaw.
    pub connections_lost: Option<u32>,
    /// Number of segments retransmitted from the cut to the thaw.
    pub retransmits: Option<u64>,
    /// Number of segments retransmitted in the second after the thaw.
    pub retransmits_later: Option<u64>,
}

/// A domain in which ranks of the job run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MpiDomain {
    pub name: String,
    /// The host on which it ran before the migration.
    pub host: String,
    pub ranks: Vec<u32>,
}

/// One direction of a connection between ranks, at the cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Direction {
    /// The sender's end.
    pub from: SocketAddr,
    /// The receiver's end.
    pub to: SocketAddr,
    /// Bytes that the sender has had acknowledged. Linux counts the SYN of the end that opened the
    /// connection.
    pub acked: u64,
    /// Bytes that the receiver has received; none if its end was not found.
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
    /// The directions of all connections, from the ends that were found in all domains.
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
    /// The part of a job that was found, without figures.
    pub fn new(level: Level, epoch: u64, jobs: Vec<String>, launcher: String, size: u32) -> Self {
        Self {
            level,
            problem: None,
            warnings: Vec::new(),
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

    /// The part where no job was found.
    pub fn none(level: Level, problem: String) -> Self {
        Self { problem: Some(problem), ..Self::new(level, 0, Vec::new(), String::new(), 0) }
    }

    /// Whether nothing was on the wire on any connection.
    pub fn is_cut_clean(&self) -> bool {
        self.clean == Some(true) && self.connections_disagreed == Some(0)
    }

    /// The part as text of several lines. All but the first are indented by two spaces.
    pub fn describe(&self) -> String {
        let is_held = !self.domains.is_empty();
        let mut text = match &self.problem {
            _ if is_held => self.describe_job(),
            problem => format!("mpi: {}", problem.as_deref().unwrap_or("no rank runs in it")),
        };
        for line in self.warnings.iter().chain(self.problem.iter().filter(|_| is_held)) {
            let _ = write!(text, "\n  mpi: {line}");
        }
        text
    }

    fn describe_job(&self) -> String {
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
        self.describe_cut(&mut text);
        text
    }

    fn describe_cut(&self, text: &mut String) {
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
    }
}
