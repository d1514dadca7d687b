//! Long operations of libxl: run, wait, abort.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::time::Duration;

use crate::canceller::Running;
use crate::context::Context;
use crate::failure::Failure;

/// Marks the end of the one operation of a context among its events.
const FOR_USER: u64 = 1;

/// Every kind of event (libxl_event.h: `LIBXL_EVENTMASK_ALL`, which bindgen cannot translate).
pub(super) const ALL_EVENTS: u64 = u64::MAX;

/// Pause after a failed wait, as libxl takes one itself (libxl_event.c: libxl__ao_inprogress).
const RETRY: Duration = Duration::from_secs(1);

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
        if !self.canceller().begin(self.clone()) {
            return Err(Failure::aborted());
        }
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
            // SAFETY: libxl handed the event out on this context, and nothing refers to it now.
            unsafe { self.functions().libxl_event_free(self.as_ptr(), event) };
            if ended {
                return result;
            }
        }
    }
}

impl Running for Context {
    /// libxl finds no operation where it has ended.
    fn abort(&self) {
        let how = how();
        // SAFETY: the context is live; libxl compares `how` and keeps nothing of it.
        let rc = unsafe { self.functions().libxl_ao_abort(self.as_ptr(), &raw const how) };
        tracing::debug!(rc, "asked libxl to abort");
    }
}

/// For a wait without a predicate.
pub(super) const NO_USER: *mut c_void = std::ptr::null_mut();

/// No callback: the end is told by an event.
fn how() -> libxl_sys::libxl_asyncop_how {
    libxl_sys::libxl_asyncop_how {
        callback: None,
        u: libxl_sys::libxl_asyncop_how__bindgen_ty_1 { for_event: FOR_USER },
    }
}
