//! `rxl cancel`: cancels a migration that runs from this host.

use crate::arguments::CancelMigration;
use rxl_core::error::Failure;
use rxl_core::state_dir::StateDir;
use rxl_session::monitor;

pub fn run(options: &CancelMigration) -> Result<(), Failure> {
    monitor::cancel(&StateDir::system(), &options.domain)
}
