//! A domain's configuration, opaque to Rust: its JSON is all that is ever looked at.

use std::ffi::CString;
use std::mem::MaybeUninit;

use crate::c_string::take_string;
use crate::context::Context;
use crate::failure::Failure;

/// A `libxl_domain_config`, initialised and disposed of.
pub(super) struct LibxlConfig {
    // Boxed: it is large, and libxl keeps its address during a restore.
    raw: Box<MaybeUninit<libxl_sys::libxl_domain_config>>,
    library: &'static libxl_sys::Libxl,
}

impl LibxlConfig {
    fn new(library: &'static libxl_sys::Libxl) -> Self {
        let mut raw = Box::new(MaybeUninit::zeroed());
        // SAFETY: the memory has the size that this release's headers give the structure.
        unsafe { library.libxl_domain_config_init(raw.as_mut_ptr()) };
        Self { raw, library }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut libxl_sys::libxl_domain_config {
        self.raw.as_mut_ptr()
    }

    /// Parses libxl's JSON. Keys that this release does not know are ignored by libxl.
    pub(super) fn from_json(context: &Context, json: &str) -> Result<Self, Failure> {
        let json = CString::new(json)
            .map_err(|_| Failure::of("the domain's configuration holds a NUL"))?;
        let mut config = Self::new(context.functions());
        // SAFETY: the context is live, the structure initialised and the string terminated.
        let rc = unsafe {
            context.functions().libxl_domain_config_from_json(
                context.as_ptr(),
                config.as_mut_ptr(),
                json.as_ptr(),
            )
        };
        context.check(rc).map(|()| config)
    }

    /// The configuration of a domain that exists (`libxl_retrieve_domain_configuration`).
    pub(super) fn retrieve(context: &Context, domid: u32) -> Result<Self, Failure> {
        let mut config = Self::new(context.functions());
        // SAFETY: the context is live and the structure initialised; without a `how` the call
        // returns when it is done.
        let rc = unsafe {
            context.functions().libxl_retrieve_domain_configuration(
                context.as_ptr(),
                domid,
                config.as_mut_ptr(),
                std::ptr::null(),
            )
        };
        context.check(rc).map(|()| config)
    }

    /// The configuration as libxl writes it.
    pub(super) fn json(&mut self, context: &Context) -> Result<String, Failure> {
        // SAFETY: the context is live and the structure initialised.
        let raw = unsafe {
            self.library.libxl_domain_config_to_json(context.as_ptr(), self.as_mut_ptr())
        };
        // SAFETY: null, or a string from malloc that is the caller's (libxl.h).
        unsafe { take_string(raw) }
            .ok_or_else(|| context.failure("libxl_domain_config_to_json returned nothing"))
    }
}

impl Drop for LibxlConfig {
    fn drop(&mut self) {
        // SAFETY: it was initialised, and no operation uses it any more: each is waited for while
        // the configuration is borrowed.
        unsafe { self.library.libxl_domain_config_dispose(self.raw.as_mut_ptr()) };
    }
}
