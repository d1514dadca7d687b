//! `rxl status`: the migrations that run from this host.

use crate::arguments::Status;
use crate::standard_io::{print, print_json};
use rxl_core::error::Failure;
use rxl_core::state_dir::StateDir;
use rxl_session::monitor;

pub fn run(options: &Status) -> Result<(), Failure> {
    let state = StateDir::system();
    state.sweep()?;
    let found = match &options.domain {
        Some(domain) => vec![monitor::find(&state, domain)?],
        None => monitor::running(&state)?,
    };
    if options.json {
        return print_json("status", &found);
    }
    if found.is_empty() {
        print("no migration runs from this host\n");
    }
    found.iter().for_each(|status| print(&(status.describe() + "\n")));
    Ok(())
}
