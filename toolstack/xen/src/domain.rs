//! Calls on one domain that answer at once, or nearly so.
//!
//! Those that wait for a guest's devices (destroy, unpause and resume of HVM guests) do so with
//! libxl's own time limits, of at most a minute a step.

use std::ffi::{CString, c_int};
use std::mem::MaybeUninit;
use std::ptr::null;

use nix::errno::Errno;

use crate::c_string::take_string;
use crate::config::LibxlConfig;
use crate::context::Context;
use crate::failure::Failure;
use crate::interface::Interface;
use crate::xenstore::LibxlStore;
use rxl_core::domain::{DomId, Domain, GuestType, RunState};

/// Domids from here on are Xen's own (xen.h: `DOMID_FIRST_RESERVED`).
const FIRST_RESERVED: u32 = 0x7ff0;

impl Context {
    /// The domain of this name or number, as xl understands it: digits alone are a domid. That one
    /// need not exist.
    pub fn domid_of(&self, name_or_domid: &str) -> Result<Option<u32>, Failure> {
        if !name_or_domid.is_empty() && name_or_domid.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(name_or_domid.parse().ok());
        }
        self.domid_of_name(name_or_domid)
    }

    /// The domain that has this name, if there is one.
    pub fn domid_of_name(&self, name: &str) -> Result<Option<u32>, Failure> {
        let Ok(name) = CString::new(name) else {
            return Ok(None);
        };
        let mut domid = 0;
        // SAFETY: the context is live, the string terminated and the place for the result valid.
        let rc = unsafe {
            self.functions().libxl_name_to_domid(self.as_ptr(), name.as_ptr(), &raw mut domid)
        };
        match rc {
            0 => Ok(Some(domid)),
            // libxl's way of saying that there is none (libxl_utils.c).
            libxl_sys::ERROR_INVAL => Ok(None),
            rc => self.check(rc).map(|()| None),
        }
    }

    /// The domain's name; none while it is being made or torn down.
    pub fn name(&self, domid: u32) -> Option<String> {
        // SAFETY: the context is live.
        let raw = unsafe { self.functions().libxl_domid_to_name(self.as_ptr(), domid) };
        // SAFETY: null or from malloc, and the caller's.
        unsafe { take_string(raw) }
    }

    /// The domain as it is now.
    pub fn domain(&self, domid: u32) -> Result<Domain, Failure> {
        let info = self.info(domid)?;
        Ok(Domain {
            domid: DomId(domid),
            name: self.name(domid).unwrap_or_default(),
            guest_type: self.guest_type(domid, info.domain_type)?,
            state: run_state(&info),
            max_memory_kib: info.max_memkb,
            vcpus: info.vcpu_max_id.saturating_add(1),
        })
    }

    /// libxl's view of the domain. Pointers in the result must not be used: they are freed.
    pub(super) fn info(&self, domid: u32) -> Result<libxl_sys::libxl_dominfo, Failure> {
        let mut info = MaybeUninit::<libxl_sys::libxl_dominfo>::zeroed();
        // SAFETY: the memory is of the right size; the call initialises it.
        unsafe { self.functions().libxl_dominfo_init(info.as_mut_ptr()) };
        // SAFETY: the context is live and the structure initialised.
        let rc =
            unsafe { self.functions().libxl_domain_info(self.as_ptr(), info.as_mut_ptr(), domid) };
        // SAFETY: a copy of initialised plain data.
        let copy = unsafe { info.assume_init_read() };
        // SAFETY: it was initialised and is not used afterwards.
        unsafe { self.functions().libxl_dominfo_dispose(info.as_mut_ptr()) };
        self.check(rc).map(|()| copy)
    }

    /// `libxl_dominfo` does not tell PVH from HVM; libxl itself keeps that in xenstore
    /// (libxl_dom.c: libxl__domain_type).
    fn guest_type(
        &self,
        domid: u32,
        told: libxl_sys::libxl_domain_type,
    ) -> Result<GuestType, Failure> {
        if told == libxl_sys::LIBXL_DOMAIN_TYPE_PV {
            return Ok(GuestType::Pv);
        }
        let pvh = LibxlStore::open(self)?.read(&format!("/libxl/{domid}/type"))?.as_deref()
            == Some("pvh");
        Ok(if pvh { GuestType::Pvh } else { GuestType::Hvm })
    }

    /// The domain's configuration as libxl's JSON.
    pub fn config_json(&self, domid: u32) -> Result<String, Failure> {
        LibxlConfig::retrieve(self, domid)?.json(self)
    }

    /// Runs a suspended domain on; the guest sees a suspend that was cancelled.
    pub fn resume(&self, domid: u32) -> Result<(), Failure> {
        let domid = guest(domid)?;
        // SAFETY: the context is live; without a `how` the call returns when it is done.
        let rc = unsafe {
            self.functions().libxl_domain_resume(self.as_ptr(), domid, SUSPEND_CANCEL, null())
        };
        self.check(rc)
    }

    /// Renames a domain if it is still named `from`.
    pub fn rename(&self, domid: u32, from: &str, to: &str) -> Result<(), Failure> {
        let domid = guest(domid)?;
        let (from, to) = (name(from)?, name(to)?);
        // SAFETY: the context is live and both strings are terminated.
        let rc = unsafe {
            self.functions().libxl_domain_rename(self.as_ptr(), domid, from.as_ptr(), to.as_ptr())
        };
        self.check(rc)
    }

    /// Keeps a domain from running until it is unpaused.
    pub fn pause(&self, domid: u32) -> Result<(), Failure> {
        let domid = guest(domid)?;
        // SAFETY: the context is live; without a `how` the call returns when it is done.
        let rc = unsafe { self.functions().libxl_domain_pause(self.as_ptr(), domid, null()) };
        self.check(rc)
    }

    /// Lets a paused domain run.
    pub fn unpause(&self, domid: u32) -> Result<(), Failure> {
        let domid = guest(domid)?;
        // SAFETY: the context is live; without a `how` the call returns when it is done.
        let rc = unsafe { self.functions().libxl_domain_unpause(self.as_ptr(), domid, null()) };
        self.check(rc)
    }

    /// Ends a domain and frees what it has.
    pub fn destroy(&self, domid: u32) -> Result<(), Failure> {
        let domid = guest(domid)?;
        // SAFETY: the context is live; without a `how` the call returns when it is done.
        let rc = unsafe { self.functions().libxl_domain_destroy(self.as_ptr(), domid, null()) };
        self.check(rc)
    }

    /// Switches Xen's log-dirty mode off. Does nothing where it is off, or cannot be on.
    ///
    /// The device model of an HVM guest keeps its own, which costs it some time and is switched by
    /// the next save.
    pub fn log_dirty_off(&self, domid: u32) -> Result<(), Failure> {
        let domid = guest(domid)?;
        let off =
            Interface::open(self.library(), domid)?.shadow(libxl_sys::XEN_DOMCTL_SHADOW_OP_OFF);
        log_dirty_result(off)
    }
}

/// `libxl_domain_resume`: the guest's suspend call returns that it was cancelled, and it keeps its
/// devices.
const SUSPEND_CANCEL: c_int = 1;

/// EINVAL comes where the guest's paging mode has no log-dirty to switch off (Xen's paging_domctl,
/// without shadow paging).
fn log_dirty_result(off: Result<(), Errno>) -> Result<(), Failure> {
    match off {
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(Errno::ESRCH) => {
            Err(Failure { rc: libxl_sys::ERROR_DOMAIN_NOTFOUND, lines: Vec::new() })
        }
        Err(errno) => Err(Failure::of(format!("XEN_DOMCTL_SHADOW_OP_OFF: {}", errno.desc()))),
    }
}

/// Refuses numbers that are no guest's: dom0 above all.
pub(super) fn guest(domid: u32) -> Result<u32, Failure> {
    match domid {
        0 => Err(Failure::of("domain 0 is the host itself")),
        FIRST_RESERVED.. => {
            Err(Failure { rc: libxl_sys::ERROR_DOMAIN_NOTFOUND, lines: Vec::new() })
        }
        domid => Ok(domid),
    }
}

fn name(name: &str) -> Result<CString, Failure> {
    CString::new(name).map_err(|_| Failure::of("a domain's name holds a NUL"))
}

fn run_state(info: &libxl_sys::libxl_dominfo) -> RunState {
    if info.dying {
        RunState::Dying
    } else if info.shutdown && info.shutdown_reason == libxl_sys::LIBXL_SHUTDOWN_REASON_SUSPEND {
        RunState::Suspended
    } else if info.shutdown {
        RunState::Shutdown
    } else if info.paused {
        RunState::Paused
    } else {
        RunState::Running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dom0_and_reserved_numbers_are_no_guests() {
        assert_eq!(guest(1), Ok(1));
        assert_eq!(guest(FIRST_RESERVED - 1), Ok(FIRST_RESERVED - 1));
        assert!(guest(0).unwrap_err().to_string().contains("host itself"));
        assert!(guest(FIRST_RESERVED).unwrap_err().is_not_found());
        assert!(guest(u32::MAX).unwrap_err().is_not_found());
    }

    #[test]
    fn states_are_told_apart_most_urgent_first() {
        // SAFETY: plain numbers, flags and a null pointer.
        let mut info: libxl_sys::libxl_dominfo = unsafe { MaybeUninit::zeroed().assume_init() };
        assert_eq!(run_state(&info), RunState::Running);
        info.paused = true;
        assert_eq!(run_state(&info), RunState::Paused);
        info.shutdown = true;
        info.shutdown_reason = libxl_sys::LIBXL_SHUTDOWN_REASON_CRASH;
        assert_eq!(run_state(&info), RunState::Shutdown);
        info.shutdown_reason = libxl_sys::LIBXL_SHUTDOWN_REASON_SUSPEND;
        assert_eq!(run_state(&info), RunState::Suspended);
        info.dying = true;
        assert_eq!(run_state(&info), RunState::Dying);
    }

    #[test]
    fn log_dirty_that_cannot_be_on_is_off() {
        assert_eq!(log_dirty_result(Ok(())), Ok(()));
        assert_eq!(log_dirty_result(Err(Errno::EINVAL)), Ok(()));
        assert!(log_dirty_result(Err(Errno::ESRCH)).unwrap_err().is_not_found());
        assert!(
            log_dirty_result(Err(Errno::EPERM)).unwrap_err().to_string().contains("SHADOW_OP_OFF")
        );
    }
}
