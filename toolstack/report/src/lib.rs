//! What a migration cost, in numbers, and what it tells while it runs.
//!
//! [`schema`] is the report in its JSON form, with [`mpi`] for the MPI job; `table` is its text
//! form. [`timeline`] and `figures` compute its numbers. [`progress`] is what a session tells while
//! it runs.

#![forbid(unsafe_code)]

#[cfg(test)]
mod documented;
mod figures;
pub mod mpi;
pub mod progress;
pub mod schema;
mod table;
pub mod timeline;
