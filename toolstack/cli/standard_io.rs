//! Standard input and output: as descriptors of a protocol, and for results.

use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};

use rxl_core::error::{Exit, Failure};

/// A second descriptor of standard input.
pub fn input() -> Result<OwnedFd, Failure> {
    let cloned = std::io::stdin().as_fd().try_clone_to_owned();
    cloned.map_err(|e| Failure::internal("standard input", &e))
}

/// A second descriptor of standard output.
pub fn output() -> Result<OwnedFd, Failure> {
    let cloned = std::io::stdout().as_fd().try_clone_to_owned();
    cloned.map_err(|e| Failure::internal("standard output", &e))
}

/// Refuses standard input that is a terminal. `what` is what the command reads from it, `next` what
/// the user should do instead.
pub fn refuse_terminal(what: &str, next: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(());
    }
    let said = format!("standard input is a terminal: no {what} comes in there");
    Err(Failure::new(Exit::Usage, said).next(next))
}

/// Writes a result to standard output. If that is closed, the exit code still tells how the command
/// ended, so no error comes of it.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Writes a value as indented JSON to standard output, like [`print`]. `what` names it in a
/// failure.
pub fn print_json(what: &str, value: &impl serde::Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(value);
    let json = json.map_err(|e| Failure::internal(what, &e.into()))?;
    print(&(json + "\n"));
    Ok(())
}
