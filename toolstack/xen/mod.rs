//! libxl, made safe: contexts, domains, save and restore. Beside `libxl-sys`, the only place with `unsafe` code.
//!
//! # Contexts
//! Every operation opens a [`Context`] of its own and frees it at its end: its log lines belong to that operation, an abort
//! can only hit that operation, and no lock is shared with another. A context costs a xenstore connection and a few
//! hypervisor handles, well below a millisecond.
//!
//! # Child processes and SIGCHLD
//! libxl forks: the save helper, hotplug scripts, device models. Every context is set to
//! `libxl_sigchld_owner_libxl_always_selective_reap` (libxl_event.h), the mode for programs that reap their own children by
//! pid. From libxl_fork.c:
//! - While at least one context lives, libxl has a SIGCHLD handler installed. It only pokes each context's own pipe; each
//!   context then calls `waitpid` on its own children's pids and on no others. So any number of contexts may be open at once,
//!   and children of `std::process` are left to whoever started them, who must wait for them by pid.
//! - The rest of the process must not install a SIGCHLD handler: libxl asserts that there is none when it installs its own,
//!   and that its own is still there when it removes it.
//! - The handler is installed with `SA_RESTART`; `poll` and the like still return `EINTR`.
//! - Installing and removing it end with a direct call of the handler, which takes a mutex that the handler takes too. A
//!   SIGCHLD on that very thread at that moment would deadlock, so a context is opened and freed with SIGCHLD blocked on the
//!   calling thread; other threads, or the same one afterwards, receive it.
//!
//! # Aborting
//! Save and restore run as libxl's asynchronous operations, although their thread waits for them. `libxl_ao_abort` finds an
//! operation only between its creation inside the initiating call and its end. With an asynchronous operation the return of
//! that call marks the first point, and a failure to find it afterwards can only mean that it has ended. An abort that comes
//! earlier is kept and delivered right then; one that comes later does nothing ([`Canceller`]).
//!
//! # File descriptors
//! The save helper inherits stdin (libxl duplicates fd 0 for it, so that one must be open), stderr and the stream, whose
//! close-on-exec flag libxl clears in the child alone. Every other descriptor of this process must have the flag set.

#![allow(unsafe_code)]

mod ao;
mod balloon;
mod config;
mod context;
mod domain;
mod failure;
mod library;
mod log;
mod migration;
mod notes;

pub use ao::Canceller;
pub use context::{Context, PhysInfo};
pub use failure::Failure;
pub use library::Library;
