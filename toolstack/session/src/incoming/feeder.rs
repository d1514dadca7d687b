//! The thread that gives libxl a stream which is read here: out of a file, or off xl's wire.

use std::thread::JoinHandle;

use crate::events::{Event, Events};
use rxl_core::deadlines;
use rxl_core::domain::{DomId, RestoreAs};
use rxl_core::error::Failure;
use rxl_core::io::{Cancel, Guarded, pipe};
use rxl_core::operation::Operation;
use rxl_datapath::broken::Broken;
use rxl_host::host::Host;

/// The thread that gives libxl its stream. Dropped, it stops, and libxl's restore fails if it has
/// not ended.
pub struct Feeder {
    cancel: Cancel,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.cancel.pull();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

/// Starts a restore. `give` runs on a thread of its own: it writes the stream, and returns how many
/// bytes it had. It has to end soon after `cancel` is pulled.
pub fn restore_from(
    host: &dyn Host,
    config_json: &str,
    restore_as: &RestoreAs,
    events: &Events<u64>,
    cancel: Cancel,
    give: impl FnOnce(Guarded) -> Result<u64, Broken> + Send + 'static,
) -> Result<(Operation<DomId>, Feeder), Failure> {
    let broken = |e| Failure::internal("data path", &e);
    let (reading, writing) = pipe().map_err(broken)?;
    let to_libxl = Guarded::new(writing, cancel.clone(), Some(deadlines::STALL)).map_err(broken)?;
    let queue = events.sender();
    let work = move || {
        let given = give(to_libxl);
        let _ = queue.send(Event::Data(given));
    };
    let thread = std::thread::Builder::new().name("feed".into()).spawn(work).map_err(broken)?;
    let feeder = Feeder { cancel, thread: Some(thread) };
    let notes = events.notes().map_err(broken)?;
    let operation = host.restore(config_json, restore_as, reading, notes).map_err(Failure::from)?;
    Ok((operation, feeder))
}
