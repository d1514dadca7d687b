//! Whether there is a Xen host here that this build can drive.

use crate::context::Context;
use crate::library::{Library, LibraryError};
use rxl_core::dom0;

impl Library {
    /// Loads libxl after checking, in this order: a hypervisor, dom0, root, the library, the
    /// running Xen's release.
    pub fn open() -> Result<Self, LibraryError> {
        dom0::check()?;
        let library = Self::load()?;
        let context = Context::open(library).map_err(LibraryError::Unreachable)?;
        let running = context.xen_version().map_err(LibraryError::NoVersion)?;
        check_version(running)?;
        Ok(library)
    }
}

fn check_version(running: String) -> Result<(), LibraryError> {
    if running == libxl_sys::XEN_VERSION {
        Ok(())
    } else {
        Err(LibraryError::OtherRelease(running))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_release_is_refused() {
        assert!(check_version(libxl_sys::XEN_VERSION.into()).is_ok());
        let line = check_version("3.4".into()).unwrap_err().to_string();
        assert_eq!(
            line,
            format!("running Xen is 3.4, rxl was built for {}", libxl_sys::XEN_VERSION)
        );
    }
}
