//! `--mpi-quiesce`: holds an MPI job's ranks still while one of its domains moves.
//!
//! Each domU of the job runs an agent (`rxl-guest-agent`); [`rxl_agent_protocol`] has the words and
//! the agent's states. The coordinator is the session on the source. It reaches agents through
//! xenstore: on its own host directly, on the others through `rxl agent serve` over ssh between the
//! hosts, never over the guests' network, which is what is being frozen.
//!
//! ```text
//!  session                       this host's agents        other hosts' agents     target's rxl
//!    | survey ------------------------> all of the cluster's domains
//!    |   (checks, pre-copy; the job runs)
//!    |  policy: the rest is below the limit
//!    | prepare -----------------------> all domains of the job        nack: nothing has been frozen yet
//!    | freeze ------------------------> all: barrier
//!    | flush -------------------------> all: what is sent again meanwhile finds room in the receivers
//!    |   (one more live iteration: ranks that stand still dirty nothing)
//!    | flush -------------------------> all: barrier; again, for 2 s, while the cut's two ends disagree, unless what is
//!    |                                  in flight is sent again only after that; for 5 s while less is left each time
//!    |   (suspend, last pages, READY)                                    leases of the others are renewed
//!    | GO, with `hold` ---------------------------------------------------> into the new tree, then unpause
//!    | <------------------------------------------------------------ Done |
//!    | wait for `resumed` from the domain that moved, in its new home, and until its bridges forward to it
//!    | thaw --------------------------> all, the one that moved among them
//!    | finish ------------------------> all: what was retransmitted
//! ```
//! What fails before the guest is suspended thaws the job, and then either the migration is given
//! up (`require`) or goes on without: a job over TCP survives that. After GO the ranks are thawed
//! whatever happens, by word or by the end of their lease. Nobody waits for MPI progress, only for
//! kernels, each with a deadline.

#![forbid(unsafe_code)]

pub mod cluster;
pub mod coordinator;
mod everyone;
pub mod jobs;
pub mod keeper;
pub mod nodes;
pub mod remote;
mod survey;

pub use survey::epoch_now;
