//! `rxl agent serve`: relays requests to the guest agents on this host.

use crate::arguments::{Agent, AgentCommand};
use crate::standard_io;
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, Guarded};
use rxl_quiesce::nodes::LocalNodes;
use rxl_quiesce::remote;

pub fn run(options: &Agent) -> Result<(), Failure> {
    match options.command {
        AgentCommand::Serve => serve(),
    }
}

fn serve() -> Result<(), Failure> {
    let mut nodes = LocalNodes::connect().map_err(|line| Failure::new(Exit::NoXen, line))?;
    let failed = |error: std::io::Error| Failure::internal("agent requests", &error);
    let cancel = Cancel::new().map_err(failed)?;
    let input = Guarded::new(standard_io::input()?, cancel, Some(deadlines::AGENT_SERVER_IDLE));
    remote::serve(&mut nodes, input.map_err(failed)?, std::io::stdout().lock())
        .map_err(|error| failed(error.into()))
}
