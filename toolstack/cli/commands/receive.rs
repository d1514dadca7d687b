//! `rxl receive`: receives a domain that `rxl migrate` sends.
//!
//! The process of the control connection runs the session. The process of a data connection hands
//! its standard input to that one, and waits for the end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use migrate_stream::frame::{Preamble, Purpose};

use crate::arguments::Receive;
use crate::commands::recover::answer;
use crate::{hosts, signals, standard_io};
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, Guarded};
use rxl_core::state_dir::StateDir;
use rxl_host::host::Host;
use rxl_host::libxl::LibxlHost;
use rxl_link::transport::{Ticket, greet, hand_over, read_preamble};
use rxl_recover::Asking;
use rxl_session::events::Events;
use rxl_session::rxl::target;

const STARTED_BY: &str = "`rxl receive` is started by `rxl migrate` on the source";

pub fn run(options: &Receive) -> Result<(), Failure> {
    standard_io::refuse_terminal("migration", STARTED_BY)?;
    let silence = Duration::from_secs(options.peer_timeout);
    let input = standard_io::input()?;
    let preamble = preamble(silence)?;
    let state = StateDir::system();
    let mut output = std::io::stdout();
    if preamble.purpose != Purpose::Data {
        greet(&mut output).map_err(|e| Failure::internal("standard output", &e))?;
    }
    match preamble.purpose {
        Purpose::Data => {
            let socket = state.receive_socket(&preamble.migration.to_string())?;
            hand_over(&socket, &preamble, &input, &mut output)
                .map_err(|e| Failure::internal("data connection", &e))
        }
        Purpose::Recover => {
            let host = LibxlHost::new().map_err(Failure::from);
            let host = host.as_ref().map(|host| host as &dyn Host).map_err(Clone::clone);
            answer(host, &state, &preamble.migration.to_string(), input)
        }
        Purpose::Control => session(&state, input, &preamble, silence),
    }
}

/// Reads what the connection is for. `silence` is how long the source may send nothing.
fn preamble(silence: Duration) -> Result<Preamble, Failure> {
    let broken = |e| Failure::internal("standard input", &e);
    let cancel = Cancel::new().map_err(broken)?;
    let mut input = Guarded::new(standard_io::input()?, cancel, Some(silence)).map_err(broken)?;
    read_preamble(&mut input).map_err(|e| {
        Failure::new(Exit::Usage, format!("no migration comes in on standard input: {e}"))
            .next(STARTED_BY)
    })
}

fn session(
    state: &StateDir,
    input: OwnedFd,
    preamble: &Preamble,
    patience: Duration,
) -> Result<(), Failure> {
    let host = hosts::receiving(state).map(|host| Arc::new(host) as Arc<dyn Host>);
    let events = Events::default();
    signals::watch(events.sender())?;
    let output = standard_io::output()?;
    let ticket = Ticket { id: preamble.migration, token: preamble.token };
    let asking = Asking::default();
    let endpoint = target::Endpoint { input, output, ticket, patience, asking };
    target::receive(host, state, endpoint, events)
}
