//! What a domain that rxl moved, restored or resumed does when its guest reboots, ends or crashes.
//!
//! Xen only says that a guest has ended; a process has to boot it again or destroy it. xl has one
//! for each domain. [`Watcher`] does the same with the same events of libxl, and takes the same
//! steps in the same order (xl_vmcontrol.c: create_domain, handle_domain_death). [`decide`] is the
//! decision, without the host.

#![forbid(unsafe_code)]

mod clock;
mod decision;
mod watcher;

pub use decision::{Decision, Then, decide};
pub use watcher::{Means, Watcher};
