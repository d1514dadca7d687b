//! The lab: two nested Xen hosts or three, each in one QEMU, with guests that check their own
//! memory and run MPI jobs.
//!
//! ```no_run
//! use std::time::Duration;
//! use rxl_lab::{Lab, Node, Options};
//!
//! let lab = Lab::up(Options::default())?;
//! lab.node(Node::A).check("xl migrate small nodeB", Duration::from_secs(300))?;
//! assert!(lab.domains(Node::B)?.iter().any(|domain| domain.name == "small"));
//! # anyhow::Ok(())
//! ```
//!
//! Images and a *golden snapshot* of the hosts are built once and cached ([`Lab::up`] says where);
//! a lab starts from copies of the snapshot, within seconds. `README.md` beside this crate tells
//! what the hosts and guests are.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod accelerator;
mod cache;
mod domain;
mod golden;
mod host;
mod images;
mod lab;
mod machines;
mod memcheck;
mod monitor;
mod ping;
mod process;
mod processor;
mod qemu;
mod remote;
mod run_dir;
mod topology;
mod watchdog;

pub use domain::Domain;
pub use host::Host;
pub use lab::{Lab, Options};
pub use memcheck::{MemcheckProbe, MemcheckStatus};
pub use nix::sys::signal::Signal;
pub use ping::{PingProbe, PingReport};
pub use process::Output;
pub use processor::ProcessorTime;
pub use qemu::Life;
pub use remote::RemoteProcess;
pub use topology::{GUESTS, Guest, MEMCHECK_PORT, Node, guest};

/// Names of the labs that are up.
///
/// # Errors
/// The directory of all labs cannot be read.
pub fn names() -> anyhow::Result<Vec<String>> {
    run_dir::names()
}

/// Builds what [`Lab::up`] needs, where the cache lacks it, and removes parts that nobody used for
/// two weeks.
///
/// # Errors
/// A recipe fails, or the hosts do not boot.
pub fn build() -> anyhow::Result<()> {
    let cache = cache::Cache::open()?;
    let images = images::Images::build(&cache)?;
    let accelerator = accelerator::Accelerator::choose(&cache, &images.parts.dom0)?;
    golden::Golden::build(&cache, &images, accelerator, &topology::Node::THREE)?;
    images::prune(&cache)?;
    golden::Golden::prune(&cache)
}
