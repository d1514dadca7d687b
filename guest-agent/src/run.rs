//! The daemon's loop: waits for the store, for a signal, or for the time, and lets the engine take
//! a step.

use std::io;
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
pub fn run<S: Store, G: Guest>(mut engine: Engine<S, G>) -> io::Result<()> {
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

/// Waits until the store has changed or the time is over; tells whether it is time to stop.
fn wait(store: &mut impl Store, signals: &SignalFd, pace: Duration) -> io::Result<bool> {
    match store.changed() {
        Ok(true) => std::thread::sleep(BREATH),
        Ok(false) => sleep_until_notice(store, signals, pace)?,
        Err(error) => {
            warn!("xenstore: {error}");
            sleep_until_notice(store, signals, pace)?;
        }
    }
    Ok(signals.read_signal()?.is_some())
}

fn sleep_until_notice(store: &impl Store, signals: &SignalFd, pace: Duration) -> io::Result<()> {
    let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    fds.extend(store.notices().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    // Rounded up: a wait of zero would be no wait.
    match poll(&mut fds, PollTimeout::try_from(pace.as_millis() + 1).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Outside systemd nobody listens, and that is no error.
fn notify(states: &[NotifyState]) {
    let _ = sd_notify::notify(states);
}
