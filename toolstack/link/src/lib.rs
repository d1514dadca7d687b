//! The connections between the two hosts of a migration.
//!
//! [`ssh`] starts programs there, [`control`] carries the messages of the two sessions, and
//! [`transport`] opens the data connections.

#![forbid(unsafe_code)]

pub mod control;
pub mod ssh;
pub mod transport;
