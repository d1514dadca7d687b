//! Checks, from inside a guest, that its memory, its clocks and its TCP connections survive a
//! migration.
//!
//! `memcheck --size=MIB --rate=PAGES_PER_SECOND --entropy=PERCENT [--seed=N]
//! [--verify-rate=PAGES_PER_SECOND] [--tick=MILLISECONDS] [--listen=ADDRESS:PORT]`
//!
//! The program fills memory with contents that follow from a page's index and generation, keeps
//! writing new generations, and keeps comparing all pages with what they must hold. Whoever
//! connects to the TCP port gets a line of JSON each second, and one more for each line sent.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

mod arguments;
mod clock;
mod pattern;
mod region;
mod status;
mod worker;

use arguments::Arguments;
use status::Status;

fn main() -> ExitCode {
    match Arguments::parse(std::env::args().skip(1)).and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("memcheck: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until the process is killed, or until the port cannot be opened.
fn run(arguments: &Arguments) -> Result<(), String> {
    let listener = TcpListener::bind(&arguments.listen)
        .map_err(|error| format!("cannot listen on {}: {error}", arguments.listen))?;
    let status = Arc::new(Status::default());

    let (clock_status, worker_status) = (Arc::clone(&status), Arc::clone(&status));
    let (load, tick) = (arguments.load, arguments.tick);
    thread::spawn(move || clock::watch(tick, &clock_status));
    thread::spawn(move || worker::work(load, &worker_status));

    status::serve(&listener, &status);
    Ok(())
}
