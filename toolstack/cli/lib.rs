//! rxl: live migration of Xen domains, compressed, checksummed and measured.
//!
//! ARCHITECTURE.md tells what lives where and follows a page from the source's memory to the
//! target's.

#![forbid(unsafe_code)]

pub mod arguments;
pub mod commands;
pub mod xl_config;
