//! `xc_domain_save`, with callbacks into Rust. For a process that does nothing else, such as
//! libxl's save helper.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::os::fd::IntoRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::library::Library;
use rxl_core::steering::Decision;

/// The callbacks of a save by libxc. All calls come on the thread that saves.
pub trait LibxcCallbacks {
    /// Told of a log line; `level` is one of xentoollog.h's.
    fn log(&mut self, level: u32, errno: i32, context: &str, text: &str);
    /// Told how far libxc is: `done` of `total` pages.
    fn progress(&mut self, context: &str, what: &str, done: u64, total: u64);
    /// Asked what comes next (xenguest.h: `precopy_policy`). `dirty` is none where libxc has not
    /// looked yet.
    fn precopy(&mut self, iteration: u32, written: u64, dirty: Option<u64>) -> Decision;
    /// Asked to suspend the guest; tells whether it did.
    fn suspend(&mut self) -> bool;
    /// Asked to switch the device model's log-dirty mode; tells whether it did.
    fn switch_qemu_logdirty(&mut self, domid: u32, enable: bool) -> bool;
}

/// Saves a domain's memory into the descriptor that libxl gave. The error is errno.
///
/// From here on SIGTERM makes libxc fail and clean up, whatever it does, as with the stock helper:
/// the stream's descriptor is replaced by one that cannot be written to.
pub fn save_with_libxc(
    library: Library,
    stream: i32,
    receive: i32,
    domid: u32,
    flags: u32,
    callbacks: &mut dyn LibxcCallbacks,
) -> Result<(), i32> {
    end_stream_on_sigterm(stream).map_err(|errno| errno as i32)?;
    let shared = Shared(RefCell::new(callbacks));
    let user: *mut c_void = (&raw const shared).cast_mut().cast();
    // SAFETY: the callbacks have the shim's types; `shared` outlives the logger, which is freed
    // below.
    let logger = unsafe { libxl_sys::xlshim_logger_new(user, Some(on_message), Some(on_progress)) };
    let logger = NonNull::new(logger).ok_or(Errno::ENOMEM as i32)?;
    // SAFETY: the logger is freed after the interface.
    let xc = unsafe { library.0.xc_interface_open(logger.as_ptr(), logger.as_ptr(), 0) };
    let result = match NonNull::new(xc) {
        None => Err(Errno::last_raw()),
        Some(xc) => {
            let mut table = table(user);
            let plain = libxl_sys::XC_STREAM_PLAIN;
            // SAFETY: the interface is open; table and what it points at live until the call
            // returns.
            let rc = unsafe {
                library.0.xc_domain_save(
                    xc.as_ptr(),
                    stream,
                    domid,
                    flags,
                    &raw mut table,
                    plain,
                    receive,
                )
            };
            let result = if rc == 0 { Ok(()) } else { Err(Errno::last_raw()) };
            // SAFETY: it is open and not used afterwards.
            unsafe { library.0.xc_interface_close(xc.as_ptr()) };
            result
        }
    };
    // SAFETY: nothing logs to it any more.
    unsafe { libxl_sys::xlshim_logger_free(logger.as_ptr()) };
    result
}

/// libxc logs while it is in no callback, but nothing says so: a line that comes inside of one is
/// dropped.
struct Shared<'a>(RefCell<&'a mut dyn LibxcCallbacks>);

fn table(user: *mut c_void) -> libxl_sys::save_callbacks {
    libxl_sys::save_callbacks {
        suspend: Some(on_suspend),
        precopy_policy: Some(on_precopy),
        postcopy: None,
        checkpoint: None,
        wait_checkpoint: None,
        switch_qemu_logdirty: Some(on_switch_qemu_logdirty),
        data: user,
    }
}

/// Runs a callback; a panic in it, or a call inside a call, yields `otherwise`.
///
/// # Safety
/// `user` is the pointer that `save_with_libxc` made, during that call.
unsafe fn with<T>(
    user: *mut c_void,
    otherwise: T,
    call: impl FnOnce(&mut dyn LibxcCallbacks) -> T,
) -> T {
    // SAFETY: by the caller's promise `user` points at the `Shared` of a save that is under way;
    // only shared references to it exist.
    let shared = unsafe { &*user.cast::<Shared<'_>>() };
    let Ok(mut callbacks) = shared.0.try_borrow_mut() else { return otherwise };
    catch_unwind(AssertUnwindSafe(|| call(&mut **callbacks))).unwrap_or(otherwise)
}

unsafe extern "C" fn on_suspend(user: *mut c_void) -> c_int {
    // SAFETY: libxc passes back what it was given.
    unsafe { with(user, 0, |callbacks| callbacks.suspend().into()) }
}

unsafe extern "C" fn on_precopy(stats: libxl_sys::precopy_stats, user: *mut c_void) -> c_int {
    let dirty = u64::try_from(stats.dirty_count).ok();
    // SAFETY: libxc passes back what it was given.
    let decision = unsafe {
        with(user, Decision::Abort, |callbacks| {
            callbacks.precopy(stats.iteration, stats.total_written, dirty)
        })
    };
    match decision {
        Decision::Continue => libxl_sys::XGS_POLICY_CONTINUE_PRECOPY as c_int,
        Decision::StopAndCopy => libxl_sys::XGS_POLICY_STOP_AND_COPY as c_int,
        Decision::Abort => libxl_sys::XGS_POLICY_ABORT,
    }
}

unsafe extern "C" fn on_switch_qemu_logdirty(
    domid: u32,
    enable: c_uint,
    user: *mut c_void,
) -> c_int {
    // SAFETY: libxc passes back what it was given.
    let switched = unsafe {
        with(user, false, |callbacks| callbacks.switch_qemu_logdirty(domid, enable != 0))
    };
    if switched { 0 } else { -1 }
}

unsafe extern "C" fn on_message(
    user: *mut c_void,
    level: c_int,
    errno: c_int,
    context: *const c_char,
    line: *const c_char,
) {
    // SAFETY: the shim passes null or a terminated string that is valid during the call.
    let context = unsafe { text(context) };
    // SAFETY: the shim passes null or a terminated string that is valid during the call.
    let line = unsafe { text(line) };
    // SAFETY: the shim passes back what it was given.
    unsafe {
        with(user, (), |callbacks| callbacks.log(level.cast_unsigned(), errno, &context, &line))
    };
}

unsafe extern "C" fn on_progress(
    user: *mut c_void,
    context: *const c_char,
    what: *const c_char,
    done: u64,
    total: u64,
) {
    // SAFETY: the shim passes null or a terminated string that is valid during the call.
    let context = unsafe { text(context) };
    // SAFETY: the shim passes null or a terminated string that is valid during the call.
    let what = unsafe { text(what) };
    // SAFETY: the shim passes back what it was given.
    unsafe { with(user, (), |callbacks| callbacks.progress(&context, &what, done, total)) };
}

/// # Safety
/// `raw` is null or a terminated string.
unsafe fn text(raw: *const c_char) -> String {
    if raw.is_null() {
        return String::new();
    }
    // SAFETY: not null, so by the caller's promise a terminated string.
    unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned()
}

/// For the signal handler: the stream, and what replaces it.
static STREAM: AtomicI32 = AtomicI32::new(-1);
static UNWRITABLE: AtomicI32 = AtomicI32::new(-1);

/// Without SA_RESTART a write that is under way returns, and the next one fails.
fn end_stream_on_sigterm(stream: i32) -> Result<(), Errno> {
    let unwritable = std::fs::File::open("/dev/null").map_err(|_| Errno::last())?;
    UNWRITABLE.store(unwritable.into_raw_fd(), Ordering::SeqCst);
    STREAM.store(stream, Ordering::SeqCst);
    let action = SigAction::new(SigHandler::Handler(on_sigterm), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler calls dup2 alone, which is async-signal-safe, and reads two atomics.
    unsafe { sigaction(Signal::SIGTERM, &action) }?;
    SigSet::from(Signal::SIGTERM).thread_unblock()
}

extern "C" fn on_sigterm(_: c_int) {
    let errno = Errno::last_raw();
    // SAFETY: dup2 is async-signal-safe and takes two descriptors of this process; a wrong one
    // fails. errno is put back below for the code that was interrupted.
    unsafe { libc::dup2(UNWRITABLE.load(Ordering::SeqCst), STREAM.load(Ordering::SeqCst)) };
    Errno::set_raw(errno);
}
