//! `rxl`: reads the command line, runs the command, ends with its exit code.

#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use rxl::arguments::{Cli, Command};
use rxl::{commands, logging};
use rxl_core::error::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(cli.verbose);
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            log_sources(&failure);
            eprintln!("rxl: {failure}");
            ExitCode::from(failure.exit.code())
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Migrate(options) => commands::migrate::run(options, cli.gang_member),
        Command::Status(options) => commands::status::run(options),
        Command::Cancel(options) => commands::cancel::run(options),
        Command::Jobs(options) => commands::jobs::run(options),
        Command::Agent(options) => commands::agent::run(options),
        Command::Receive(options) => commands::receive::run(options),
        Command::MigrateReceive(options) => commands::migrate_receive::run(options),
        Command::Save(options) => commands::save::run(options),
        Command::Restore(options) => commands::restore::run(options),
        Command::Recover(options) => commands::recover::run(options),
        Command::Stream(command) => commands::stream::run(command),
        Command::Watch(options) => commands::watch::run(options),
        Command::Guard => commands::guard::run(),
        Command::SshGate => commands::ssh_gate::admitted()?.map_or(Ok(()), |cli| run(&cli)),
    }
}

/// The errors below a failure, which its line summarises.
fn log_sources(failure: &Failure) {
    let mut source = failure.source();
    while let Some(error) = source {
        tracing::debug!("caused by: {error:?}");
        source = error.source();
    }
}
