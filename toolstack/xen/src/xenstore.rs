//! libxl's own xenstore connection (libxenstore), for the two things that libxl itself keeps there
//! and has no call for: a domain's type, and the request to suspend.
//!
//! The request is withdrawn in a transaction, which xenstore-rs does not have. All else of rxl
//! reads and writes xenstore through `rxl-xenstore`.

use std::ffi::{CStr, CString, c_uint};
use std::ptr::NonNull;

use nix::errno::Errno;

use crate::c_string::take_string;
use crate::context::Context;
use crate::failure::Failure;

/// A connection through libxenstore, as dom0.
pub(super) struct LibxlStore {
    raw: NonNull<libxl_sys::xs_handle>,
    functions: &'static libxl_sys::Libxl,
}

/// What stands for no transaction (xenstore.h: `XBT_NULL`).
const NO_TRANSACTION: libxl_sys::xs_transaction_t = 0;

/// Conflicts with others' writes after which a change is given up.
const ATTEMPTS: u32 = 100;

impl LibxlStore {
    /// Connects beside a context.
    pub(super) fn open(context: &Context) -> Result<Self, Failure> {
        let functions = context.functions();
        // SAFETY: no preconditions.
        let raw = unsafe { functions.xs_open(0) };
        let failed =
            || Failure::of(format!("cannot connect to xenstore: {}", Errno::last().desc()));
        Ok(Self { raw: NonNull::new(raw).ok_or_else(failed)?, functions })
    }

    /// The node's value, if there is one that can be read.
    pub(super) fn read(&self, path: &str) -> Result<Option<String>, Failure> {
        Ok(self.read_in(NO_TRANSACTION, &c_path(path)?))
    }

    /// Writes `new` if the node's value is `old`; tells whether it was.
    pub(super) fn replace(&self, path: &str, old: &str, new: &str) -> Result<bool, Failure> {
        let c_path = c_path(path)?;
        for _ in 0..ATTEMPTS {
            match self.try_replace(&c_path, old, new) {
                Ok(replaced) => return Ok(replaced),
                Err(Errno::EAGAIN) => {}
                Err(errno) => return Err(failed("write", path, errno)),
            }
        }
        Err(failed("write", path, Errno::EAGAIN))
    }

    /// One transaction. EAGAIN means that somebody else wrote meanwhile.
    fn try_replace(&self, path: &CStr, old: &str, new: &str) -> Result<bool, Errno> {
        // SAFETY: the connection is live.
        let transaction = unsafe { self.functions.xs_transaction_start(self.raw.as_ptr()) };
        if transaction == NO_TRANSACTION {
            return Err(Errno::last());
        }
        let same = self.read_in(transaction, path).as_deref() == Some(old);
        let written = if same { self.write_in(transaction, path, new) } else { Ok(()) };
        let abort = !same || written.is_err();
        // SAFETY: the transaction was started above and ends here.
        let ended =
            unsafe { self.functions.xs_transaction_end(self.raw.as_ptr(), transaction, abort) };
        let ended = if ended || abort { Ok(()) } else { Err(Errno::last()) };
        written.and(ended).map(|()| same)
    }

    fn read_in(&self, transaction: libxl_sys::xs_transaction_t, path: &CStr) -> Option<String> {
        let mut len: c_uint = 0;
        // SAFETY: the connection is live and the path terminated.
        let raw = unsafe {
            self.functions.xs_read(self.raw.as_ptr(), transaction, path.as_ptr(), &raw mut len)
        };
        // SAFETY: null, or from malloc, terminated beyond `len` by libxenstore, and the caller's.
        unsafe { take_string(raw.cast()) }
    }

    fn write_in(
        &self,
        transaction: libxl_sys::xs_transaction_t,
        path: &CStr,
        value: &str,
    ) -> Result<(), Errno> {
        let length = c_uint::try_from(value.len()).map_err(|_| Errno::E2BIG)?;
        let (at, raw) = (value.as_ptr().cast(), self.raw.as_ptr());
        // SAFETY: the connection is live, the path terminated, and `length` bytes of the value are
        // there.
        let written =
            unsafe { self.functions.xs_write(raw, transaction, path.as_ptr(), at, length) };
        if written { Ok(()) } else { Err(Errno::last()) }
    }
}

impl Drop for LibxlStore {
    fn drop(&mut self) {
        // SAFETY: it was opened by `open` and is not used afterwards.
        unsafe { self.functions.xs_close(self.raw.as_ptr()) };
    }
}

fn c_path(path: &str) -> Result<CString, Failure> {
    CString::new(path).map_err(|_| Failure::of("a xenstore path holds a NUL"))
}

fn failed(what: &str, path: &str, errno: Errno) -> Failure {
    Failure::of(format!("cannot {what} xenstore {path}: {}", errno.desc()))
}
