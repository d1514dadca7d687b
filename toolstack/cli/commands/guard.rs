//! `rxl guard`: puts a domain right when the rxl that started it is killed.

use std::os::fd::AsFd;

use nix::sys::signal::Signal;

use crate::signals;
use rxl_core::error::Failure;
use rxl_core::state_dir::StateDir;
use rxl_handover::Journal;
use rxl_host::guard;
use rxl_host::guard_line::{self, Side, Word};
use rxl_host::libxl::LibxlHost;
use rxl_recover::{AnyRecord, Asking, Place, RecoverError, Settling};

/// Who speaks in syslog.
const PROGRAM: &str = "rxl-guard";

/// Waits until rxl, at the other end of the line, says that it is done, or is gone.
pub fn run() -> Result<(), Failure> {
    detach()?;
    let rxl = nix::unistd::getppid();
    let word = guard_line::last_word(std::io::stdin().as_fd());
    let Some(Word::Settle { side, id, asked }) = word else { return Ok(()) };
    let state = StateDir::system();
    let said = settle(&state, side, &id, asked);
    let line = match said {
        Ok(line) => line,
        Err(failure) => format!("not settled yet: {failure}"),
    };
    if !line.is_empty() {
        guard_line::log(PROGRAM, &format!("rxl was killed; migration {id}: {line}"));
    }
    // Last, and not before a killed rxl has closed its sockets too: the line to its guard may be
    // the first that is closed.
    guard::wait_for_end_of(rxl);
    if let Err(failure) = state.sweep() {
        guard_line::log(PROGRAM, &failure.to_string());
    }
    Ok(())
}

/// Signals that end rxl must not end its guard, nor be taken for a word to it.
fn detach() -> Result<(), Failure> {
    let failed = |e: nix::Error| Failure::internal("guard", &e.into());
    nix::sys::prctl::set_name(c"rxl-guard").map_err(failed)?;
    signals::block(&[Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM])
        .map_err(|e| Failure::internal("guard", &e))?;
    nix::unistd::setsid().map_err(failed)?;
    Ok(())
}

/// Settles the record. The guard has shared the domain's lock from its beginning on.
fn settle(state: &StateDir, side: Side, id: &str, asked: bool) -> Result<String, Failure> {
    let journal = Journal::of(state)?;
    let host = LibxlHost::new()?;
    let found = match side {
        Side::Source => journal.find(id)?.map(AnyRecord::Source),
        Side::Target => journal.find(id)?.map(AnyRecord::Target),
    };
    let Some(record) = found else { return Ok(String::new()) };
    let settling = if asked { Settling::HOST } else { Settling::HOST.not_asked() };
    let place = Place { host: &host, journal: &journal, settling };
    let end = Asking::default().settle(place, &record);
    end.map(|end| end.to_string()).map_err(|error: RecoverError| error.into())
}
