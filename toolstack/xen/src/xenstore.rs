//! xenstore, for what libxl has no call for.

use std::ffi::{CStr, CString, c_char, c_uint};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use crate::context::{Context, take_string};
use crate::failure::Failure;
use crate::library::Library;
use rxl_core::io::rest;

/// A connection.
pub struct XenStore {
    raw: NonNull<libxl_sys::xs_handle>,
    library: &'static libxl_sys::Libxl,
}

// SAFETY: libxenstore's handle may be used from any thread, by one at a time (xenstore.h), which
// the lack of Sync sees to.
unsafe impl Send for XenStore {}

/// A watch on a node and all below it. Dropping it ends it.
pub struct Watch<'a> {
    store: &'a XenStore,
    path: CString,
}

/// Goes with every event of a watch, to tell watches of one connection apart.
const TOKEN: &CStr = c"rxl";

/// xenstore.h: `XBT_NULL`.
const NO_TRANSACTION: libxl_sys::xs_transaction_t = 0;

/// Conflicts with others' writes after which a change is given up.
const ATTEMPTS: u32 = 100;

impl XenStore {
    /// Connects beside a context.
    pub fn open(context: &Context) -> Result<Self, Failure> {
        Self::connect(context.library())
    }

    /// Connects as dom0: all nodes of all domains can be read and written.
    pub fn connect(library: Library) -> Result<Self, Failure> {
        let library = library.0;
        // SAFETY: no preconditions.
        let raw = unsafe { library.xs_open(0) };
        NonNull::new(raw).map(|raw| Self { raw, library }).ok_or_else(|| failed("connect", ""))
    }

    /// The names of a node's children; none where there is no such node.
    pub fn list(&self, path: &str) -> Result<Vec<String>, Failure> {
        let (path, mut count) = (c_path(path)?, 0);
        // SAFETY: the connection is live and the path terminated.
        let raw = unsafe {
            self.library.xs_directory(
                self.raw.as_ptr(),
                NO_TRANSACTION,
                path.as_ptr(),
                &raw mut count,
            )
        };
        let Some(raw) = NonNull::new(raw) else { return Ok(Vec::new()) };
        // SAFETY: libxenstore made an array of `count` pointers.
        let names = unsafe { std::slice::from_raw_parts(raw.as_ptr(), count as usize) };
        // SAFETY: each points at a terminated string in the array's own block of memory.
        let name =
            |name: &*mut c_char| unsafe { CStr::from_ptr(*name) }.to_string_lossy().into_owned();
        let names = names.iter().map(name).collect();
        // SAFETY: one block from malloc, the caller's, not used afterwards.
        unsafe { libc::free(raw.as_ptr().cast()) };
        Ok(names)
    }

    /// Writes a node. One that is new inherits its parent's permissions.
    pub fn write(&self, path: &str, value: &str) -> Result<(), Failure> {
        if self.write_in(NO_TRANSACTION, &c_path(path)?, value) {
            Ok(())
        } else {
            Err(failed("write", path))
        }
    }

    /// The node's value, if there is one that can be read.
    pub fn read(&self, path: &str) -> Result<Option<String>, Failure> {
        Ok(self.read_in(NO_TRANSACTION, &c_path(path)?))
    }

    /// Watches a node, which need not be there. xenstored fires it once at once, then with every
    /// change (docs/misc/xenstore.txt).
    pub fn watch(&self, path: &str) -> Result<Watch<'_>, Failure> {
        let c_path = c_path(path)?;
        // SAFETY: the connection is live; path and token are terminated.
        let watched =
            unsafe { self.library.xs_watch(self.raw.as_ptr(), c_path.as_ptr(), TOKEN.as_ptr()) };
        if watched { Ok(Watch { store: self, path: c_path }) } else { Err(failed("watch", path)) }
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
            let committed = unsafe {
                self.library.xs_transaction_end(self.raw.as_ptr(), transaction, !written)
            };
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
        let raw = unsafe {
            self.library.xs_read(self.raw.as_ptr(), transaction, path.as_ptr(), &raw mut len)
        };
        // SAFETY: null, or from malloc, terminated beyond `len` by libxenstore, and the caller's.
        unsafe { take_string(raw.cast()) }
    }

    fn write_in(
        &self,
        transaction: libxl_sys::xs_transaction_t,
        path: &CString,
        value: &str,
    ) -> bool {
        let (at, len) = (value.as_ptr().cast(), value.len() as c_uint);
        // SAFETY: the connection is live, the path terminated, and `len` bytes of the value are
        // there.
        unsafe { self.library.xs_write(self.raw.as_ptr(), transaction, path.as_ptr(), at, len) }
    }
}

impl Watch<'_> {
    /// Waits for an event, or until `patience` is over. It may return for nothing: an earlier
    /// watch's event, or a signal.
    pub fn wait(&self, patience: Duration) {
        let (library, raw) = (self.store.library, self.store.raw.as_ptr());
        // SAFETY: the connection is live.
        let fd = unsafe { library.xs_fileno(raw) };
        if fd < 0 {
            return std::thread::sleep(patience);
        }
        // SAFETY: libxenstore's own, open for as long as the connection is, which is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        rest(fd, patience);
        loop {
            // SAFETY: the connection is live; with nothing there it does not wait.
            let event = unsafe { library.xs_check_watch(raw) };
            if event.is_null() {
                return;
            }
            // SAFETY: one block from malloc, with its strings in it, the caller's, not used
            // afterwards.
            unsafe { libc::free(event.cast()) };
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // SAFETY: the connection is live; path and token are terminated, and those that the watch
        // was set with.
        unsafe {
            self.store.library.xs_unwatch(
                self.store.raw.as_ptr(),
                self.path.as_ptr(),
                TOKEN.as_ptr(),
            )
        };
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
