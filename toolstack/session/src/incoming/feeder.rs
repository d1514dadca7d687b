//! The thread that gives libxl a stream which is read here: out of a file, or off xl's wire.

use crate::events::{Event, Events};
use rxl_core::deadlines;
use rxl_core::domain::{DomId, RestoreAs};
use rxl_core::error::Failure;
use rxl_core::io::{Cancel, Guarded, pipe};
use rxl_core::operation::Operation;
use rxl_core::worker::Worker;
use rxl_datapath::broken::Broken;
use rxl_host::host::{Host, RestoreRequest};

/// The thread that gives libxl its stream. Dropped, it stops, and libxl's restore fails if it has
/// not ended.
pub struct Feeder {
    _worker: Worker,
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
    let feeder = Feeder { _worker: Worker::with_cancel("feed", cancel, work).map_err(broken)? };
    let notes = events.notes().map_err(broken)?;
    let request = RestoreRequest::new(config_json, restore_as, notes)?;
    let operation = host.restore(request, reading)?;
    Ok((operation, feeder))
}
