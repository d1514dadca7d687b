//! A connection to the hypervisor alone (libxenctrl), for what libxl has no call for.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use nix::errno::Errno;

use crate::failure::Failure;
use crate::library::Library;
use crate::log::Logger;

/// libxenctrl's handle for one domain, with a log of its own. It is used by one thread at a time.
pub(super) struct Interface {
    raw: NonNull<libxl_sys::xc_interface>,
    library: &'static libxl_sys::Libxl,
    domid: u32,
    log: Logger,
}

// SAFETY: the handle is a structure with descriptors; libxenctrl ties it to no thread (xenctrl.h
// asks only for one thread at a time, which the lack of Sync sees to).
unsafe impl Send for Interface {}

impl Interface {
    pub(super) fn open(library: Library, domid: u32) -> Result<Self, Failure> {
        let log = Logger::new(None)?;
        // SAFETY: the logger is stored beside the handle and freed after it.
        let raw = unsafe { library.0.xc_interface_open(log.as_ptr(), log.as_ptr(), 0) };
        match NonNull::new(raw) {
            Some(raw) => Ok(Self { raw, library: library.0, domid, log }),
            None => Err(Failure::of(format!("xc_interface_open: {}", Errno::last().desc()))),
        }
    }

    pub(super) fn as_ptr(&self) -> *mut libxl_sys::xc_interface {
        self.raw.as_ptr()
    }

    pub(super) fn functions(&self) -> &'static libxl_sys::Libxl {
        self.library
    }

    pub(super) fn domid(&self) -> u32 {
        self.domid
    }

    /// The failure of a call that has just set errno, with what libxenctrl logged.
    pub(super) fn failure(&self, call: &str) -> Failure {
        let why = Errno::last().desc();
        let mut failure = self.log.failure(libxl_sys::ERROR_FAIL);
        failure.lines.push(format!("domain {}: {call}: {why}", self.domid));
        failure
    }

    /// A call's result: negative means failure, as in all of libxenctrl.
    pub(super) fn check(&self, call: &str, rc: c_int) -> Result<c_int, Failure> {
        if rc < 0 { Err(self.failure(call)) } else { Ok(rc) }
    }

    /// The domain, as Xen lists it.
    pub(super) fn info(&self) -> Result<libxl_sys::xc_domaininfo_t, Failure> {
        let mut info = MaybeUninit::<libxl_sys::xc_domaininfo_t>::zeroed();
        let at = info.as_mut_ptr();
        // SAFETY: room for the one domain that is asked for.
        let rc = unsafe { self.library.xc_domain_getinfolist(self.as_ptr(), self.domid, 1, at) };
        let found = self.check("XEN_SYSCTL_getdomaininfolist", rc)?;
        // SAFETY: plain numbers, zeroed, and filled in where one was found.
        let info = unsafe { info.assume_init() };
        if found == 1 && u32::from(info.domain) == self.domid {
            Ok(info)
        } else {
            Err(Failure { rc: libxl_sys::ERROR_DOMAIN_NOTFOUND, lines: Vec::new() })
        }
    }

    /// One past the domain's highest page number.
    pub(super) fn pfns(&self) -> Result<u64, Failure> {
        let mut pfns = 0;
        // SAFETY: the handle is open and the place for the result valid.
        let rc =
            unsafe { self.library.xc_domain_nr_gpfns(self.as_ptr(), self.domid, &raw mut pfns) };
        self.check("XENMEM_maximum_gpfn", rc).map(|_| pfns)
    }

    /// One of the domain's parameters `HVM_PARAM_*`.
    pub(super) fn hvm_param(&self, index: u32) -> Result<u64, Failure> {
        let mut value = 0;
        // SAFETY: the handle is open and the place for the result valid.
        let rc = unsafe {
            self.library.xc_hvm_param_get(self.as_ptr(), self.domid, index, &raw mut value)
        };
        self.check("HVMOP_get_param", rc).map(|_| value)
    }

    /// Makes one of the operations `XEN_DOMCTL_SHADOW_OP_*` that take no bitmap.
    pub(super) fn shadow(&self, operation: u32) -> Result<(), Errno> {
        let no_size = std::ptr::null_mut();
        // SAFETY: the handle is open; these operations read no size and no mode (xenctrl.h:
        // xc_shadow_control).
        let rc = unsafe {
            self.library.xc_shadow_control(self.as_ptr(), self.domid, operation, no_size, 0)
        };
        if rc < 0 { Err(Errno::last()) } else { Ok(()) }
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        // SAFETY: it is open and not used afterwards.
        unsafe { self.library.xc_interface_close(self.as_ptr()) };
    }
}
