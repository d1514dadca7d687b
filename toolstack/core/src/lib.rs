//! What every part of rxl speaks of: domains, failures, deadlines, descriptors.
//!
//! This crate knows neither Xen nor the network, and no other crate of rxl.

#![forbid(unsafe_code)]

pub mod boot;
pub mod deadlines;
pub mod dom0;
pub mod domain;
pub mod domain_config;
pub mod error;
pub mod host_error;
pub mod io;
pub mod json_lines;
pub mod level;
pub mod names;
pub mod notes;
pub mod operation;
pub mod own_program;
pub mod peer;
pub mod permitted;
pub mod save_format;
pub mod shutdown;
pub mod state_dir;
pub mod steering;
pub mod target_spans;
pub mod text;
pub mod units;
pub mod worker;
