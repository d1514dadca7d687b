//! Why agents cannot be asked, and why a job is not held still.

use std::io;
use std::time::Duration;

use rxl_agent_protocol::{PROTOCOL_VERSION, Status, Unclaimed};
use rxl_core::dom0::NotDom0;
use rxl_core::error::Failure;
use rxl_core::json_lines::JsonLineError;
use rxl_core::text::one_line;
use rxl_xenstore::StoreError;

/// Why a host's agents cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentsError {
    /// This is no host of Xen's, or the caller may not drive it.
    #[error(transparent)]
    NotDom0(#[from] NotDom0),
    /// The host's xenstore did not do what was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel does not tell which boot of the host this is.
    #[error("cannot read the id of this boot: {0}")]
    NoBootId(#[source] io::Error),
    /// A lock file, or the ssh connection to the host, failed.
    #[error("{}", .0.what)]
    Failure(#[from] Failure),
    /// A guest has written something that is not of the agent's protocol.
    #[error("domain {domid}: {node}: {problem}")]
    Malformed {
        /// The guest's number on its host.
        domid: u32,
        /// The node that it has written, or the request that it was for.
        node: String,
        /// What the protocol's parser says of it.
        problem: String,
    },
    /// The other host's server has refused.
    #[error("{host}: {line}")]
    Refused {
        /// The host as the user named it.
        host: String,
        /// What the server said.
        line: String,
    },
    /// The connection to the other host's server is broken.
    #[error("agents on {host}: {source}")]
    Broken {
        /// The host as the user named it.
        host: String,
        /// What is wrong with its line.
        source: JsonLineError,
    },
    /// A node that is not an agent's was to be read or written.
    #[error("not a node of an agent's")]
    ForeignNode,
    /// A command that this version does not know was to be written.
    #[error("not a command: {0}")]
    NotACommand(String),
    /// The host has not answered in time.
    #[error("agents on {host}: no answer in {} s", deadline.as_secs())]
    Late {
        /// The host as the user named it.
        host: String,
        /// The deadline that has passed.
        deadline: Duration,
    },
    /// An earlier request was cut off while it was written.
    #[error("agents on {0}: an earlier request was cut off")]
    HalfWritten(String),
    /// The answer belongs to another kind of request.
    #[error("agents on {0}: an answer to another question")]
    WrongAnswer(String),
    /// The thread that serves this host has ended.
    #[error("agents on {0}: nobody serves them any more")]
    Unserved(String),
}

/// Why a job is not being quiesced. Nothing is frozen.
#[derive(Debug, thiserror::Error)]
pub enum NotQuiesced {
    /// A host's agents cannot be asked.
    #[error(transparent)]
    Agents(#[from] AgentsError),
    /// The runtime that waits for agents cannot be started.
    #[error("cannot wait for agents: {0}")]
    Runtime(#[from] io::Error),
    /// This host is not among those that are to be asked.
    #[error("no host to ask")]
    NoHost,
    /// No rank runs in the domains that are to move, as far as their agents can tell.
    #[error(
        "no rank of an MPI job was recognised in {0}: `rxl jobs` shows what its agent has found"
    )]
    NoRank(String),
    /// A domain that is to move has processes that use MPI and are no ranks that its agent knows.
    #[error("{}", not_ranks(name, unclaimed))]
    Unclaimed {
        /// The domain's name.
        name: String,
        /// The processes, as its agent tells of them.
        unclaimed: Unclaimed,
    },
    /// The launcher of a job does not tell how many ranks it has.
    #[error("the launcher of job {job} does not tell how many ranks it has")]
    UnknownSize {
        /// The launcher's name for the job.
        job: String,
    },
    /// A connection of a job would not bear the move.
    #[error(
        "a connection in {name} gives up after {:.1} s of silence, and a move may take {} s",
        patience.as_secs_f64(), pause.as_secs()
    )]
    Impatient {
        /// The domain's name.
        name: String,
        /// What its least patient connection bears.
        patience: Duration,
        /// What is asked of every connection.
        pause: Duration,
    },
    /// A domain that is to move has no agent.
    #[error("domain {0} has no agent: install rxl-guest-agent in it")]
    NoAgent(u32),
    /// The agent of a domain that is to move is of another version.
    #[error("the agent of {name} speaks protocol {theirs}, this rxl {PROTOCOL_VERSION}")]
    OtherProtocol {
        /// The domain's name.
        name: String,
        /// The agent's protocol.
        theirs: u32,
    },
    /// Domains that are to move together have ranks of different jobs.
    #[error("{0} and {1} do not belong to the same job")]
    DifferentJobs(String, String),
    /// Not all ranks of the job were found, so the cut could not be known to be clean.
    #[error("job {job} has {size} ranks, and {found} of them were found: {}", missing(troubles))]
    RanksMissing {
        /// The launcher's name for the job.
        job: String,
        /// Ranks of the job.
        size: u32,
        /// Ranks that are in domains with an agent.
        found: usize,
        /// Hosts and agents that could not be asked, and why.
        troubles: Vec<String>,
    },
    /// An agent has not answered in time.
    #[error("the agent of {name} did not answer in {} s", deadline.as_secs())]
    Silent {
        /// The domain's name.
        name: String,
        /// The deadline that has passed.
        deadline: Duration,
    },
    /// An agent has not done what it was told to.
    #[error("the agent of {name} {}", answered(status))]
    Answered {
        /// The domain's name.
        name: String,
        /// What the agent said instead.
        status: Status,
    },
    /// A domain was suspended for so long that its job's connections may not survive it.
    #[error(
        "the domain has stood still for {away:.1} s, and a connection of its job gives up after \
         {least:.0} s"
    )]
    Outage {
        /// How long the domain has been suspended, in seconds.
        away: f64,
        /// What the least patient connection bears, in seconds.
        least: f64,
    },
    /// A domain that moved has run before the others were let go.
    #[error("{0}: its ranks ran before the thaw")]
    RanTooEarly(String),
    /// The agent of a domain that moved has said something else than that it is there.
    #[error("{name}: its agent {} after it moved", answered(status))]
    OddArrival {
        /// The domain's name.
        name: String,
        /// What the agent said.
        status: Status,
    },
    /// The agent of a domain that moved has not said that it is there.
    #[error("{name}: its agent said nothing in {} s", deadline.as_secs())]
    NotHeardOf {
        /// The domain's name.
        name: String,
        /// The deadline that has passed.
        deadline: Duration,
    },
    /// libxl's own save helper has suspended the guest unasked.
    #[error("libxl's stock save helper does not ask before it suspends")]
    Unasked,
}

/// Why no job is held still.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    /// Another migration is in the way. To move without the job would disturb that one.
    #[error(transparent)]
    Busy(#[from] JobBusy),
    /// Nobody else is in the way.
    #[error(transparent)]
    Not(#[from] NotQuiesced),
}

/// Which other migration is in the way.
#[derive(Debug, thiserror::Error)]
pub enum JobBusy {
    /// It holds this domain's job.
    #[error("{0} is being quiesced by another migration")]
    Held(String),
    /// It looks for its own job on this host.
    #[error("another migration has been looking for its job on {0} for too long")]
    Survey(String),
}

impl From<AgentsError> for NotFound {
    fn from(error: AgentsError) -> Self {
        Self::Not(error.into())
    }
}

/// Processes that look like ranks, for people.
pub(crate) fn not_ranks(name: &str, unclaimed: &Unclaimed) -> String {
    let Unclaimed { count, pid, comm, library } = unclaimed;
    let others = match count {
        0 | 1 => String::new(),
        count => format!(" and {} others", count - 1),
    };
    format!(
        "{name}: process {pid} ({comm}){others} uses {library}, and is no rank of a launcher that \
         is known"
    )
}

/// Where ranks that were not found may be, for people.
fn missing(troubles: &[String]) -> String {
    if troubles.is_empty() {
        return "name all hosts in /etc/rxl/cluster.toml, and install rxl-guest-agent in all their \
                domains"
            .into();
    }
    troubles.join("; ")
}

/// What an agent said, for people.
fn answered(status: &Status) -> String {
    let with = |reason: &dyn std::fmt::Display, detail: &str| {
        let detail = one_line(detail);
        if detail.is_empty() { reason.to_string() } else { format!("{reason} ({detail})") }
    };
    match status {
        Status::Nack { reason, detail } => format!("refused: {}", with(reason, detail)),
        Status::Failed { reason, detail } => format!("failed: {}", with(reason, detail)),
        Status::Expired { .. } => "was not heard from in time and let its ranks run".into(),
        other => one_line(&format!("said {other:?}")),
    }
}
