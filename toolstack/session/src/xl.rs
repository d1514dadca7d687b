//! Migrations over stock xl's own protocol, with xl at the other end (Xen's tools/xl/xl_migrate.c).
//!
//! ```text
//!  sender                                            receiver, `xl migrate-receive`
//!    | <--------------------------------- banner |   1
//!    | header, configuration ------------------> |   2, 3   checks; libxl restores NAME--incoming
//!    | libxl's stream -------------------------> |   4
//!    | <---------------------------------- READY |   5      a paused copy stands there
//!    | rename to NAME--migratedaway              |
//!    ============================ GO ================================
//!    | GO -------------------------------------> |   6      rename to NAME, unpause
//!    | <-------------------- REPORT, status byte |   7, 8
//!    | status 0: destroy                         |
//!    | else wait for <----------------------- GO |   9      it has destroyed its copy
//!    | rename back, resume                       |
//! ```
//! [`migrate_stream::xl`] has the words. There is one connection, nothing on it is checksummed, and
//! neither side can say why.
//!
//! # What a lost word means
//!
//! The sender may destroy its copy when it has read REPORT with status 0, and may run it again when
//! it has read a REPORT with another status and the receiver's GO; else it keeps it, standing
//! still. From this follows what a receiver may do:
//!
//! - **GO has not come whole** (end of file, other bytes, too late): the receiver has not said
//!   REPORT, so the sender still has its copy. The receiver's is destroyed: nothing is lost, and
//!   nothing is left that could run twice. xl's receiver says REPORT first and leaves its copy
//!   standing, paused, when it finds nobody there to hear that.
//! - **GO has come**: the domain is the receiver's, whatever becomes of the connection. It gives it
//!   back only when it has not run it and has destroyed it.
//! - **It cannot tell whether it runs**: it says nothing, and the sender keeps its copy.
//!
//! And what a sender may do:
//!
//! - **GO was not written, not even a byte of it**: it has not been said, and the sender runs its
//!   copy on.
//! - **It was written, and no REPORT came**: nobody knows. The sender keeps its copy and says how
//!   to decide.
//!
//! In code: only a `wire::Go` starts a domain at the receiver, and only reading all of GO makes
//! one.

mod inward;
pub mod line;
mod outward;
pub mod receive;
pub mod source;
mod wire;
