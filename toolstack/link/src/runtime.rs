//! The process's one tokio runtime: for all that waits for many descriptors and deadlines at once.
//!
//! It is one thread, which starts with the first use. Nothing may block or compute on it: libxl
//! has its own threads, and so has the data path, which computes.
//!
//! tokio's features `process` and `signal` stay off. They install a SIGCHLD handler, and libxl
//! asserts that its own is the only one. Children are started by [`std::process`]; their exit is
//! seen on a pidfd ([`crate::ssh`]).

use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle};

static RUNTIME: Mutex<Option<Handle>> = Mutex::new(None);

/// The runtime, started if it is not running yet.
///
/// [`Handle::block_on`] may be called on any thread but the runtime's own.
pub fn runtime() -> io::Result<Handle> {
    let mut running = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*running {
        return Ok(handle.clone());
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    // It ends with the process.
    let drive = move || runtime.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name("link".into()).spawn(drive)?;
    *running = Some(handle.clone());
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_share_one_thread() {
        let name =
            || async { std::thread::current().name().map(str::to_owned).unwrap_or_default() };
        let first = runtime().unwrap();
        let second = runtime().unwrap();
        assert_eq!(first.id(), second.id());
        assert_eq!(first.block_on(first.spawn(name())).unwrap(), "link");
    }
}
