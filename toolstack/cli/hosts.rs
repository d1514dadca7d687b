//! This host over libxl, set up for what a command needs of it.
//!
//! The save helper is announced to libxl through the environment, which must not change once there
//! is a second thread. Call these before one is started.

use rxl_core::error::Failure;
use rxl_core::host_error::HostError;
use rxl_core::state_dir::StateDir;
use rxl_host::libxl::LibxlHost;
use rxl_host::save_helper::socket::{SaveHelperListener, SaveHelperSocket};

/// A host whose saves go through rxl's own save helper, where that is installed.
pub fn sending() -> Result<LibxlHost, Failure> {
    let host = LibxlHost::new().map_err(Failure::from)?;
    let state = StateDir::system();
    state.sweep()?;
    match SaveHelperListener::install(&state) {
        Ok(listener) => Ok(host.with_save_helper(listener)),
        Err(reason) => {
            tracing::warn!("libxl's stock save helper is used, with its own policy: {reason}");
            Ok(host)
        }
    }
}

/// A host that fills a domain's memory by itself, where rxl's own save helper is installed.
pub fn receiving(state: &StateDir) -> Result<LibxlHost, HostError> {
    let host = LibxlHost::new()?;
    Ok(match SaveHelperSocket::announce(state) {
        Ok(socket) => host.with_restore_helper(socket),
        Err(reason) => {
            tracing::warn!("domains are restored by libxl's stock save helper: {reason}");
            host
        }
    })
}
