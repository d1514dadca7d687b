//! What a migration cost, in numbers, and what is shown while it runs.
//!
//! [`migration`] is the report, [`mpi`] its part about the MPI job, [`progress`] the line on a
//! terminal.

#![forbid(unsafe_code)]

pub mod migration;
pub mod mpi;
pub mod progress;
