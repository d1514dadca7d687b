//! `rxl guard`: puts a domain right when the rxl that started it is killed.

use std::os::fd::AsFd;

use nix::sys::signal::Signal;

use crate::signals;
use rxl_core::error::Failure;
use rxl_core::state_dir::StateDir;
use rxl_host::guard;
use rxl_host::guard_line::{self, Word};
use rxl_host::libxl::LibxlHost;

/// Waits until rxl, at the other end of the line, says that it is done, or is gone.
pub fn run() -> Result<(), Failure> {
    detach()?;
    let rxl = nix::unistd::getppid();
    let word = guard_line::last_word(std::io::stdin().as_fd());
    let Some(word) = word.filter(|word| *word != Word::Done) else { return Ok(()) };
    put_right(&word);
    // Last, and not before a killed rxl has closed its sockets too: the line to its guard may be
    // the first that is closed.
    guard::wait_for_end_of(rxl);
    if let Err(failure) = StateDir::system().sweep() {
        guard_line::log(&failure.to_string());
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

fn put_right(word: &Word) {
    match LibxlHost::new().map_err(Failure::from) {
        Ok(host) => {
            let said = guard::put_right(&host, word, guard::Settling::HOST);
            said.iter().for_each(|line| guard_line::log(line));
        }
        Err(failure) => {
            guard_line::log(&format!("rxl was killed, and nothing could be put right: {failure}"));
        }
    }
}
