//! The table of libxl's functions, loaded at run time.

use crate::failure::Failure;

/// libxl of the release that this build was made for, loaded. `Library::open` also makes sure that
/// this is a Xen dom0 that matches.
#[derive(Clone, Copy)]
pub struct Library(pub(super) &'static libxl_sys::Libxl);

/// Why this build cannot drive the Xen of this host.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// No Xen, not dom0, or not root.
    #[error(transparent)]
    NotDom0(#[from] rxl_core::dom0::NotDom0),
    /// The library of this build's release is not installed.
    #[error(
        "{soname} not found: rxl was built for Xen {version}; install libxenmisc{version} or use \
         an rxl built for this host's Xen",
        soname = libxl_sys::SONAME,
        version = libxl_sys::XEN_VERSION
    )]
    NotInstalled,
    /// The dynamic loader refused the library, and says why.
    #[error("{soname} cannot be used: {0}", soname = libxl_sys::SONAME)]
    Unusable(&'static str),
    /// libxl cannot reach the hypervisor or xenstore.
    #[error("cannot reach Xen's toolstack: {0}")]
    Unreachable(#[source] Failure),
    /// Xen does not tell its version.
    #[error("cannot ask Xen for its version: {0}")]
    NoVersion(#[source] Failure),
    /// Another release runs than the one that this build was made for.
    #[error("running Xen is {0}, rxl was built for {version}", version = libxl_sys::XEN_VERSION)]
    OtherRelease(String),
}

impl Library {
    /// Loads libxl without looking for a hypervisor.
    pub(super) fn load() -> Result<Self, LibraryError> {
        libxl_sys::library().map(Self).map_err(cannot_load)
    }
}

fn cannot_load(loader_says: &'static str) -> LibraryError {
    if loader_says.contains("cannot open shared object file") {
        LibraryError::NotInstalled
    } else {
        LibraryError::Unusable(loader_says)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_names_its_package() {
        let line = cannot_load(
            "libxenlight.so.4.17: cannot open shared object file: No such file or directory",
        )
        .to_string();
        assert!(line.contains(&format!("install libxenmisc{}", libxl_sys::XEN_VERSION)), "{line}");
        let line = cannot_load("undefined symbol: libxl_ao_abort").to_string();
        assert!(line.contains("undefined symbol"), "{line}");
    }
}
