//! A libxl context, and what can be asked of the host through it.

use std::ffi::{CStr, c_int};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use crate::canceller::{Canceller, ForkWatch};
use crate::failure::Failure;
use crate::library::Library;
use crate::log::Logger;
use rxl_core::notes::Notes;

/// How every context treats child processes: see the module's documentation. libxl keeps the
/// address.
static CHILDREN: libxl_sys::libxl_childproc_hooks = libxl_sys::libxl_childproc_hooks {
    chldowner: libxl_sys::libxl_sigchld_owner_libxl_always_selective_reap,
    fork_replacement: Some(libxl_sys::xlshim_fork),
    reaped_callback: None,
};

/// KiB of a page as Xen counts them.
const PAGE_KIB: u64 = 4;

/// Connections to the hypervisor and to xenstore, with a log of their own. Usable from any thread.
pub struct Context {
    raw: NonNull<libxl_sys::libxl_ctx>,
    library: &'static libxl_sys::Libxl,
    // Both are pointed at by libxl until the context is freed.
    log: Logger,
    forks: Box<ForkWatch>,
}

// SAFETY: libxl contexts may be used from several threads at once (libxl.h, "libxl_ctx"): each has
// a lock.
unsafe impl Send for Context {}
// SAFETY: that lock serialises the calls of several threads; `Logger` is Sync, and a `ForkWatch`
// is not changed after its creation.
unsafe impl Sync for Context {}

/// A host's memory and paging modes (`libxl_physinfo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysInfo {
    /// Pages of 4 KiB that no domain has.
    pub free_pages: u64,
    /// Pages freed but not yet scrubbed.
    pub scrub_pages: u64,
    /// Pages of the above that are claimed by domains under construction.
    pub outstanding_pages: u64,
    /// Hardware-assisted paging is available.
    pub hap: bool,
    /// Shadow paging is compiled in.
    pub shadow: bool,
}

impl PhysInfo {
    /// Memory in KiB that a new domain can get. Scrubbing pages can be allocated; claimed ones
    /// belong to domains under construction.
    pub fn free_memory_kib(&self) -> u64 {
        let PhysInfo { free_pages, scrub_pages, outstanding_pages, .. } = *self;
        (free_pages + scrub_pages).saturating_sub(outstanding_pages) * PAGE_KIB
    }
}

impl Context {
    /// Connects, for calls that answer at once. libxl's log goes to `tracing`.
    pub fn open(library: Library) -> Result<Self, Failure> {
        Self::connect(library, None, Canceller::default())
    }

    /// Connects, for one operation that `canceller` aborts. libxl's log goes to `tracing`, and what
    /// it tells of the operation to `notes`.
    pub fn for_operation(
        library: Library,
        notes: Notes,
        canceller: Canceller,
    ) -> Result<Arc<Self>, Failure> {
        Self::connect(library, Some(notes), canceller).map(Arc::new)
    }

    fn connect(
        library: Library,
        notes: Option<Notes>,
        canceller: Canceller,
    ) -> Result<Self, Failure> {
        let log = Logger::new(notes)?;
        let forks = ForkWatch::new(canceller);
        let fork_user = forks.as_user();
        let library = library.0;
        let raw = with_sigchld_blocked(|| {
            let mut raw = std::ptr::null_mut();
            // SAFETY: the logger is stored beside the context and freed after it.
            let rc = unsafe { library.libxl_ctx_alloc(&raw mut raw, VERSION, 0, log.as_ptr()) };
            let raw = NonNull::new(raw).filter(|_| rc == 0).ok_or_else(|| log.failure(rc))?;
            // SAFETY: a new context has no children; the hooks are static, and the watch is boxed
            // and freed after the context.
            unsafe {
                library.libxl_childproc_setmode(raw.as_ptr(), &raw const CHILDREN, fork_user)
            };
            Ok(raw)
        })?;
        Ok(Self { raw, library, log, forks })
    }

    pub(super) fn as_ptr(&self) -> *mut libxl_sys::libxl_ctx {
        self.raw.as_ptr()
    }

    pub(super) fn canceller(&self) -> &Canceller {
        self.forks.canceller()
    }

    pub(super) fn functions(&self) -> &'static libxl_sys::Libxl {
        self.library
    }

    pub(super) fn library(&self) -> Library {
        Library(self.library)
    }

    /// Whether libxl has told that it asked a guest to suspend.
    pub(super) fn asked_to_suspend(&self) -> bool {
        self.log.asked_to_suspend()
    }

    /// libxl's return code as a result, with the error lines of this context.
    pub(super) fn check(&self, rc: c_int) -> Result<(), Failure> {
        if rc == 0 { Ok(()) } else { Err(self.log.failure(rc)) }
    }

    /// A failure that libxl reports otherwise than by a code, with the error lines of this context
    /// or else `what`.
    pub(super) fn failure(&self, what: &str) -> Failure {
        let failure = self.log.failure(libxl_sys::ERROR_FAIL);
        if failure.lines.is_empty() { Failure::of(what) } else { failure }
    }

    fn version_info(&self) -> Result<&libxl_sys::libxl_version_info, Failure> {
        // SAFETY: the context is live.
        let info = unsafe { self.library.libxl_get_version_info(self.as_ptr()) };
        // SAFETY: null or cached in the context, unchanged until that is freed (libxl.c:
        // libxl_get_version_info).
        unsafe { info.as_ref() }
            .ok_or_else(|| self.failure("libxl_get_version_info returned nothing"))
    }

    /// `MAJOR.MINOR` of the running hypervisor.
    pub fn xen_version(&self) -> Result<String, Failure> {
        let info = self.version_info()?;
        Ok(format!("{}.{}", info.xen_version_major, info.xen_version_minor))
    }

    /// The hypervisor's command line.
    pub(super) fn xen_command_line(&self) -> Result<String, Failure> {
        let line = self.version_info()?.commandline;
        if line.is_null() {
            return Ok(String::new());
        }
        // SAFETY: a terminated string that lives as long as the context's version information.
        Ok(unsafe { CStr::from_ptr(line) }.to_string_lossy().into_owned())
    }

    /// The host's memory and paging modes as they are now.
    pub fn physinfo(&self) -> Result<PhysInfo, Failure> {
        let mut info = MaybeUninit::<libxl_sys::libxl_physinfo>::zeroed();
        // SAFETY: the memory is of the right size; the call initialises it.
        unsafe { self.library.libxl_physinfo_init(info.as_mut_ptr()) };
        // SAFETY: the context is live and the structure initialised.
        let rc = unsafe { self.library.libxl_get_physinfo(self.as_ptr(), info.as_mut_ptr()) };
        // SAFETY: zeroed, initialised and at most filled in: plain numbers and flags.
        let mut info = unsafe { info.assume_init() };
        let facts = PhysInfo {
            free_pages: info.free_pages,
            scrub_pages: info.scrub_pages,
            outstanding_pages: info.outstanding_pages,
            hap: info.cap_hap,
            shadow: info.cap_shadow,
        };
        // SAFETY: it was initialised and is not used afterwards.
        unsafe { self.library.libxl_physinfo_dispose(&raw mut info) };
        self.check(rc).map(|()| facts)
    }
}

/// `LIBXL_VERSION`, in the type of its parameter.
const VERSION: c_int = libxl_sys::LIBXL_VERSION as c_int;

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: no operation is in progress, as each is waited for by a borrower of this context.
        with_sigchld_blocked(|| unsafe { self.library.libxl_ctx_free(self.as_ptr()) });
    }
}

/// Runs `work` with SIGCHLD blocked on this thread: libxl's handler must not run while libxl
/// installs or removes it here.
fn with_sigchld_blocked<T>(work: impl FnOnce() -> T) -> T {
    with_signal(Signal::SIGCHLD, SigmaskHow::SIG_BLOCK, work)
}

/// Runs `work` with one signal blocked or unblocked on this thread, and so in what libxl forks
/// there.
pub(super) fn with_signal<T>(signal: Signal, how: SigmaskHow, work: impl FnOnce() -> T) -> T {
    let before = SigSet::from(signal).thread_swap_mask(how);
    let result = work();
    // Neither call can fail: both sets are valid, and so is the way of combining them.
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_what_xen_could_still_give() {
        let info = PhysInfo {
            free_pages: 100,
            scrub_pages: 20,
            outstanding_pages: 30,
            hap: true,
            shadow: false,
        };
        assert_eq!(info.free_memory_kib(), 90 * 4);
        assert_eq!(PhysInfo { outstanding_pages: 500, ..info }.free_memory_kib(), 0);
    }
}
