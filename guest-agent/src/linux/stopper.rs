//! Two ways to stop processes: the freezer of cgroup v2, and signals where there is none.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use rxl_agent_protocol::{Freezer, Reason};

use super::cgroup::Cgroups;
use super::sigstop::Signals;
use crate::guest::{Held, Refusal};

/// Stops and continues a set of processes.
pub trait Stopper {
    /// Which of the two.
    fn kind(&self) -> Freezer;

    /// Takes these processes (pid, start time) into the set. They run on.
    fn gather(&mut self, processes: &BTreeMap<i32, u64>) -> io::Result<()>;

    /// Starts to stop them. Unless this was called, `wait` waits in vain.
    fn stop(&mut self) -> io::Result<()>;

    /// Waits until all stand still; false when they do not in time.
    fn wait(&mut self, until: Instant) -> io::Result<bool>;

    /// Lets them run.
    fn go(&mut self) -> io::Result<()>;

    /// Empties the set, as if `gather` had never been called.
    fn scatter(&mut self) -> io::Result<()>;

    /// The processes of the set, with all that were started since.
    fn members(&self) -> io::Result<Vec<i32>>;

    /// What `scatter` would put back.
    fn held(&self) -> Held;

    /// Takes over a set; tells whether it is stopped, in whole or in part.
    fn take_over(&mut self, held: Held) -> io::Result<bool>;
}

/// The one for this system.
pub fn choose(name: &str) -> Box<dyn Stopper> {
    match Cgroups::mounted(name) {
        Some(cgroups) => Box::new(cgroups),
        None => Box::new(Signals::default()),
    }
}

/// Stops the set and waits for it.
pub fn freeze(stopper: &mut dyn Stopper, until: Instant) -> Result<(), Refusal> {
    stopper.stop().map_err(Refusal::system("freeze the ranks"))?;
    if stopper.wait(until).map_err(Refusal::system("wait for the freezer"))? {
        return Ok(());
    }
    let members = stopper.members().unwrap_or_default();
    let detail = match super::ranks::uninterruptible(members) {
        Some(pid) => format!("process {pid} is in uninterruptible sleep"),
        None => "not all processes stopped in time".into(),
    };
    Err(Refusal::new(Reason::FreezeDeadline, detail))
}
