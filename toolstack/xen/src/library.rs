//! Whether there is a Xen host here that this build can drive.

use rxl_core::dom0;

use crate::context::Context;

/// libxl, loaded, of the release that this build was made for. Having one means that this is a Xen
/// dom0 that matches.
#[derive(Clone, Copy)]
pub struct Library(pub(super) &'static libxl_sys::Libxl);

impl Library {
    /// Loads libxl after checking, in this order: a hypervisor, dom0, root, the library, the
    /// running Xen's release.
    ///
    /// The error is one line for people.
    pub fn open() -> Result<Self, String> {
        dom0::check().map_err(|not_dom0| not_dom0.to_string())?;
        let library = Self::load()?;
        let context =
            Context::open(library).map_err(|e| format!("cannot reach Xen's toolstack: {e}"))?;
        let version =
            context.xen_version().map_err(|e| format!("cannot ask Xen for its version: {e}"))?;
        check_version(&version)?;
        Ok(library)
    }

    /// Loads libxl without looking for a hypervisor.
    pub(super) fn load() -> Result<Self, String> {
        libxl_sys::library().map(Self).map_err(cannot_load)
    }
}

fn cannot_load(loader_says: &str) -> String {
    let (soname, version) = (libxl_sys::SONAME, libxl_sys::XEN_VERSION);
    if loader_says.contains("cannot open shared object file") {
        return format!(
            "{soname} not found: rxl was built for Xen {version}; install libxenmisc{version} or \
             use an rxl built for this host's Xen"
        );
    }
    format!("{soname} cannot be used: {loader_says}")
}

fn check_version(running: &str) -> Result<(), String> {
    let built_for = libxl_sys::XEN_VERSION;
    if running == built_for {
        return Ok(());
    }
    Err(format!("running Xen is {running}, rxl was built for {built_for}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_release_is_refused() {
        assert_eq!(check_version(libxl_sys::XEN_VERSION), Ok(()));
        let line = check_version("3.4").unwrap_err();
        assert_eq!(
            line,
            format!("running Xen is 3.4, rxl was built for {}", libxl_sys::XEN_VERSION)
        );
    }

    #[test]
    fn a_missing_library_names_its_package() {
        let line = cannot_load(
            "libxenlight.so.4.17: cannot open shared object file: No such file or directory",
        );
        assert!(line.contains(&format!("install libxenmisc{}", libxl_sys::XEN_VERSION)), "{line}");
        let line = cannot_load("undefined symbol: libxl_ao_abort");
        assert!(line.contains("undefined symbol"), "{line}");
    }
}
