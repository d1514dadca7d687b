//! Migrations over stock xl's protocol, from either end: every step's failure, and what is left
//! behind.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod receiver;
mod sender;

#[path = "../support/mod.rs"]
mod support;
