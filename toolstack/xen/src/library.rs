//! Whether there is a Xen host here that this build can drive.

use std::path::Path;

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
        let privcmd =
            ["/dev/xen/privcmd", "/proc/xen/privcmd"].iter().any(|path| Path::new(path).exists());
        let capabilities = std::fs::read_to_string("/proc/xen/capabilities").ok();
        check_host(privcmd, capabilities.as_deref(), nix::unistd::geteuid().is_root())?;
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

fn check_host(privcmd: bool, capabilities: Option<&str>, root: bool) -> Result<(), String> {
    if !privcmd {
        return Err("no hypervisor (/dev/xen/privcmd is missing): not a Xen dom0".into());
    }
    // xenfs need not be mounted; where it is, dom0 alone has control_d.
    if capabilities.is_some_and(|c| !c.contains("control_d")) {
        return Err("this is a Xen guest, not dom0 (/proc/xen/capabilities lacks control_d)".into());
    }
    if !root {
        return Err("not root: Xen's toolstack needs root".into());
    }
    Ok(())
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
    fn each_thing_that_is_missing_has_its_line() {
        assert_eq!(check_host(true, Some("control_d\n"), true), Ok(()));
        assert_eq!(check_host(true, None, true), Ok(()));
        assert!(check_host(false, None, true).unwrap_err().contains("no hypervisor"));
        assert!(check_host(true, Some(""), true).unwrap_err().contains("not dom0"));
        assert!(check_host(true, None, false).unwrap_err().starts_with("not root"));
    }

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
