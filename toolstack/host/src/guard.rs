//! A second process that puts a domain right when rxl is killed.
//!
//! A suspended domain whose rxl is gone stands still until an operator looks; so does a half-built
//! copy at the target. No handler runs on SIGKILL, so each session that holds a domain has a guard:
//! `rxl guard`, in a session and under a name (`rxl-guard`) of its own. It hears what the domain is
//! to become, and acts when the line to rxl ends without `done`.
//!
//! ```text
//!  rxl migrate             rxl-guard         rxl receive              rxl-guard
//!   |- leaving, lock ------> |                |- coming NAME--incoming -> |
//!   |                        | killed: runs   |                           | killed: destroyed
//!   |                        | the domain on  |- held ------------------> |
//!   |                        | here           |                           | killed: kept
//!   |- done ---------------> |                |                           |
//!   |========== GO =========================> |- taken -----------------> |
//!   |                                         |                           | killed: run here
//!   |                                         |- done ------------------> |
//! ```
//! `done` goes out before GO, so a guard never runs a domain on that the target may be running. The
//! domain's lock is shared with the guard (flock(2) belongs to the open file): nobody begins a
//! migration of a domain that is being put right.
//!
//! The guard tells syslog what it does: rxl's own standard error may have gone with its terminal,
//! or with ssh.

use std::time::{Duration, Instant};

use nix::unistd::{Pid, getppid};

use crate::guard_line::{Guard, Word};
use crate::host::Host;
use rxl_core::domain::Domain;
use rxl_core::state_dir::DomainLock;

mod act;

pub use act::{Settling, put_right};

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

/// Guards a domain that is being saved. Where no guard can be started, the migration goes on
/// without one.
pub fn leaving(host: &dyn Host, domain: &Domain, lock: &DomainLock) -> Guard {
    with_word(host, lock, &Word::Leaving { domid: domain.domid.0, name: domain.name.clone() })
}

/// Guards a domain that is being built under a name that was free.
pub fn coming(host: &dyn Host, name: &str, lock: &DomainLock) -> Guard {
    with_word(host, lock, &Word::Coming { name: name.into() })
}

fn with_word(host: &dyn Host, lock: &DomainLock, word: &Word) -> Guard {
    let guard = host.guard(lock).unwrap_or_else(|error| {
        tracing::warn!("nobody puts things right if rxl is killed: {error}");
        Guard::none()
    });
    guard.tell(word);
    guard
}
