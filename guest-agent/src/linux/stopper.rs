//! What stops processes: the freezer of cgroup v2, or signals where there is none.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use rxl_agent_protocol::{Freezer, Reason};

use super::ranks;
use crate::guest::{Held, Refusal};

/// Stops and continues a set of processes.
pub trait Stopper {
    /// Which of the two this is, as dom0 is told.
    fn kind(&self) -> Freezer;

    /// Takes these processes (pid, start time) into the set. They run on.
    fn gather(&mut self, processes: &BTreeMap<i32, u64>) -> io::Result<()>;

    /// Starts to stop the set. `wait` waits for the end of that.
    fn stop(&mut self) -> io::Result<()>;

    /// Waits until all processes stand still. False when they do not in time.
    fn wait(&mut self, until: Instant) -> io::Result<bool>;

    /// Lets the set run.
    fn go(&mut self) -> io::Result<()>;

    /// Empties the set, as if `gather` had never been called. After an error the set is empty too,
    /// and `held` tells what is left to be tried again.
    fn scatter(&mut self) -> io::Result<()>;

    /// Lists the processes of the set, with all that they have started since.
    fn members(&self) -> io::Result<Vec<i32>>;

    /// Tells what `scatter` would put back.
    fn held(&self) -> Held;

    /// Takes over another agent's set. Tells whether any of it is stopped.
    fn take_over(&mut self, held: Held) -> io::Result<bool>;
}

/// Stops the set and waits for it.
pub fn freeze(stopper: &mut dyn Stopper, until: Instant) -> Result<(), Refusal> {
    stopper.stop().map_err(Refusal::system("freeze the ranks"))?;
    if stopper.wait(until).map_err(Refusal::system("wait for the freezer"))? {
        return Ok(());
    }
    let members = stopper.members().unwrap_or_default();
    let detail = match ranks::uninterruptible(members) {
        Some(pid) => format!("process {pid} is in uninterruptible sleep"),
        None => "not all processes stopped in time".into(),
    };
    Err(Refusal::new(Reason::FreezeDeadline, detail))
}
