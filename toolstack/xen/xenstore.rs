//! The few looks into xenstore for which libxl has no call.

use std::ffi::{CString, c_uint};
use std::ptr::NonNull;

use nix::errno::Errno;

use super::context::{Context, take_string};
use super::failure::Failure;

/// A connection.
pub(super) struct XenStore {
    raw: NonNull<libxl_sys::xs_handle>,
    library: &'static libxl_sys::Libxl,
}

/// xenstore.h: `XBT_NULL`.
const NO_TRANSACTION: libxl_sys::xs_transaction_t = 0;

/// Conflicts with others' writes after which a change is given up.
const ATTEMPTS: u32 = 100;

impl XenStore {
    pub(super) fn open(context: &Context) -> Result<Self, Failure> {
        let library = context.functions();
        // SAFETY: no preconditions.
        let raw = unsafe { library.xs_open(0) };
        NonNull::new(raw).map(|raw| Self { raw, library }).ok_or_else(|| failed("connect", ""))
    }

    /// The node's value, if there is one that can be read.
    pub(super) fn read(&self, path: &str) -> Result<Option<String>, Failure> {
        Ok(self.read_in(NO_TRANSACTION, &c_path(path)?))
    }

    /// Writes `new` if the node's value is `old`; tells whether it was.
    pub(super) fn replace(&self, path: &str, old: &str, new: &str) -> Result<bool, Failure> {
        let c_path = c_path(path)?;
        for _ in 0..ATTEMPTS {
            // SAFETY: the connection is live.
            let transaction = unsafe { self.library.xs_transaction_start(self.raw.as_ptr()) };
            if transaction == NO_TRANSACTION {
                return Err(failed("start a transaction for", path));
            }
            let same = self.read_in(transaction, &c_path).as_deref() == Some(old);
            let written = same && self.write_in(transaction, &c_path, new);
            // SAFETY: the transaction was started above and ends here.
            let committed = unsafe { self.library.xs_transaction_end(self.raw.as_ptr(), transaction, !written) };
            match (same, written && committed) {
                (false, _) => return Ok(false),
                (true, true) => return Ok(true),
                (true, false) if written && Errno::last() == Errno::EAGAIN => {}
                (true, false) => return Err(failed("write", path)),
            }
        }
        Err(failed("agree with others on", path))
    }

    fn read_in(&self, transaction: libxl_sys::xs_transaction_t, path: &CString) -> Option<String> {
        let mut len: c_uint = 0;
        // SAFETY: the connection is live and the path terminated.
        let raw = unsafe { self.library.xs_read(self.raw.as_ptr(), transaction, path.as_ptr(), &raw mut len) };
        // SAFETY: null, or from malloc, terminated beyond `len` by libxenstore, and the caller's.
        unsafe { take_string(raw.cast()) }
    }

    fn write_in(&self, transaction: libxl_sys::xs_transaction_t, path: &CString, value: &str) -> bool {
        let (at, len) = (value.as_ptr().cast(), value.len() as c_uint);
        // SAFETY: the connection is live, the path terminated, and `len` bytes of the value are there.
        unsafe { self.library.xs_write(self.raw.as_ptr(), transaction, path.as_ptr(), at, len) }
    }
}

impl Drop for XenStore {
    fn drop(&mut self) {
        // SAFETY: it was opened by `open` and is not used afterwards.
        unsafe { self.library.xs_close(self.raw.as_ptr()) };
    }
}

fn c_path(path: &str) -> Result<CString, Failure> {
    CString::new(path).map_err(|_| Failure::of("a xenstore path holds a NUL"))
}

fn failed(what: &str, path: &str) -> Failure {
    Failure::of(format!("cannot {what} xenstore {path}: {}", Errno::last().desc()))
}
