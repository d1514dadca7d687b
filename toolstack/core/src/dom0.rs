//! Whether this process may drive a Xen host.

use std::path::Path;

/// Why this process cannot drive a Xen host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDom0 {
    /// There is no hypervisor below this kernel, or its device is not there.
    #[error("no hypervisor (/dev/xen/privcmd is missing): not a Xen dom0")]
    NoHypervisor,
    /// A Xen guest without the right to drive the host.
    #[error("this is a Xen guest, not dom0 (/proc/xen/capabilities lacks control_d)")]
    Guest,
    /// The caller lacks the rights.
    #[error("not root: Xen's toolstack needs root")]
    NotRoot,
}

/// Checks, in this order, for a hypervisor, dom0 and root.
pub fn check() -> Result<(), NotDom0> {
    let privcmd =
        ["/dev/xen/privcmd", "/proc/xen/privcmd"].iter().any(|path| Path::new(path).exists());
    let capabilities = std::fs::read_to_string("/proc/xen/capabilities").ok();
    judge(privcmd, capabilities.as_deref(), nix::unistd::geteuid().is_root())
}

fn judge(privcmd: bool, capabilities: Option<&str>, root: bool) -> Result<(), NotDom0> {
    if !privcmd {
        return Err(NotDom0::NoHypervisor);
    }
    // xenfs need not be mounted; where it is, dom0 alone has control_d.
    if capabilities.is_some_and(|capabilities| !capabilities.contains("control_d")) {
        return Err(NotDom0::Guest);
    }
    if root { Ok(()) } else { Err(NotDom0::NotRoot) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_is_missing_has_its_line() {
        assert_eq!(judge(true, Some("control_d\n"), true), Ok(()));
        assert_eq!(judge(true, None, true), Ok(()));
        assert_eq!(judge(false, None, true), Err(NotDom0::NoHypervisor));
        assert_eq!(judge(true, Some(""), true), Err(NotDom0::Guest));
        assert_eq!(judge(true, None, false), Err(NotDom0::NotRoot));
    }
}
