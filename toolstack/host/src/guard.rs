//! A second process that puts a domain right when rxl is killed.
//!
//! A suspended domain whose rxl is gone stands still until somebody looks; so does a half-built
//! copy at the target. No handler runs on SIGKILL, so each session that holds a domain has a guard:
//! `rxl guard`, in a session and under a name (`rxl-guard`) of its own. It is told which record it
//! guards, and settles that (`rxl-recover`) when the line to rxl ends without `done`.
//!
//! ```text
//!  rxl migrate              rxl-guard            rxl receive              rxl-guard
//!   |- settle source ID --->  |                   |- settle target ID --->  |
//!   |                         |                   |                         |
//!   |  killed: the record says what becomes of the domain, on either host   |
//!   |                         |                   |                         |
//!   |- done, at its end ----> |                   |- done, at its end ----> |
//! ```
//! The domain's lock is shared with the guard (flock(2) belongs to the open file): nobody begins a
//! migration of a domain that is being put right.

use std::time::{Duration, Instant};

use nix::unistd::{Pid, getppid};

use crate::guard_line::{Guard, Word};
use crate::host::Host;
use rxl_core::state_dir::DomainLock;

/// Waits until the parent process has ended, if it is ending. A parent that lives on lets its guard
/// act, and waits for it. Linux gives a process a new parent once the old one has closed
/// all its files (`do_exit` in kernel/exit.c).
pub fn wait_for_end_of(parent: Pid) {
    const POLL_INTERVAL: Duration = Duration::from_millis(20);
    let until = Instant::now() + Duration::from_secs(1);
    while getppid() == parent && Instant::now() < until {
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Starts a guard and tells it what it guards. Where none can be started the migration goes on
/// without one: `rxl recover` settles the record later.
pub fn start(host: &dyn Host, lock: &DomainLock, word: &Word) -> Guard {
    let guard = host.guard(lock).unwrap_or_else(|error| {
        tracing::warn!("nobody puts things right at once if rxl is killed: {error}");
        Guard::none()
    });
    guard.tell(word);
    guard
}
