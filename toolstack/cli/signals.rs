//! Signals as events of a session.

use std::io;
use std::sync::mpsc::Sender;

use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use rxl_core::error::Failure;
use rxl_session::events::Event;

/// Turns SIGINT, SIGTERM and SIGHUP into [`Event::Interrupt`]. Call it before there is a second
/// thread.
///
/// SIGINT and SIGHUP stay blocked in every other thread and, because that is inherited, in ssh and
/// libxl's save helper: a Ctrl-C on the terminal goes to all of them, and would kill the connection
/// and the helper before rxl could clean up.
pub fn watch<D: Send + 'static>(events: Sender<Event<D>>) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::internal("signals", &e);
    let held = block(&[Signal::SIGINT, Signal::SIGHUP]).map_err(failed)?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
    let watch = move || {
        if let Err(error) = held.thread_unblock() {
            tracing::warn!("signals: {error}");
        }
        for signal in signals.forever() {
            tracing::info!("signal {signal}");
            // Nobody receives events once the session has ended.
            let _ = events.send(Event::Interrupt);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map_err(failed)?;
    Ok(())
}

/// Blocks signals in this thread, in those that it starts, and in their children.
pub fn block(signals: &[Signal]) -> io::Result<SigSet> {
    let mut held = SigSet::empty();
    signals.iter().for_each(|signal| held.add(*signal));
    held.thread_block()?;
    Ok(held)
}
