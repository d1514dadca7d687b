//! Save and restore: libxl's own streams, through a descriptor.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null;
use std::sync::Arc;

use nix::sys::signal::{SigmaskHow, Signal};

use crate::balloon::{MemoryRoom, Room};
use crate::config::LibxlConfig;
use crate::context::{Context, with_signal};
use crate::domain::guest;
use crate::failure::Failure;
use crate::stream;
use rxl_core::domain_config::DomainConfig;
use rxl_core::steering::SaveFlags;

/// The format that libxl writes since Xen 4.6 (libxl-migration-stream.pandoc).
const STREAM_VERSION: u32 = 2;

/// No back channel, which only COLO uses.
const NO_SEND_BACK: c_int = -1;

/// The number of no domain (libxl.h: `INVALID_DOMID`).
pub(super) const INVALID_DOMID: u32 = u32::MAX;

impl Context {
    /// Saves the domain into `stream`, a blocking pipe, and leaves it suspended.
    ///
    /// When it fails the domain runs or is suspended, and stays as it is.
    pub fn save(
        self: &Arc<Self>,
        domid: u32,
        stream: BorrowedFd<'_>,
        flags: SaveFlags,
    ) -> Result<(), Failure> {
        let domid = guest(domid)?;
        let (fd, flags) = (stream.as_raw_fd(), suspend_flags(flags));
        let result = self.run(|how| {
            // SAFETY: the context is live and the descriptor borrowed for longer than the
            // operation, which `run` waits for.
            unsafe { self.functions().libxl_domain_suspend(self.as_ptr(), domid, fd, flags, how) }
        });
        if result.is_err() {
            self.settle_suspend(domid);
        }
        result
    }

    /// Makes the domain that `stream` holds, paused. When that fails nothing of it is left. The
    /// memory that was made free for it is kept in `room`, until the end or until it is released.
    pub fn restore(
        self: &Arc<Self>,
        config: &DomainConfig,
        stream: BorrowedFd<'_>,
        room: &Room,
    ) -> Result<u32, Failure> {
        let name = config.name().unwrap_or_default();
        let mut config = LibxlConfig::from_json(self, &config.to_string())?;
        stream::check_start(stream, self.canceller())?;
        room.hold(MemoryRoom::make(self, &mut config)?);
        let restored = self.complete(name, |domid| self.restore_into(&mut config, domid, stream));
        room.release();
        restored
    }

    /// Runs `make`, which makes the domain `name` and tells its number. When that fails nothing of
    /// the domain is left.
    pub(super) fn complete(
        &self,
        name: &str,
        make: impl FnOnce(&mut u32) -> Result<(), Failure>,
    ) -> Result<u32, Failure> {
        let mut domid = INVALID_DOMID;
        // SIGHUP is how libxl ends a device model (libxl_dm.c: kill_device_model): one that had it
        // blocked outlived its domain, and kept that from going away. This process takes a SIGHUP
        // on any thread.
        let result = with_signal(Signal::SIGHUP, SigmaskHow::SIG_UNBLOCK, || make(&mut domid));
        match result {
            Ok(()) => Ok(domid),
            Err(failure) => {
                self.destroy_remains(domid, name);
                Err(failure)
            }
        }
    }

    fn restore_into(
        self: &Arc<Self>,
        config: &mut LibxlConfig,
        domid: &mut u32,
        stream: BorrowedFd<'_>,
    ) -> Result<(), Failure> {
        let mut params = MaybeUninit::<libxl_sys::libxl_domain_restore_params>::zeroed();
        // SAFETY: the memory is of the right size; the call initialises it.
        unsafe { self.functions().libxl_domain_restore_params_init(params.as_mut_ptr()) };
        // SAFETY: zeroed and initialised.
        let mut params = unsafe { params.assume_init() };
        params.stream_version = STREAM_VERSION;
        let fd = stream.as_raw_fd();
        let (context, config, place) =
            (self.as_ptr(), config.as_mut_ptr(), std::ptr::from_mut(domid));
        let params_at = &raw const params;
        let result = self.run(|how| {
            // SAFETY: the context is live; configuration, descriptor, parameters and the place for
            // the domid are borrowed for longer than the operation, which `run` waits for.
            unsafe {
                self.functions().libxl_domain_create_restore(
                    context,
                    config,
                    place,
                    fd,
                    NO_SEND_BACK,
                    params_at,
                    how,
                    null(),
                )
            }
        });
        // SAFETY: initialised above; the operation has ended.
        unsafe { self.functions().libxl_domain_restore_params_dispose(&raw mut params) };
        result
    }

    /// libxl destroys what it could not make, unless it was aborted (libxl_create.c:
    /// domcreate_complete). It tells the number in either case. A name may not have been given yet,
    /// or be gone already.
    fn destroy_remains(&self, domid: u32, name: &str) {
        if guest(domid).is_err() || self.name(domid).is_some_and(|its_name| its_name != name) {
            return;
        }
        if self.info(domid).is_err() {
            return;
        }
        if let Err(failure) = self.destroy(domid) {
            tracing::error!(
                "domain {domid} ({name}) was not completed and cannot be destroyed: {failure}"
            );
        }
    }
}

fn suspend_flags(flags: SaveFlags) -> c_int {
    let live = if flags.live { libxl_sys::LIBXL_SUSPEND_LIVE } else { 0 };
    let debug = if flags.debug { libxl_sys::LIBXL_SUSPEND_DEBUG } else { 0 };
    (live | debug) as c_int
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_libxls() {
        assert_eq!(suspend_flags(SaveFlags { live: false, debug: false }), 0);
        assert_eq!(suspend_flags(SaveFlags { live: true, debug: false }), 2);
        assert_eq!(suspend_flags(SaveFlags { live: true, debug: true }), 3);
    }
}
