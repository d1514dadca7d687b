//! The connections between the two hosts of a migration.
//!
//! [`ssh`] starts programs there, [`control`] carries the messages of the two sessions, and
//! [`transport`] opens the data connections. What they wait for, they wait for on the one tokio
//! runtime of the process ([`runtime`]).

#![forbid(unsafe_code)]

pub mod control;
pub mod descriptor;
pub mod runtime;
pub mod ssh;
pub mod transport;
