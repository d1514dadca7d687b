//! Pre-copy: when it ends, and a guest's memory as a libxc stream, in both directions.
//!
//! [`policy`] decides, as a pure function of what was measured. [`save_memory`] reads a guest's
//! memory and makes the stream; [`load_memory`] fills a new guest's memory from one. Both see
//! memory through traits, so that neither needs Xen.

#![forbid(unsafe_code)]

pub mod load_memory;
pub mod policy;
pub mod save_memory;

/// An error of another crate: of Xen behind the traits for guests, or of a callback.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;
