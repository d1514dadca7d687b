//! Raw bindings to Xen's toolstack library libxenlight (libxl), generated from the installed
//! headers.
//!
//! The library is **not** linked: [`library`] loads it on first use, so that a program that only
//! sometimes talks to Xen also starts where there is no Xen. libxl has no stable ABI. The bindings
//! are right for one Xen release, [`XEN_VERSION`], and the library is opened by the file name that
//! holds this release, [`SONAME`].
//!
//! The table also has functions of libxenctrl, libxenguest, libxenforeignmemory and libxenstore.
//! They are resolved through libxenlight, which is linked with these, so they are the ones that
//! libxl itself calls.
//!
//! Everything here is as unsafe as C. A small C shim adds what needs C: a logger that formats
//! libxl's `va_list` messages, a `fork` that calls back, and access to fields of structures that
//! are opaque in Rust.
#![cfg_attr(not(test), deny(clippy::unreachable))]

use std::sync::OnceLock;

// bindgen's layout tests are constants that index arrays.
#[allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals, dead_code)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]
#[allow(clippy::indexing_slicing)]
mod libxl {
    include!(concat!(env!("OUT_DIR"), "/libxl.rs"));
}

#[allow(missing_docs, non_camel_case_types)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::indexing_slicing)]
mod shim {
    include!(concat!(env!("OUT_DIR"), "/shim.rs"));
}

pub use libxl::*;
pub use shim::*;

/// File name of the library that the bindings were generated for, like `libxenlight.so.4.17`.
pub const SONAME: &str = env!("LIBXENLIGHT_SONAME");

/// The Xen release that the bindings were generated for, as `MAJOR.MINOR`.
pub const XEN_VERSION: &str = env!("LIBXENLIGHT_XEN_VERSION");

/// Returns the functions of libxl. The first call loads the library, for the life of the process:
/// it cannot be unloaded, because libxl leaves a fork handler and, at times, a SIGCHLD handler in
/// the process. The error is the dynamic loader's message.
pub fn library() -> Result<&'static Libxl, &'static str> {
    static LIBRARY: OnceLock<Result<Libxl, String>> = OnceLock::new();
    LIBRARY
        .get_or_init(|| {
            // SAFETY: the name carries the release whose headers gave the signatures in the table,
            // and Xen's libraries run no initialisers of their own.
            unsafe { Libxl::new(SONAME) }.map_err(|e| e.to_string())
        })
        .as_ref()
        .map_err(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::{CStr, c_char, c_int, c_void};
    use std::sync::{Mutex, PoisonError};

    #[test]
    fn the_release_is_in_the_name() {
        assert_eq!(SONAME, format!("libxenlight.so.{XEN_VERSION}"));
        assert_eq!(XEN_VERSION.split('.').count(), 2, "{XEN_VERSION}");
    }

    #[test]
    fn every_function_of_the_table_is_found() {
        library().expect("libxen-dev brings the library with the headers");
    }

    /// Held while a test is inside of libxl. xentoolcore guards a list of handles with a lock that
    /// has no fork handler: a child that is forked while another thread holds it waits for ever.
    static INSIDE: Mutex<()> = Mutex::new(());

    type Lines = Mutex<Vec<(c_int, String)>>;

    unsafe extern "C" fn keep(
        user: *mut c_void,
        level: c_int,
        _: c_int,
        _: *const c_char,
        line: *const c_char,
    ) {
        // SAFETY: the test passes a `Lines` that outlives the logger.
        let lines = unsafe { &*user.cast::<Lines>() };
        // SAFETY: the shim passes a terminated string.
        let line = unsafe { CStr::from_ptr(line) };
        lines.lock().unwrap().push((level, line.to_str().unwrap().to_owned()));
    }

    unsafe extern "C" fn ignore(
        _: *mut c_void,
        _: *const c_char,
        _: *const c_char,
        _: u64,
        _: u64,
    ) {
    }

    fn logger(lines: &Lines) -> *mut xentoollog_logger {
        let user = (&raw const *lines).cast_mut().cast();
        // SAFETY: both callbacks match the shim's types; the tests keep `lines` until the logger is
        // freed.
        unsafe { xlshim_logger_new(user, Some(keep), Some(ignore)) }
    }

    /// Opens and frees a context. Without Xen that fails, and libxl logs an error.
    fn provoke(logger: *mut xentoollog_logger) -> c_int {
        let library = library().unwrap();
        let mut ctx = std::ptr::null_mut();
        // SAFETY: the logger is live; where there is no Xen the call fails and leaves null, as its
        // header says.
        let rc =
            unsafe { library.libxl_ctx_alloc(&raw mut ctx, LIBXL_VERSION as c_int, 0, logger) };
        // SAFETY: `ctx` is null, or was just made and is used nowhere else.
        unsafe { library.libxl_ctx_free(ctx) };
        rc
    }

    #[test]
    fn lines_are_formatted_by_the_shim() {
        let _inside = INSIDE.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = Lines::default();
        let logger = logger(&lines);
        let failed = provoke(logger) != 0;
        // SAFETY: the context that logged to the logger is gone.
        unsafe { xlshim_logger_free(logger) };
        let lines = lines.into_inner().unwrap();
        assert_eq!(
            failed,
            lines.iter().any(|(level, _)| *level == XTL_ERROR as c_int),
            "{lines:?}"
        );
        assert!(lines.iter().all(|(_, line)| !line.contains('%')), "{lines:?}");
    }

    #[test]
    fn a_forked_child_never_enters_the_callbacks() {
        let _inside = INSIDE.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = Lines::default();
        let logger = logger(&lines);
        // The library is loaded before the fork: the thread of another test that is loading it
        // would not exist in the child.
        library().unwrap();
        // SAFETY: the child calls libxl, which is made for this, and then only ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: SIGALRM's default action ends a child that waits for a lock for ever.
            unsafe { libc::alarm(10) };
            provoke(logger);
            let silent = lines.try_lock().is_ok_and(|lines| lines.is_empty());
            // SAFETY: ends the child without running anything of the test harness.
            unsafe { libc::_exit(c_int::from(!silent)) };
        }
        let mut status = -1;
        // SAFETY: the test started this child itself.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        // SAFETY: nothing logs to the logger any more.
        unsafe { xlshim_logger_free(logger) };
        assert_eq!(status, 0);
    }
}
