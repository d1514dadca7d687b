//! `rxl watch`: does what a domain's configuration wants when its guest reboots, ends or crashes.

use std::io::Write;

use nix::sys::signal::SigSet;

use crate::arguments::Watch;
use crate::{service, standard_io, xl_config};
use rxl_core::error::Failure;
use rxl_core::state_dir::StateDir;
use rxl_host::guard_line::log;
use rxl_host::libxl::LibxlHost;
use rxl_watch::{Means, Watcher};

/// Its name in the process list, and in the system's log.
const NAME: &str = "rxl-watch";

pub fn run(options: &Watch) -> Result<(), Failure> {
    let failed = |error: nix::Error| Failure::internal(NAME, &error.into());
    nix::sys::prctl::set_name(c"rxl-watch").map_err(failed)?;
    // Whoever starts it may have signals blocked for itself, and a device model inherits that.
    SigSet::empty().thread_set_mask().map_err(failed)?;
    let host = LibxlHost::new().map_err(Failure::from)?;
    let state = StateDir::system();
    let means = Means::new(&host, &state, &updated_config, &say);
    let Some(watcher) = Watcher::begin(means, &options.domain)? else {
        standard_io::print(&format!("{} is watched already\n", options.domain));
        service::tell("READY=1");
        return Ok(());
    };
    if options.daemon {
        nix::unistd::daemon(false, false).map_err(failed)?;
    }
    service::tell("READY=1");
    let ended = watcher.run();
    if let Err(failure) = &ended {
        log(NAME, &failure.to_string());
    }
    ended
}

fn say(line: &str) {
    tracing::info!("{line}");
    log(NAME, line);
    service::tell(&format!("STATUS={line}"));
}

/// What `xl config-update` has left is xl's syntax, which xl itself reads.
fn updated_config(text: &[u8]) -> Result<String, Failure> {
    let broken = |e| Failure::internal("updated configuration", &e);
    let mut file = tempfile::NamedTempFile::new().map_err(broken)?;
    file.write_all(text).map_err(broken)?;
    xl_config::to_json(file.path())
}
