//! The commands of rxl, one module for each.
//!
//! Each takes its options, sets up signals and the host, runs the operation of the crate below it,
//! and prints what came of it.

pub mod agent;
pub mod cancel;
pub mod guard;
pub mod jobs;
pub mod migrate;
pub mod migrate_receive;
pub mod receive;
pub mod recover;
pub mod restore;
pub mod save;
pub mod ssh_gate;
pub mod status;
pub mod stream;
pub mod watch;
