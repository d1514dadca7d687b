//! The commands: their input, what they print, how they end.

use std::fs::File;
use std::io::{IsTerminal, Read, Write, stdin, stdout};
use std::path::Path;

use super::finding::Findings;
use super::inspect::{Options, inspect};
use super::verify::verify;
use crate::cli::{StreamCommand, StreamInspect, StreamVerify};
use crate::error::{Exit, Failure};

/// `rxl stream`.
pub fn run(command: &StreamCommand) -> Result<(), Failure> {
    match command {
        StreamCommand::Inspect(options) => run_inspect(options),
        StreamCommand::Verify(options) => run_verify(options),
    }
}

fn run_inspect(options: &StreamInspect) -> Result<(), Failure> {
    let (input, name) = open(&options.file)?;
    let inspected = inspect(input, Options { map: options.map });
    print(&if options.json { inspected.summary.to_json() } else { inspected.summary.to_text(&name) });
    if let Some(path) = &options.map_image {
        let written = File::create(path).and_then(|file| inspected.map.write_image(file));
        written.map_err(|e| Failure::internal(format_args!("image {}", path.display()), &e))?;
    }
    judge(&name, &inspected.findings, "`rxl stream verify` tells all that is wrong")
}

fn run_verify(options: &StreamVerify) -> Result<(), Failure> {
    let (input, name) = open(&options.file)?;
    let verified = verify(input);
    print(&if options.json { verified.to_json() } else { verified.to_text(&name) });
    judge(&name, &verified.findings, "do not restore it")
}

fn open(path: &Path) -> Result<(Box<dyn Read>, String), Failure> {
    if path.as_os_str() != "-" {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|e| Failure::internal(&name, &e))?;
        return Ok((Box::new(file), name));
    }
    if stdin().is_terminal() {
        let what = "standard input is a terminal: no stream comes in there";
        return Err(Failure::new(Exit::Usage, what).next("give a file, or send the stream through a pipe"));
    }
    Ok((Box::new(stdin()), "standard input".into()))
}

/// Who listens no more needs no answer.
fn print(text: &str) {
    let _ = stdout().write_all(text.as_bytes());
}

fn judge(name: &str, findings: &Findings, next: &str) -> Result<(), Failure> {
    let Some(first) = findings.first_error() else { return Ok(()) };
    let others = match findings.errors - 1 {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    };
    Err(Failure::new(Exit::BadStream, format!("{name}: {first}{others}")).next(next))
}
