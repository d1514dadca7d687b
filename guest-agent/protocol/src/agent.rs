//! How an agent introduces itself.

use std::fmt;
use std::str::FromStr;

use crate::fields::{Fields, Malformed};
use crate::token::Token;

/// An agent's introduction: `version=V protocol=N pid=N boot=ID freezer=cgroup|sigstop`. Other
/// fields are ignored, so that a later agent which adds some can still be told by its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentInfo {
    /// The agent's version.
    pub version: Token,
    /// [`crate::PROTOCOL_VERSION`] of the agent.
    pub protocol: u32,
    /// The agent's process id in the guest.
    pub pid: u32,
    /// The guest's boot id: the same after a migration, another after a reboot.
    pub boot: Token,
    /// How the agent would stop ranks.
    pub freezer: Freezer,
}

/// How ranks are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freezer {
    /// The freezer of cgroup v2: the ranks do not notice.
    Cgroup,
    /// SIGSTOP, where there is no cgroup v2: their parents and debuggers may notice.
    Sigstop,
}

impl FromStr for AgentInfo {
    type Err = Malformed;

    fn from_str(value: &str) -> Result<Self, Malformed> {
        let mut fields = Fields::of(value)?;
        Ok(Self {
            version: fields.parsed("version")?,
            protocol: fields.number_field("protocol")?,
            pid: fields.number_field("pid")?,
            boot: fields.parsed("boot")?,
            freezer: fields.parsed("freezer")?,
        })
    }
}

impl fmt::Display for AgentInfo {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { version, protocol, pid, boot, freezer } = self;
        write!(f, "version={version} protocol={protocol} pid={pid} boot={boot} freezer={freezer}")
    }
}

impl FromStr for Freezer {
    type Err = Malformed;

    fn from_str(word: &str) -> Result<Self, Malformed> {
        match word {
            "cgroup" => Ok(Self::Cgroup),
            "sigstop" => Ok(Self::Sigstop),
            _ => Err(Malformed::Bad("freezer")),
        }
    }
}

impl fmt::Display for Freezer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroup => "cgroup",
            Self::Sigstop => "sigstop",
        })
    }
}
