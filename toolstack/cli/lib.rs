//! rxl: live migration of Xen domains, compressed, checksummed and measured.
//!
//! This is the program's own part: the command line ([`arguments`]), one module for each command
//! ([`commands`]), and what the commands share. ARCHITECTURE.md tells what lives where.

#![forbid(unsafe_code)]

pub mod arguments;
pub mod commands;
pub mod logging;
pub mod progress;

mod hosts;
mod report_file;
mod service;
mod signals;
mod standard_io;
mod xl_config;
