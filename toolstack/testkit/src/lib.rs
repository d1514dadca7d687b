//! A host in memory that emits true libxl streams from synthetic guests, with faults.
//!
//! It serves tests, fault injection and benchmarks. No claim about Xen rests on it.

#![forbid(unsafe_code)]

pub mod locks;
pub mod memory;
pub mod silent;
