//! `rxl migrate-receive`: receives a domain that stock xl sends. Standard output belongs to xl's
//! protocol.

use std::sync::Arc;

use crate::arguments::MigrateReceive;
use crate::{signals, standard_io};
use rxl_core::error::{Exit, Failure};
use rxl_core::state_dir::StateDir;
use rxl_host::host::Host;
use rxl_host::libxl::LibxlHost;
use rxl_session::events::Events;
use rxl_session::xl::receive;

pub fn run(options: &MigrateReceive) -> Result<(), Failure> {
    if options.remus || options.colo {
        let refused = Failure::new(Exit::Usage, "Remus and COLO are not supported");
        return Err(refused.next("xl's own receiver has them"));
    }
    let next = "`rxl migrate-receive` is started by `xl migrate` on the source";
    standard_io::refuse_terminal("migration", next)?;
    let wire = (standard_io::input()?, standard_io::output()?);
    let events = Events::default();
    signals::watch(events.sender())?;
    let host: Arc<dyn Host> = Arc::new(LibxlHost::new().map_err(Failure::from)?);
    let asked = receive::Options {
        leave_paused: options.paused,
        no_monitor: options.no_monitor,
        show_config: options.debug,
    };
    receive::receive(&host, &StateDir::system(), wire, asked, &events)
}
