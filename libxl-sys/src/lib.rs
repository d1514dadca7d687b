//! Raw bindings to Xen's toolstack library libxenlight (libxl), generated from the installed
//! headers.
//!
//! The library is **not** linked: [`library`] loads it when it is first needed, so that a program
//! which only sometimes talks to Xen starts where there is none. libxl has no stable ABI: the
//! bindings hold for one Xen release, [`XEN_VERSION`], and the library is looked up under the exact
//! name that carries it, [`SONAME`].
//!
//! The few functions of libxenctrl and libxenstore in the table are found through libxenlight,
//! which is linked with both; so they are always the ones that libxl itself uses.
//!
//! Everything here is as unsafe as C. A small C shim adds what needs C: a logger that formats
//! libxl's `va_list` messages, a `fork` that tells of itself, and access to fields of structures
//! that stay opaque in Rust.

use std::sync::OnceLock;

#[allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals, dead_code)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]
mod libxl {
    include!(concat!(env!("OUT_DIR"), "/libxl.rs"));
}

#[allow(missing_docs, non_camel_case_types)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks)]
mod shim {
    include!(concat!(env!("OUT_DIR"), "/shim.rs"));
}

pub use libxl::*;
pub use shim::*;

/// File name of the library that the bindings were generated for, such as `libxenlight.so.4.17`.
pub const SONAME: &str = env!("LIBXENLIGHT_SONAME");

/// `MAJOR.MINOR` of the Xen release that the bindings were generated for.
pub const XEN_VERSION: &str = env!("LIBXENLIGHT_XEN_VERSION");

/// The functions of libxl, loaded once for the life of the process.
///
/// It is never unloaded: libxl leaves a fork handler and, at times, a SIGCHLD handler in the
/// process. The error is the dynamic loader's message.
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

    /// Held while a test is inside of libxl. xentoolcore keeps a list of handles under a lock
    /// without a fork handler: a child that is forked while another thread has it never gets it.
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

    /// Opens and frees a context, which fails, with an error line, where there is no Xen.
    fn provoke(logger: *mut xentoollog_logger) -> c_int {
        let library = library().unwrap();
        let mut ctx = std::ptr::null_mut();
        // SAFETY: the logger is live; where there is no Xen the call fails and leaves null, as its
        // header says.
        let rc =
            unsafe { library.libxl_ctx_alloc(&raw mut ctx, LIBXL_VERSION as c_int, 0, logger) };
        // SAFETY: null, or just made and used nowhere else.
        unsafe { library.libxl_ctx_free(ctx) };
        rc
    }

    #[test]
    fn lines_are_formatted_by_the_shim() {
        let _inside = INSIDE.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = Lines::default();
        let logger = logger(&lines);
        let failed = provoke(logger) != 0;
        // SAFETY: the context that logged to it is gone.
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
        // Loaded before the fork: another test's thread may be loading it, and would not exist in
        // the child.
        library().unwrap();
        // SAFETY: the child calls libxl, which is made for this, and then only ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: its default action ends the child, should it wait for a lock for ever.
            unsafe { libc::alarm(10) };
            provoke(logger);
            let silent = lines.try_lock().is_ok_and(|lines| lines.is_empty());
            // SAFETY: ends the child without running anything of the test harness.
            unsafe { libc::_exit(c_int::from(!silent)) };
        }
        let mut status = -1;
        // SAFETY: a child of this test's own.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        // SAFETY: nothing logs to it any more.
        unsafe { xlshim_logger_free(logger) };
        assert_eq!(status, 0);
    }
}
