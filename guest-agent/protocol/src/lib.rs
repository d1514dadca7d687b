//! What rxl in dom0 (the coordinator) and `rxl-guest-agent` in a domU say to each other through
//! xenstore, to hold an MPI job's ranks still around a migration. Formats only: no I/O.
//!
//! # Nodes
//!
//! Paths are relative to the domain's own directory (`/local/domain/DOMID` seen from dom0). Each
//! value is printable ASCII of at most [`MAX_VALUE`] bytes.
//!
//! | node | written by | value |
//! | --- | --- | --- |
//! | `control/rxl/command` | dom0 | one [`Command`], replaced by the next |
//! | `control/rxl/lease` | dom0 | a [`Lease`]; each change renews it |
//! | `data/rxl/agent` | agent | an [`AgentInfo`], while the agent runs |
//! | `data/rxl/state` | agent | a [`State`]: the answer, or what happened since |
//! | `data/rxl/jobs` | agent | the number of nodes `data/rxl/job/N` |
//! | `data/rxl/job/N` | agent | a [`JobRow`]: ranks in this domain |
//! | `data/rxl/unclaimed` | agent | an [`Unclaimed`], if the last survey has found any |
//! | `data/rxl/explain/N` | agent | lines for people on the last survey's verdicts |
//! | `data/rxl/cut/N` | agent | lines, each a [`Connection`] |
//!
//! `data/rxl/unclaimed` is missing where nothing is unclaimed, and where the agent is older than
//! the node: both mean that nothing is known against the rows. `data/rxl/explain/N` is there from a
//! survey until the next `prepare`; [`unpack_explanation`] reads it.
//!
//! A job with many ranks takes several job rows with the same id. `Flushed::chunks` tells how many
//! nodes the cut has.
//!
//! The guest can read what lies under `control` and cannot write there, so it cannot forge a
//! command. All that lies under `data` is the guest's own word: a coordinator parses it as
//! something hostile. The agent writes rows first and the state last, so who has read the state
//! finds the rows that belong to it.
//!
//! # Stamps
//!
//! A command carries an epoch (one attempt to migrate) and a sequence number in it. The agent obeys
//! a command only when its [`Stamp`] is greater than that of the last one it obeyed, and its answer
//! carries the same stamp. So a command that is read twice is obeyed once, and one that comes too
//! late is ignored. A coordinator picks an epoch greater than any it finds in the states of the
//! domains it is about to talk to. The time in milliseconds does well.
//!
//! # The agent's states
//!
//! ```text
//!         survey            prepare            freeze            flush, hold
//!        .------.       .--------------.     .--------.           .------.
//!        |      v       |              v     |        v           |      v
//!        '---- IDLE ----'             PREPARED       FROZEN ------'
//!               ^ ^ ^                    | |          |  |
//!               | | | finish, abort,     | |          |  | thaw
//!               | | | lease ended        | |          |  v
//!               | | '--------------------' |          | THAWED
//!               | |                        |          |  |
//!               | '------------------------|----------|--' finish, abort, lease ended
//!               |                          |          |
//!               '--------------------------'----------'
//!                 failed (thaws first); abort and the end of the lease thaw first too
//! ```
//! PREPARED: the ranks are known and stand in a cgroup of their own. They run. FROZEN: they do not.
//! THAWED: they run, and the agent keeps figures for `finish`. A `prepare` that is refused (`nack`)
//! leads back to IDLE. A newer epoch's command ends an older epoch first, as if by `abort`. A
//! command that does not fit the state is answered by `failed`, which thaws: the agent never stays
//! frozen in doubt. If the kernel refuses a thaw, the agent tries it again until it succeeds; no
//! lease counts meanwhile.
//!
//! **The lease.** Every command but `survey`, `finish` and `abort` brings one. It runs on the
//! guest's CLOCK_MONOTONIC, which stands still while the domain is suspended. Each such command,
//! and each change of `control/rxl/lease`, starts it anew. When it ends, the agent thaws what it
//! has frozen, forgets the epoch and says `expired`. So a coordinator that dies cannot leave ranks
//! frozen.
//!
//! # A migration
//!
//! ```text
//!  dom0, source          domU: agent                      dom0, target
//!    | 7 1 survey --------> | finds ranks, writes job rows
//!    | <--- 7 1 surveyed    |
//!    | 7 2 prepare -------> | ranks into a cgroup; vetoes    (pre-copy goes on, the job runs)
//!    | <- 7 2 ready | nack  |
//!    | 7 3 freeze --------> | cgroup.freeze = 1              (last live iterations)
//!    | <--- 7 3 frozen      |
//!    |  -- all domains of the job are frozen --
//!    | 7 4 flush ---------> | gives full receive queues room; waits until nothing is
//!    |                      | unacknowledged, or what is will be sent again too late;
//!    | <--- 7 4 flushed     | writes cut rows
//!    |  -- all domains of the job are flushed; if the audit of their cuts finds ends that
//!    |     disagree: flush again --
//!    | control/shutdown = suspend                             | (new tree, new domid)
//!    |                      x                                 | 7 5 hold, written before
//!    |  last pages, READY, GO                                 |   the domain runs
//!    |                      x resumes: watches fire <-------- | unpause
//!    |                      | 7 5 resumed ------------------> |
//!    |                      | agent, job rows, cut rows again
//!    |  -- all suspended domains of the job are resumed --
//!    |                      | <--------------------- 7 6 thaw |
//!    |                      | 7 6 thawed -------------------> |
//!    |                      | <------------------- 7 7 finish | (after a moment: what was
//!    |                      | ranks back to their own cgroup  |  retransmitted?)
//!    |                      | 7 7 finished -----------------> |
//! ```
//! Nothing of the guest's tree goes along: the target's is new, and empty but for `hold`. The agent
//! notices by the watch that the kernel registers again on resume, or because its own nodes are
//! gone, and writes them anew. A suspend that was cancelled fires no watch. Then the source writes
//! `hold` (or `thaw` at once), which the agent also finds by looking every now and then. A domain
//! that does not move gets the same commands but `hold`.
//!
//! In the other direction the coordinator may at any time send `abort`: thaw and finish in one.

#![forbid(unsafe_code)]

mod agent;
mod command;
mod cut;
pub mod deadlines;
mod explanation;
mod fields;
mod job;
pub mod path;
mod stamp;
mod state;
mod token;
mod unclaimed;

pub use agent::{AgentInfo, Freezer};
pub use command::{Command, Lease, Prepare, Verb};
pub use cut::{Audit, Connection, MAX_CUT_CHUNKS, audit, pack, unpack};
pub use explanation::{
    MAX_EXPLANATION, MAX_EXPLANATION_CHUNKS, MAX_EXPLANATION_LINE, pack_explanation,
    unpack_explanation,
};
pub use fields::{MAX_VALUE, Malformed};
pub use job::{JobRow, Launcher, MAX_JOB_ROWS, MAX_ROW_RANKS, Rank};
pub use stamp::Stamp;
pub use state::{Finished, Flushed, Frozen, MAX_DETAIL, Ready, Reason, State, Status, Thawed};
pub use token::{MAX_TOKEN, Token};
pub use unclaimed::Unclaimed;

/// Version of this protocol. Either side refuses another.
pub const PROTOCOL_VERSION: u32 = 1;
