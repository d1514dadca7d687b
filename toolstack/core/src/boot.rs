//! Which boot of a host something happened in: memory does not outlive it.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// Where Linux tells the id of this boot (random(4)).
const PATH: &str = "/proc/sys/kernel/random/boot_id";

/// The longest id that is taken from a record, in bytes. Linux' has 36.
const LONGEST: usize = 64;

/// One boot of a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootId(String);

/// A boot's id is empty or too long.
#[derive(Debug, thiserror::Error)]
#[error("no id of a boot")]
pub struct NoBootId;

impl BootId {
    /// The boot that this process runs in. dom0's boot is Xen's.
    pub fn current() -> io::Result<Self> {
        let id = std::fs::read_to_string(PATH)?;
        Self::try_from(id.trim().to_owned()).map_err(io::Error::other)
    }
}

impl TryFrom<String> for BootId {
    type Error = NoBootId;

    fn try_from(id: String) -> Result<Self, NoBootId> {
        if id.is_empty() || id.len() > LONGEST { Err(NoBootId) } else { Ok(Self(id)) }
    }
}

impl From<BootId> for String {
    fn from(id: BootId) -> Self {
        id.0
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
