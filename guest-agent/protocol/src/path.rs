//! Names of the nodes, relative to the domain's own directory.

/// Directory of what dom0 writes. dom0 creates it readable by the guest and writable by dom0 alone.
pub const CONTROL: &str = "control/rxl";

/// Node of the last [`crate::Command`].
pub const COMMAND: &str = "control/rxl/command";

/// Node of the [`crate::Lease`].
pub const LEASE: &str = "control/rxl/lease";

/// Directory of what the agent writes.
pub const DATA: &str = "data/rxl";

/// Node of the [`crate::AgentInfo`].
pub const AGENT: &str = "data/rxl/agent";

/// Node of the [`crate::State`].
pub const STATE: &str = "data/rxl/state";

/// Node of the number of job rows.
pub const JOBS: &str = "data/rxl/jobs";

/// Node of the [`crate::Unclaimed`], missing where there are none.
pub const UNCLAIMED: &str = "data/rxl/unclaimed";

/// Node of the `n`th [`crate::JobRow`], from 0.
pub fn job(n: usize) -> String {
    format!("data/rxl/job/{n}")
}

/// Node of the `n`th chunk of the cut, from 0. [`crate::unpack`] reads it.
pub fn cut(n: usize) -> String {
    format!("data/rxl/cut/{n}")
}

/// Node of the `n`th chunk of the explanation, from 0. [`crate::unpack_explanation`] reads it.
pub fn explain(n: usize) -> String {
    format!("data/rxl/explain/{n}")
}
