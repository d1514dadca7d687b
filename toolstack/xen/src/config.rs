//! A domain's configuration, opaque to Rust: its JSON is all that is ever looked at.

use std::ffi::CString;
use std::mem::MaybeUninit;

use serde_json::Value;

use crate::c_string::take_string;
use crate::context::Context;
use crate::failure::Failure;

/// Bytes of JSON accepted from another host. xl's own for a guest with a dozen devices has less
/// than 10 KiB.
const MAX_JSON: usize = 1 << 20;

/// A `libxl_domain_config`, initialised and disposed of.
pub(super) struct DomainConfig {
    // Boxed: it is large, and libxl keeps its address during a restore.
    raw: Box<MaybeUninit<libxl_sys::libxl_domain_config>>,
    library: &'static libxl_sys::Libxl,
}

impl DomainConfig {
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

    /// As libxl writes it.
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

impl Drop for DomainConfig {
    fn drop(&mut self) {
        // SAFETY: it was initialised, and no operation uses it any more: each is waited for while
        // the configuration is borrowed.
        unsafe { self.library.libxl_domain_config_dispose(self.raw.as_mut_ptr()) };
    }
}

/// The JSON of a domain that was sent, changed to be received as `name` under `domid`, or under one
/// that Xen chooses.
pub(super) fn for_restore(json: &str, name: &str, domid: Option<u32>) -> Result<String, Failure> {
    if json.len() > MAX_JSON {
        return Err(Failure::of(format!(
            "the domain's configuration has {} bytes, at most {MAX_JSON}",
            json.len()
        )));
    }
    let mut config: Value = serde_json::from_str(json)
        .map_err(|e| Failure::of(format!("the domain's configuration is not JSON: {e}")))?;
    let create_info = config
        .get_mut("c_info")
        .and_then(Value::as_object_mut)
        .ok_or_else(|| Failure::of("the domain's configuration has no c_info"))?;
    create_info.insert("name".into(), name.into());
    match domid {
        Some(domid) => create_info.insert("domid".into(), domid.into()),
        // Without the key libxl's default of 0 stands, which lets Xen choose (libxl_create.c:
        // libxl__domain_make).
        None => create_info.remove("domid"),
    };
    Ok(config.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn edited(json: &str, domid: Option<u32>) -> Value {
        serde_json::from_str(&for_restore(json, "small--incoming", domid).unwrap()).unwrap()
    }

    #[test]
    fn the_name_changes_and_nothing_else() {
        let sent = r#"{"c_info":{"type":"pvh","name":"small","domid":7,"uuid":"1-2"},"b_info":{"max_memkb":18446744073709551615}}"#;
        let received = edited(sent, None);
        assert_eq!(
            received["c_info"],
            json!({"type": "pvh", "name": "small--incoming", "uuid": "1-2"})
        );
        assert_eq!(received["b_info"]["max_memkb"], json!(u64::MAX));
    }

    #[test]
    fn a_domid_that_must_be_kept_is_set() {
        assert_eq!(edited(r#"{"c_info":{}}"#, Some(9))["c_info"]["domid"], json!(9));
    }

    #[test]
    fn what_is_not_a_configuration_is_refused() {
        for bad in ["", "[]", "{}", r#"{"c_info":3}"#, "{\"c_info\":{}}\0"] {
            assert!(for_restore(bad, "x", None).is_err(), "{bad:?}");
        }
        let long = format!(r#"{{"c_info":{{}},"x":"{}"}}"#, "y".repeat(MAX_JSON));
        assert!(for_restore(&long, "x", None).unwrap_err().to_string().contains("at most"));
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_overflow() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(for_restore(&deep, "x", None).is_err());
    }
}
