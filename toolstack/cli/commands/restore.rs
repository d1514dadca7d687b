//! `rxl restore`: restores a domain from a file.

use crate::arguments::Restore;
use crate::{signals, standard_io};
use rxl_core::error::Failure;
use rxl_core::state_dir::StateDir;
use rxl_core::units::bytes;
use rxl_host::libxl::LibxlHost;
use rxl_session::events::Events;
use rxl_session::savefile::restore;

pub fn run(options: &Restore) -> Result<(), Failure> {
    let events = Events::default();
    signals::watch(events.sender())?;
    let host = LibxlHost::new().map_err(Failure::from)?;
    let request = restore::RestoreRequest {
        path: options.file.clone(),
        leave_paused: options.paused,
        no_monitor: options.no_monitor,
    };
    let restored = restore::restore(&host, &StateDir::system(), &request, &events)?;
    let (name, domid, size) = (&restored.name, restored.domid, bytes(restored.stream_bytes));
    let file = options.file.display();
    let paused = if options.paused { ", paused" } else { "" };
    standard_io::print(&format!("{name} restored from {file} as domain {domid}{paused}: {size}\n"));
    Ok(())
}
