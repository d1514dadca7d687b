//! The daemon's loop: waits for the store, for a signal, or for the time, and lets the engine take a step.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::engine::Engine;
use crate::guest::Guest;
use crate::store::Store;

/// Pause between steps when the store says again and again that something has changed.
const BREATH: Duration = Duration::from_micros(200);

/// Runs until SIGTERM or SIGINT, then puts everything back.
pub fn run<S: Store, G: Guest>(mut engine: Engine<S, G>) -> std::io::Result<()> {
    let signals = termination()?;
    notify(&[NotifyState::Ready]);
    loop {
        let pace = engine.step();
        notify(&[NotifyState::Watchdog]);
        if wait(engine.store(), &signals, pace)? {
            break;
        }
    }
    info!("stops");
    notify(&[NotifyState::Stopping]);
    engine.stop()
}

fn termination() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Waits; tells whether it is time to stop.
fn wait(store: &mut impl Store, signals: &SignalFd, pace: Duration) -> std::io::Result<bool> {
    match store.changed() {
        Ok(true) => {
            std::thread::sleep(BREATH);
            return Ok(signals.read_signal()?.is_some());
        }
        Ok(false) => {}
        Err(error) => warn!("xenstore: {error}"),
    }
    let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    fds.extend(store.notices().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    let timeout = PollTimeout::try_from(pace.as_millis()).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(signals.read_signal()?.is_some()),
        Err(error) => Err(error.into()),
    }
}

/// Outside systemd nobody listens, and that is no error.
fn notify(states: &[NotifyState]) {
    let _ = sd_notify::notify(states);
}
