//! libxl, made safe: contexts, domains, save and restore. Beside `libxl-sys`, the only place with
//! `unsafe` code.
//!
//! # Contexts
//! Every operation opens a [`Context`] of its own and frees it at its end: its log lines belong to
//! that operation, an abort can only hit that operation, and no lock is shared with another. A
//! context costs a xenstore connection and a few hypervisor handles: a call with its context takes
//! 15 to 20 ms on a host that is itself emulated.
//!
//! # Child processes and SIGCHLD
//! libxl forks: the save helper, hotplug scripts, device models. Every context is set to
//! `libxl_sigchld_owner_libxl_always_selective_reap` (libxl_event.h), the mode for programs that
//! reap their own children by pid. From libxl_fork.c:
//! - While at least one context lives, libxl has a SIGCHLD handler installed. It only pokes each
//!   context's own pipe; each context then calls `waitpid` on its own children's pids and on no
//!   others. So any number of contexts may be open at once, and children of `std::process` are left
//!   to whoever started them, who must wait for them by pid.
//! - The rest of the process must not install a SIGCHLD handler: libxl asserts that there is none
//!   when it installs its own, and that its own is still there when it removes it.
//! - The handler is installed with `SA_RESTART`; `poll` and the like still return `EINTR`.
//! - Installing and removing it end with a direct call of the handler, which takes a mutex that the
//!   handler takes too. A SIGCHLD on that very thread at that moment would deadlock, so a context
//!   is opened and freed with SIGCHLD blocked on the calling thread; other threads, or the same one
//!   afterwards, receive it.
//!
//! # Aborting, and what libxl does not survive
//! Save and restore run as libxl's asynchronous operations, although their thread waits for them:
//! an operation that is aborted must be found by `libxl_ao_abort` while its initiating call is
//! still on its way, or not at all.
//!
//! libxl (4.17 to this day: check_all_finished in libxl_stream_read.c and libxl_stream_write.c)
//! calls a null pointer when its stream fails or is aborted **before it has started its save
//! helper**. Two things keep that from happening:
//! - an abort is held back until the helper has been forked, which [`Canceller`] learns through
//!   libxl's fork hook; it is a matter of milliseconds, and an abort before the beginning needs no
//!   libxl at all;
//! - a restore begins when the start of its stream has arrived in full and been found sound, as
//!   nothing after it can fail before the helper runs (`stream`).
//!
//! A save's reader must not close the pipe before it has read anything, for the same reason.
//!
//! # File descriptors
//! The save helper inherits stdin (libxl duplicates fd 0 for it, so that one must be open), stderr
//! and the stream, whose close-on-exec flag libxl clears in the child alone. Every other descriptor
//! of this process must have the flag set.

use std::ffi::OsStr;

mod ao;
mod balloon;
mod boot;
mod c_string;
mod canceller;
mod config;
mod context;
mod cpu_policy;
mod domain;
mod domain_events;
mod ended;
mod failure;
mod foreign;
mod guest_memory;
mod interface;
mod library;
mod libxc_save;
mod log;
mod migration;
mod new_guest;
mod notes;
mod stream;
mod suspend;
mod this_host;
mod watch;
mod xenstore;

pub use balloon::Room;
pub use canceller::Canceller;
pub use context::{Context, PhysInfo};
pub use domain_events::DomainEvents;
pub use failure::Failure;
pub use guest_memory::GuestMemory;
pub use library::{Library, LibraryError};
pub use libxc_save::{LibxcCallbacks, save_with_libxc};
pub use new_guest::{BuiltGuest, ClaimError, Rings, end_claim};

pub use watch::MemoryWatch;

use interface::Interface;
use rxl_core::domain::SpecialPages;

/// Switches Xen's log-dirty mode off, without libxl.
pub fn log_dirty_off(library: Library, domid: u32) -> Result<(), Failure> {
    Context::open(library)?.log_dirty_off(domid)
}

/// Runs a domain on that a process which is gone has asked to suspend, whether it has done so by
/// now or will.
pub fn abandon_suspend(library: Library, domid: u32) -> Result<(), Failure> {
    Context::open(library)?.abandon_suspend(domid)
}

/// The pages through which a PVH guest talks to xenstored and xenconsoled.
pub fn special_pages(library: Library, domid: u32) -> Result<SpecialPages, Failure> {
    let xen = Interface::open(library, domid)?;
    let store = xen.hvm_param(libxl_sys::HVM_PARAM_STORE_PFN)?;
    Ok(SpecialPages { store, console: xen.hvm_param(libxl_sys::HVM_PARAM_CONSOLE_PFN)? })
}

/// The number of pages of 4 KiB that a domain has.
pub fn resident_pages(library: Library, domid: u32) -> Result<u64, Failure> {
    Interface::open(library, domid)?.info().map(|info| info.tot_pages)
}

/// How much memory a domain has, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// One past the highest page number.
    pub pfns: u64,
    /// Pages of 4 KiB.
    pub pages: u64,
    /// It is a PV guest.
    pub pv: bool,
}

/// The extent of a domain's memory now.
pub fn extent(library: Library, domid: u32) -> Result<Extent, Failure> {
    let xen = Interface::open(library, domid)?;
    let info = xen.info()?;
    let pv = info.flags & libxl_sys::XEN_DOMINF_hvm_guest == 0;
    Ok(Extent { pfns: xen.pfns()?, pages: info.tot_pages, pv })
}

/// Major and minor version of the Xen that rxl was built for, which is the one that runs.
pub fn release() -> (u32, u32) {
    let (major, minor) = libxl_sys::XEN_VERSION.split_once('.').unwrap_or_default();
    (major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
}

/// Why the environment was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The kernel does not say how many threads there are.
    #[error("/proc/self/task: {0}")]
    Unknown(#[source] std::io::Error),
    /// Another thread might be reading the environment just then.
    #[error("the environment cannot be changed once there are several threads")]
    SeveralThreads,
}

/// Sets environment variables that libxl and its children read. To be called while the process has
/// one thread.
pub fn export(variables: &[(&str, &OsStr)]) -> Result<(), ExportError> {
    let tasks = std::fs::read_dir("/proc/self/task").map_err(ExportError::Unknown)?;
    if tasks.count() != 1 {
        return Err(ExportError::SeveralThreads);
    }
    for (name, value) in variables {
        // SAFETY: this is the only thread, as was just counted, so nobody reads the environment
        // meanwhile, and nobody else can start a thread.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(())
}
