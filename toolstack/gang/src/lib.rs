//! Several domains at once: `rxl migrate dom3 dom4 nodeB`.
//!
//! libxl takes the process for its own: one SIGCHLD handler, one save helper's environment. So each
//! domain is moved by a process of its own, a member, which is a whole `rxl migrate`; the leader,
//! which the user started, holds the one [`rxl_quiesce::coordinator::Coordinator`] and lets the
//! members past barriers. Leader and member speak JSON lines over the member's standard input, a
//! socket.
//!
//! ```text
//!  leader                                        each member
//!                        <---------------- Prepared   checked, its target accepts, nothing begun
//!  all prepared: survey, lock the job
//!  Begin  ----------------------------------------->  pre-copy
//!                        <-------------------- Stop   enough pre-copy; meanwhile live iterations
//!  all want to stop: prepare, freeze
//!  Frozen ----------------------------------------->  one more live iteration
//!                        <----------------- Suspend
//!  all want to suspend: flush
//!  Flushed  --------------------------------------->  the guest is suspended, last pages
//!                        <------------------- Ready   the target has all of it
//!  ==================== all are ready: Go to all =====================
//!  Go, with `hold` -------------------------------->  commits, alone
//!                        <----------------- Settled   it runs there, or here, or nobody knows
//!  all have settled: the agents say so, thaw
//!  Closed, with the job's figures ----------------->
//!                        <------------------- Ended   result and report
//! ```
//! Above the line the first failure is everybody's: the job is let go, and all domains run on where
//! they were (`Abort`). A user's cancel of a member that is ready comes to the leader (`Cancel`),
//! as the others may have gone already. Below the line each domain is on its own: a job whose
//! domains are some here, some there, is still a correct job.
//!
//! Where no job is held still, because nobody asked or it could not be (`Alone`), members wait for
//! nothing after `Begin`.
//!
//! A leader that dies closes the members' sockets: those above the line cancel, the others finish.
//! A member that dies counts as failed. Every barrier has a deadline ([`barriers`]), related to
//! those of the targets in [`rxl_core::deadlines`].

#![forbid(unsafe_code)]

pub mod barriers;
pub mod leader;
pub mod members;
pub mod placement;
mod seats;
