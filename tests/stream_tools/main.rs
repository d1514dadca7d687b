//! `rxl stream`: the real program on streams of real guests, damaged ones, long ones and ones that
//! are none.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bounded;
mod differential;
mod oracle;
mod pieces;
mod program;
