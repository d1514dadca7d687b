//! Saved domains: written, read back, damaged, and what becomes of the domain.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../support/agents.rs"]
#[expect(dead_code, reason = "a save has no target")]
mod agents;
mod commands;
mod damage;
mod disk;
mod files;
mod quiesce;
mod round_trip;
