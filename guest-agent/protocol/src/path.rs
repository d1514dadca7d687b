//! Names of the nodes, relative to the domain's own directory.

/// Directory of what dom0 writes. dom0 creates it readable by the guest and writable by nobody
/// else.
pub const CONTROL: &str = "control/rxl";

/// A [`crate::Command`].
pub const COMMAND: &str = "control/rxl/command";

/// A [`crate::Lease`].
pub const LEASE: &str = "control/rxl/lease";

/// Directory of what the agent writes.
pub const DATA: &str = "data/rxl";

/// An [`crate::AgentInfo`].
pub const AGENT: &str = "data/rxl/agent";

/// A [`crate::State`].
pub const STATE: &str = "data/rxl/state";

/// The number of job rows.
pub const JOBS: &str = "data/rxl/jobs";

/// The `n`th [`crate::JobRow`], from 0.
pub fn job(n: usize) -> String {
    format!("data/rxl/job/{n}")
}

/// The `n`th chunk of the cut, from 0; see [`crate::unpack`].
pub fn cut(n: usize) -> String {
    format!("data/rxl/cut/{n}")
}
