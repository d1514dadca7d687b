//! Long operations of libxl: run, wait, abort.

use rxl_core::deadlines;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::context::Context;
use crate::failure::Failure;

/// What tells the end of the one operation of a context from other events.
const FOR_USER: u64 = 1;

/// Every kind of event (libxl_event.h: `LIBXL_EVENTMASK_ALL`, which bindgen cannot translate).
const ALL_EVENTS: u64 = u64::MAX;

/// Pause after a failed wait, as libxl takes one itself (libxl_event.c: libxl__ao_inprogress).
const RETRY: Duration = Duration::from_secs(1);

/// Aborts one operation, whenever it is pulled: before the operation begins, while it runs, or
/// after it has ended.
#[derive(Clone, Default)]
pub struct Canceller(Arc<Shared>);

#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pulled: bool,
    running: Option<Arc<Context>>,
    /// libxl has a child process, the first of which is the save helper.
    forked: bool,
}

impl State {
    fn cannot_be_aborted_yet(&mut self) -> bool {
        self.running.is_some() && !self.forked
    }
}

impl Canceller {
    /// Asks the operation to stop; it still has to be waited for. Only the first call does
    /// anything.
    ///
    /// An operation that has just begun is aborted when its helper runs, and this waits for that.
    pub fn pull(&self) {
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.pulled, true) {
            return;
        }
        let waited = self.0.changed.wait_timeout_while(
            state,
            deadlines::HELPER_FORK,
            State::cannot_be_aborted_yet,
        );
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.cannot_be_aborted_yet() {
            tracing::error!(
                "libxl did not start its helper within {:?}: nothing can be aborted",
                deadlines::HELPER_FORK
            );
            return;
        }
        let running = state.running.clone();
        // libxl may be telling of another child just now, with its context locked.
        drop(state);
        if let Some(context) = running {
            context.abort();
        }
    }

    /// Whether it was pulled.
    pub fn is_pulled(&self) -> bool {
        self.0.lock().pulled
    }

    /// What [`Shared::on_fork`] is to be called with. It is valid as long as this or a clone of it.
    pub(super) fn as_user(&self) -> *mut c_void {
        Arc::as_ptr(&self.0).cast_mut().cast()
    }

    fn begin(&self, context: &Arc<Context>) -> Result<(), Failure> {
        let mut state = self.0.lock();
        if state.pulled {
            return Err(Failure::aborted());
        }
        state.running = Some(context.clone());
        Ok(())
    }

    fn end(&self) {
        self.0.lock().running = None;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called by the shim when libxl has forked, in the parent, with the context locked: it must
    /// not call libxl.
    pub(super) unsafe extern "C" fn on_fork(user: *mut c_void) {
        // SAFETY: `user` comes from `Canceller::as_user`, and the context that forks keeps a clone
        // of that canceller.
        let shared = unsafe { &*user.cast::<Self>() };
        shared.lock().forked = true;
        shared.changed.notify_all();
    }
}

impl Context {
    /// Runs the operation that `start` initiates and waits for its end.
    ///
    /// `start` passes the `how` on to one initiating function of libxl on this context and returns
    /// that function's result. Whatever it lends to libxl must outlive this call; nothing needs to
    /// outlive it.
    pub(super) fn run(
        self: &Arc<Self>,
        start: impl FnOnce(&libxl_sys::libxl_asyncop_how) -> c_int,
    ) -> Result<(), Failure> {
        self.canceller().begin(self)?;
        let rc = match start(&how()) {
            0 => self.wait(),
            rc => rc,
        };
        self.canceller().end();
        self.check(rc)
    }

    /// Returns only when the operation has ended: until then libxl uses what was lent to it.
    fn wait(&self) -> c_int {
        loop {
            let mut event = std::ptr::null_mut();
            // SAFETY: the context is live; without a predicate there is no user pointer to keep.
            let rc = unsafe {
                self.functions().libxl_event_wait(
                    self.as_ptr(),
                    &raw mut event,
                    ALL_EVENTS,
                    None,
                    NO_USER,
                )
            };
            if rc != 0 {
                tracing::error!(
                    "libxl cannot wait for its operation (return code {rc}), trying again"
                );
                std::thread::sleep(RETRY);
                continue;
            }
            let mut result = 0;
            // SAFETY: libxl handed out a valid event, which is freed below and not used again.
            let ended =
                unsafe { libxl_sys::xlshim_event_is_end_of(event, FOR_USER, &raw mut result) };
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
    fn a_pull_before_the_beginning_is_kept_and_does_not_wait() {
        let canceller = Canceller::default();
        assert!(!canceller.is_pulled());
        canceller.clone().pull();
        canceller.pull();
        assert!(canceller.is_pulled());
    }

    #[test]
    fn a_fork_is_told() {
        let canceller = Canceller::default();
        // SAFETY: the pointer is this canceller's own, and it lives.
        unsafe { Shared::on_fork(canceller.as_user()) };
        assert!(canceller.0.lock().forked);
    }
}
