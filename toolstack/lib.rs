//! rxl: live migration of Xen domains, compressed, checksummed and measured.
//!
//! ARCHITECTURE.md tells what lives where and follows a page from the source's memory to the
//! target's.

#![deny(unsafe_code)]

pub mod announce;
pub mod cli;
pub mod config;
pub mod control;
pub mod data;
pub mod error;
pub mod gang;
pub mod guard;
pub mod host;
pub mod io;
pub mod plugin;
pub mod policy;
pub mod progress;
pub mod quiesce;
pub mod remote;
pub mod report;
pub mod restorer;
pub mod rounds;
pub mod savefile;
pub mod session;
pub mod state_dir;
pub mod stream;
pub mod transport;
pub mod walker;
pub mod xen;
