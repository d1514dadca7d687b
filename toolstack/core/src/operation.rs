//! A long operation of libxl's on a thread of its own.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::deadlines;
use crate::host_error::HostError;

/// Aborts one running operation, from any thread, at most once.
#[derive(Clone)]
pub struct Abort(Arc<dyn Fn() + Send + Sync>);

impl Abort {
    /// Wraps what aborts.
    pub fn new(pull: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(pull))
    }

    /// Asks the operation to stop. It still has to be waited for.
    pub fn pull(&self) {
        (self.0)();
    }
}

/// A long operation on a thread of its own. Dropping it aborts it and waits for its end.
pub struct Operation<T> {
    name: &'static str,
    abort: Abort,
    thread: Option<JoinHandle<Result<T, HostError>>>,
}

impl<T: Send + 'static> Operation<T> {
    /// Runs `work` on a new thread; `abort` makes it return early.
    pub fn spawn(
        name: &'static str,
        abort: Abort,
        work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
    ) -> Result<Self, HostError> {
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(work)
            .map_err(|error| HostError::failed(name, error))?;
        Ok(Self { name, abort, thread: Some(thread) })
    }

    /// Waits for its end. Call it when the operation's notes have ended: then it returns at once.
    pub fn wait(mut self) -> Result<T, HostError> {
        let name = self.name;
        let panicked = |_| Err(HostError::failed(name, "its thread panicked"));
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or_else(panicked),
            None => panicked(Box::new(())),
        }
    }

    /// Aborts it and waits for its end, with a deadline.
    pub fn abort_and_wait(mut self) -> Result<T, HostError> {
        self.abort.pull();
        match self.thread.as_ref() {
            Some(thread) if ends_within(thread, deadlines::ABORT) => self.wait(),
            _ => {
                // Nobody can end a thread that libxl holds; the rest of the session must go on.
                self.thread = None;
                let seconds = deadlines::ABORT.as_secs();
                let late = format!("did not end {seconds} s after an abort");
                Err(HostError::failed(self.name, late))
            }
        }
    }
}

fn ends_within<T>(thread: &JoinHandle<T>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

impl<T> Drop for Operation<T> {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.abort.pull();
        if ends_within(&thread, deadlines::ABORT) {
            // A panic there has been printed by its own thread; dropping must not panic again.
            let _ = thread.join();
        } else {
            tracing::error!("{} did not end after an abort", self.name);
        }
    }
}
