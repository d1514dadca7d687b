//! libxl's logger, bridged to `tracing`, to [`Note`]s and to the lines that a [`super::Failure`]
//! carries.

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::failure::Failure;
use crate::notes::{Level, note_of, printable, without_position};
use rxl_core::notes::{Note, NoteKind, Notes};

/// Error lines kept for a failure. The first of a cascade tells most, the last where it ended; more
/// than four are never seen.
const KEPT_LINES: usize = 4;

/// Characters kept of each.
const KEPT_CHARS: usize = 400;

/// A logger for one context. It must outlive the context.
pub(super) struct Logger {
    raw: NonNull<libxl_sys::xentoollog_logger>,
    sink: Box<Sink>,
}

struct Sink {
    errors: Mutex<VecDeque<String>>,
    notes: Option<Notes>,
    asked_to_suspend: AtomicBool,
}

// SAFETY: the C logger is immutable after its creation, and `Sink` is `Send` and `Sync`.
unsafe impl Send for Logger {}
// SAFETY: the C logger is immutable, and `Sink` is Sync: libxl calls it from several threads.
unsafe impl Sync for Logger {}

impl Logger {
    pub(super) fn new(notes: Option<Notes>) -> Result<Self, Failure> {
        let sink = Box::new(Sink {
            errors: Mutex::default(),
            notes,
            asked_to_suspend: AtomicBool::new(false),
        });
        let user = (&raw const *sink).cast_mut().cast();
        // SAFETY: the callbacks have the shim's types; `user` points into a box that lives as long
        // as the logger.
        let raw =
            unsafe { libxl_sys::xlshim_logger_new(user, Some(on_message), Some(on_progress)) };
        let raw = NonNull::new(raw).ok_or_else(|| Failure::of("no memory for a logger"))?;
        Ok(Self { raw, sink })
    }

    pub(super) fn as_ptr(&self) -> *mut libxl_sys::xentoollog_logger {
        self.raw.as_ptr()
    }

    /// The failure that `rc` stands for, with the error lines logged so far, which are then
    /// forgotten.
    pub(super) fn failure(&self, rc: c_int) -> Failure {
        let mut errors = self.sink.errors.lock().unwrap_or_else(PoisonError::into_inner);
        Failure { rc, lines: errors.drain(..).collect() }
    }

    /// Whether there was a [`NoteKind::SuspendRequested`].
    pub(super) fn asked_to_suspend(&self) -> bool {
        self.sink.asked_to_suspend.load(Ordering::Relaxed)
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        // SAFETY: it was made by `xlshim_logger_new`; the context that logged to it is gone, as its
        // owner frees it first.
        unsafe { libxl_sys::xlshim_logger_free(self.raw.as_ptr()) };
    }
}

impl Sink {
    fn message(&self, level: Level, context: &str, full_line: &str) {
        let line = without_position(full_line);
        match level {
            Level::Debug => tracing::debug!(target: "libxl", context, "{full_line}"),
            Level::Progress => tracing::trace!(target: "libxl", context, "{full_line}"),
            Level::Info => tracing::info!(target: "libxl", context, "{full_line}"),
            Level::Warn => tracing::warn!(target: "libxl", context, "{full_line}"),
            Level::Error => {
                tracing::error!(target: "libxl", context, "{full_line}");
                self.keep(line);
            }
        }
        if let Some(what) = note_of(level, line) {
            self.note(what);
        }
    }

    fn keep(&self, line: &str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() == KEPT_LINES {
            errors.pop_front();
        }
        errors.push_back(line.chars().take(KEPT_CHARS).collect());
    }

    fn note(&self, what: NoteKind) {
        if what == NoteKind::SuspendRequested {
            self.asked_to_suspend.store(true, Ordering::Relaxed);
        }
        if let Some(notes) = &self.notes {
            // Fails only when nobody listens any more.
            let _ = notes.send(Note { at: Instant::now(), what });
        }
    }
}

/// Called by the shim, perhaps with libxl's context locked: it must not call libxl.
unsafe extern "C" fn on_message(
    user: *mut c_void,
    level: c_int,
    errnoval: c_int,
    context: *const c_char,
    line: *const c_char,
) {
    // SAFETY: `user` is what `Logger::new` passed, and the logger outlives every context that logs
    // to it.
    let sink = unsafe { &*user.cast::<Sink>() };
    // SAFETY: the shim passes a terminated string or null, valid during this call.
    let context = unsafe { text(context) };
    // SAFETY: the shim passes a terminated string or null, valid during this call.
    let line = unsafe { text(line) };
    without_unwinding(|| sink.message(Level::of(level), &context, &with_errno(line, errnoval)));
}

/// Called by the shim, as [`on_message`].
unsafe extern "C" fn on_progress(
    user: *mut c_void,
    _context: *const c_char,
    what: *const c_char,
    done: u64,
    total: u64,
) {
    // SAFETY: `user` is what `Logger::new` passed, and the logger outlives every context that logs
    // to it.
    let sink = unsafe { &*user.cast::<Sink>() };
    // SAFETY: the shim passes a terminated string or null, valid during this call.
    let what = unsafe { text(what) };
    // libxc tells every 1024 pfns; what lies between is counted in the stream, and each note wakes
    // two threads.
    if done == 0 || done >= total {
        without_unwinding(|| sink.note(NoteKind::Progress { what, done, total }));
    }
}

/// A panic must not cross C; it has been reported by the panic hook.
fn without_unwinding(work: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(work));
}

/// # Safety
/// `raw` is null or a terminated string, valid during the call.
unsafe fn text(raw: *const c_char) -> String {
    if raw.is_null() {
        return String::new();
    }
    // SAFETY: not null, so by the caller's promise a terminated string.
    printable(&unsafe { CStr::from_ptr(raw) }.to_string_lossy())
}

fn with_errno(line: String, errnoval: c_int) -> String {
    // -1 is xentoollog's "none"; libxl logs 0 where a call failed without one.
    if errnoval <= 0 {
        return line;
    }
    format!("{line}: {}", std::io::Error::from_raw_os_error(errnoval))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn log(logger: &Logger, level: u32, line: &CStr) {
        let user = (&raw const *logger.sink).cast_mut().cast();
        // SAFETY: the sink and the strings live during the call.
        unsafe { on_message(user, level as c_int, -1, c"libxl".as_ptr(), line.as_ptr()) };
    }

    #[test]
    fn the_last_error_lines_are_kept_once() {
        let logger = Logger::new(None).unwrap();
        for line in [c"one", c"two", c"three", c"four", c"five"] {
            log(&logger, libxl_sys::XTL_ERROR, line);
        }
        log(&logger, libxl_sys::XTL_DEBUG, c"noise");
        assert_eq!(logger.failure(-3).lines, ["two", "three", "four", "five"]);
        assert_eq!(logger.failure(-3).lines, [""; 0]);
    }

    #[test]
    fn notes_arrive_and_a_gone_listener_is_no_error() {
        let (sender, receiver) = channel();
        let logger = Logger::new(Some(sender)).unwrap();
        log(&logger, libxl_sys::XTL_DEBUG, c"f.c:1:f: Domain 2:guest has suspended");
        let user = (&raw const *logger.sink).cast_mut().cast();
        // SAFETY: the sink and the string live during the call.
        unsafe { on_progress(user, std::ptr::null(), c"Frames iteration 1".as_ptr(), 0, 9) };
        // SAFETY: as above.
        unsafe { on_progress(user, std::ptr::null(), c"Frames iteration 1".as_ptr(), 3, 9) };
        let told: Vec<_> = receiver.try_iter().map(|note| note.what).collect();
        let progress = NoteKind::Progress { what: "Frames iteration 1".into(), done: 0, total: 9 };
        assert_eq!(told, [NoteKind::Suspended, progress]);
        drop(receiver);
        log(&logger, libxl_sys::XTL_WARN, c"nobody hears");
    }

    #[test]
    fn errno_is_told_in_words() {
        assert_eq!(with_errno("open".into(), -1), "open");
        assert_eq!(with_errno("open".into(), 0), "open");
        assert!(with_errno("open".into(), 2).starts_with("open: No such file"));
    }
}
