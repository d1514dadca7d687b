//! The store against a small xenstored, and against servers that misbehave.
//!
//! xenstore-rs takes its socket's path from the environment, which a process with several threads
//! cannot change. So each case is this program again, as a child with the path of its server.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod cases;
mod servers;

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

use cases::{CASES, Case};
use servers::serve;

/// Which case this process is to run.
const CASE_VARIABLE: &str = "RXL_STORE_CASE";

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(CASE_VARIABLE) {
        let case = CASES.iter().find(|case| case.name == name).expect("a case of this name");
        (case.run)();
        return ExitCode::SUCCESS;
    }
    let trials = CASES.iter().map(|case| Trial::test(case.name, || run(case))).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn run(case: &'static Case) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("socket");
    serve(&socket, case.server)?;
    let mut child = Command::new(std::env::current_exe()?);
    child.env(CASE_VARIABLE, case.name).env("XENSTORED_PATH", &socket);
    let output = child.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
}
