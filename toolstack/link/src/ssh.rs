//! Starting rxl on the target, over ssh or whatever the user puts in its place (`xl migrate -s`).

mod ended;
mod greeting;
mod remote;
mod route;

pub use ended::Retries;
pub use greeting::GREETING;
pub use remote::{Pipes, Remote, end_all};
pub use route::Route;

/// What is run on the target to receive a domain.
pub const RECEIVER: &str = "rxl receive";

/// What is run on the target to receive a domain where there is no rxl.
pub const XL_RECEIVER: &str = "xl migrate-receive";

/// What is run on a host to talk to the agents of its domains.
pub const AGENT_SERVER: &str = "rxl agent serve";
