//! `--mpi-quiesce`: holds an MPI job's ranks still while one of its domains moves.
//!
//! Each domU of the job runs an agent (`rxl-guest-agent`); [`rxl_agent_protocol`] has the words and
//! the agent's states. The coordinator is the session on the source. It reaches agents through
//! xenstore: on its own host directly, on the others through `rxl agent serve` over ssh between the
//! hosts, never over the guests' network, which is what is being frozen.
//!
//! ```text
//!  session                   this host's agents     other hosts' agents     target's rxl
//!    | survey --------------------> all of the cluster's domains
//!    |   (checks, pre-copy; the job runs)
//!    |  policy: the rest is below the limit
//!    | prepare -------------------> all domains of the job; on a nack nothing has been frozen yet
//!    | freeze --------------------> all: barrier
//!    | flush ---------------------> all: receivers make room for what is sent again meanwhile
//!    |   (one more live iteration: ranks that stand still dirty nothing)
//!    | flush ---------------------> all: barrier; again while the cut's two ends disagree (1)
//!    |   (suspend, last pages, READY; leases of the others are renewed)
//!    | GO, with `hold` --------------------------------------------> into the new tree, unpause
//!    | <------------------------------------------------------------------------------ Done |
//!    | wait for `resumed` from the domain that moved, and until its bridges forward to it
//!    | thaw ----------------------> all, the one that moved among them
//!    | finish --------------------> all: what was retransmitted
//! ```
//! (1) For [`FLUSH`](rxl_core::deadlines::FLUSH), unless what is in flight is sent again only after
//! that; for [`LONGEST_FLUSH`](rxl_core::deadlines::LONGEST_FLUSH) while less is left each time.
//!
//! What fails before the guest is suspended thaws the job, and then either the migration is given
//! up (`require`) or goes on without: a job over TCP survives that. After GO the ranks are thawed
//! whatever happens, by word or by the end of their lease. Nobody waits for MPI progress, only for
//! kernels, each with a deadline.

#![forbid(unsafe_code)]

pub mod cluster;
pub mod coordinator;
pub mod error;
mod everyone;
mod figures;
pub mod host;
pub mod jobs;
mod keeper;
mod members;
pub mod nodes;
pub mod owners;
pub mod server;
mod survey;

pub use members::Mover;
pub use survey::epoch_now;
