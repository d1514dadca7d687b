//! Long operations of libxl: run, wait, abort.

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::context::Context;
use super::failure::Failure;

/// What tells the end of the one operation of a context from other events.
const FOR_USER: u64 = 1;

/// Every kind of event (libxl_event.h: `LIBXL_EVENTMASK_ALL`, which bindgen cannot translate).
const ALL_EVENTS: u64 = u64::MAX;

/// Pause after a failed wait, as libxl takes one itself (libxl_event.c: libxl__ao_inprogress).
const RETRY: Duration = Duration::from_secs(1);

/// Aborts one operation, whenever it is pulled: before the operation begins, while it runs, or after it has ended.
#[derive(Clone, Default)]
pub struct Canceller(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    pulled: bool,
    running: Option<Arc<Context>>,
}

impl Canceller {
    /// Asks the operation to stop; it still has to be waited for. Only the first call does anything.
    ///
    /// May wait for libxl to finish a step, as it takes the context's lock.
    pub fn pull(&self) {
        let mut state = self.lock();
        if state.pulled {
            return;
        }
        state.pulled = true;
        if let Some(context) = &state.running {
            context.abort();
        }
    }

    /// Whether it was pulled.
    pub fn is_pulled(&self) -> bool {
        self.lock().pulled
    }

    fn begun(&self, context: &Arc<Context>) {
        let mut state = self.lock();
        if state.pulled {
            context.abort();
        }
        state.running = Some(context.clone());
    }

    fn ended(&self) {
        self.lock().running = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    /// Runs the operation that `start` initiates and waits for its end.
    ///
    /// `start` passes the `how` on to one initiating function of libxl on this context and returns that function's result.
    /// Whatever it lends to libxl must outlive this call; nothing needs to outlive it.
    pub(super) fn run(
        self: &Arc<Self>,
        canceller: &Canceller,
        start: impl FnOnce(&libxl_sys::libxl_asyncop_how) -> c_int,
    ) -> Result<(), Failure> {
        if canceller.is_pulled() {
            return Err(Failure { rc: libxl_sys::ERROR_ABORTED, lines: Vec::new() });
        }
        self.check(start(&how()))?;
        canceller.begun(self);
        let rc = self.wait();
        canceller.ended();
        self.check(rc)
    }

    /// Returns only when the operation has ended: until then libxl uses what was lent to it.
    fn wait(&self) -> c_int {
        loop {
            let mut event = std::ptr::null_mut();
            // SAFETY: the context is live; without a predicate there is no user pointer to keep.
            let rc =
                unsafe { self.functions().libxl_event_wait(self.as_ptr(), &raw mut event, ALL_EVENTS, None, NO_USER) };
            if rc != 0 {
                tracing::error!("libxl cannot wait for its operation (return code {rc}), trying again");
                std::thread::sleep(RETRY);
                continue;
            }
            let mut result = 0;
            // SAFETY: libxl handed out a valid event, which is freed below and not used again.
            let ended = unsafe { libxl_sys::xlshim_event_is_end_of(event, FOR_USER, &raw mut result) };
            // SAFETY: as above.
            unsafe { self.functions().libxl_event_free(self.as_ptr(), event) };
            if ended {
                return result;
            }
        }
    }

    /// Harmless when the operation has ended: libxl then finds none.
    fn abort(&self) {
        let how = how();
        // SAFETY: the context is live; libxl compares `how` and keeps nothing of it.
        let rc = unsafe { self.functions().libxl_ao_abort(self.as_ptr(), &raw const how) };
        tracing::debug!(rc, "asked libxl to abort");
    }
}

const NO_USER: *mut c_void = std::ptr::null_mut();

/// No callback: the end is told by an event.
fn how() -> libxl_sys::libxl_asyncop_how {
    libxl_sys::libxl_asyncop_how {
        callback: None,
        u: libxl_sys::libxl_asyncop_how__bindgen_ty_1 { for_event: FOR_USER },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_before_the_beginning_is_kept_and_a_second_does_nothing() {
        let canceller = Canceller::default();
        assert!(!canceller.is_pulled());
        canceller.clone().pull();
        canceller.pull();
        assert!(canceller.is_pulled());
    }
}
