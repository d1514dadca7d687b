//! What is done with a domain whose guest has ended.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use crate::config::LibxlConfig;
use crate::context::Context;
use crate::domain::guest;
use crate::failure::Failure;
use rxl_core::domain_config::DomainConfig;

/// The name under which `xl config-update` leaves a domain's new configuration with libxl.
const XL: &CStr = c"xl";

impl Context {
    /// Starts the kernel that the guest has loaded, in the same domain. It stays paused.
    pub fn soft_reset(self: &Arc<Self>, domid: u32, config: &DomainConfig) -> Result<(), Failure> {
        let domid = guest(domid)?;
        let mut config = LibxlConfig::from_json(self, &config.to_string())?;
        let at = config.as_mut_ptr();
        self.run(|how| {
            // SAFETY: the context is live and the configuration borrowed for longer than the
            // operation, which `run` waits for. No console is to be connected.
            unsafe {
                self.functions().libxl_domain_soft_reset(self.as_ptr(), at, domid, how, null())
            }
        })
    }

    /// Writes the domain's memory and processor state to a file.
    pub fn dump_core(&self, domid: u32, file: &Path) -> Result<(), Failure> {
        let domid = guest(domid)?;
        let file = CString::new(file.as_os_str().as_bytes())
            .map_err(|_| Failure::of("the file's name holds a NUL"))?;
        // SAFETY: the context is live and the string terminated; without a `how` the call returns
        // when it is done.
        let rc = unsafe {
            self.functions().libxl_domain_core_dump(self.as_ptr(), domid, file.as_ptr(), null())
        };
        self.check(rc)
    }

    /// Keeps the domain apart from one that is made anew of its configuration: it gets another
    /// uuid, and `suffix` behind its name.
    pub fn preserve(&self, domid: u32, config: &DomainConfig, suffix: &str) -> Result<(), Failure> {
        let domid = guest(domid)?;
        let suffix =
            CString::new(suffix).map_err(|_| Failure::of("a domain's name holds a NUL"))?;
        let mut config = LibxlConfig::from_json(self, &config.to_string())?;
        let mut uuid = MaybeUninit::<libxl_sys::libxl_uuid>::zeroed();
        // SAFETY: room for one uuid, which the call fills in.
        unsafe { self.functions().libxl_uuid_generate(uuid.as_mut_ptr()) };
        // SAFETY: sixteen bytes, zeroed and filled in.
        let uuid = unsafe { uuid.assume_init() };
        // SAFETY: the configuration is initialised.
        let create_info = unsafe { libxl_sys::xlshim_create_info(config.as_mut_ptr()) };
        // SAFETY: the context is live, the part belongs to the configuration, and the string
        // is terminated.
        let rc = unsafe {
            self.functions().libxl_domain_preserve(
                self.as_ptr(),
                domid,
                create_info,
                suffix.as_ptr(),
                uuid,
            )
        };
        self.check(rc)
    }

    /// The configuration that `xl config-update` has left for the domain's next boot, in xl's
    /// syntax. It is forgotten then, as with xl (xl_vmcontrol.c: reload_domain_config).
    pub fn take_xl_config(&self, domid: u32) -> Result<Option<Vec<u8>>, Failure> {
        let domid = guest(domid)?;
        let (mut data, mut length) = (null_mut(), 0);
        // SAFETY: the context is live, the string terminated, the places for the results valid.
        let rc = unsafe {
            self.functions().libxl_userdata_retrieve(
                self.as_ptr(),
                domid,
                XL.as_ptr(),
                &raw mut data,
                &raw mut length,
            )
        };
        self.check(rc)?;
        let length = usize::try_from(length).unwrap_or(0);
        if data.is_null() || length == 0 {
            return Ok(None);
        }
        // SAFETY: libxl says that so many bytes are there; they are copied before they are freed.
        let text = unsafe { std::slice::from_raw_parts(data, length) }.to_vec();
        // SAFETY: from malloc and the caller's (libxl.h); not used afterwards.
        unsafe { nix::libc::free(data.cast()) };
        // SAFETY: the context is live and the string terminated.
        let rc =
            unsafe { self.functions().libxl_userdata_unlink(self.as_ptr(), domid, XL.as_ptr()) };
        self.check(rc).map(|()| Some(text))
    }
}
