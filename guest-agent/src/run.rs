//! The daemon's loop: waits for the store, a signal or the time, and lets the engine take a step.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::deadlines::BREATH;
use crate::engine::Engine;
use crate::guest::Guest;
use crate::store::{Store, wait_for_any};

/// Takes SIGTERM and SIGINT away from this thread, so that [`run`] hears them. To be called before
/// an engine starts: it may take over frozen ranks, and the signal's default action would leave
/// them so.
pub fn hold_termination() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Runs until one of the signals comes, then puts everything back.
pub fn run<S: Store, G: Guest>(mut engine: Engine<S, G>, signals: &SignalFd) -> io::Result<()> {
    notify_systemd(&[NotifyState::Ready]);
    loop {
        let longest = engine.step();
        notify_systemd(&[NotifyState::Watchdog]);
        if is_to_stop(engine.store(), signals, longest)? {
            break;
        }
    }
    info!("stops");
    notify_systemd(&[NotifyState::Stopping]);
    engine.stop()
}

/// Waits for the next step; tells whether a signal says to stop.
fn is_to_stop(store: &mut impl Store, signals: &SignalFd, longest: Duration) -> io::Result<bool> {
    std::thread::sleep(BREATH);
    if let Err(error) = store.wait(signals.as_fd(), longest) {
        warn!("xenstore: {error}");
        wait_for_any(&[signals.as_fd()], longest)?;
    }
    Ok(signals.read_signal()?.is_some())
}

/// Tells systemd. Outside systemd nobody listens, which is no error.
fn notify_systemd(states: &[NotifyState]) {
    let _ = sd_notify::notify(states);
}
