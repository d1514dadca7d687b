//! Processes that look like ranks and that no job row lists.

use std::fmt;
use std::str::FromStr;

use crate::fields::{Fields, Malformed};
use crate::token::Token;

/// Processes that have a library of MPI's in memory, and that the agent knows neither as ranks nor
/// as launchers: `count=N pid=P comm=C library=L`. A freeze would not stop them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unclaimed {
    /// How many there are, at least 1.
    pub count: u32,
    /// The process id of the first, in the guest.
    pub pid: u32,
    /// What the guest's kernel calls the first (`/proc/PID/comm`).
    pub comm: Token,
    /// The file name of the library that the first has in memory, for instance `libmpi.so.40`.
    pub library: Token,
}

impl FromStr for Unclaimed {
    type Err = Malformed;

    fn from_str(value: &str) -> Result<Self, Malformed> {
        let mut fields = Fields::of(value)?;
        let unclaimed = Self {
            count: fields.number_field("count")?,
            pid: fields.number_field("pid")?,
            comm: fields.parsed("comm")?,
            library: fields.parsed("library")?,
        };
        fields.end()?;
        if unclaimed.count == 0 { Err(Malformed::Bad("count")) } else { Ok(unclaimed) }
    }
}

impl fmt::Display for Unclaimed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { count, pid, comm, library } = self;
        write!(f, "count={count} pid={pid} comm={comm} library={library}")
    }
}
