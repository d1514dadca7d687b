//! Who is at the other end of a migration, and how data gets there.

use serde::{Deserialize, Serialize};

use crate::error::{Exit, Failure};

/// What receives the domain at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// rxl; where there is none, the user is told of the other way.
    Auto,
    /// rxl.
    Rxl,
    /// Stock xl, over its own protocol.
    Xl,
}

impl Peer {
    /// What to do about a target without rxl is the user's to say: over xl's protocol nothing is
    /// checked.
    pub fn advise(self, failure: Failure) -> Failure {
        match (self, failure.exit, &failure.next) {
            (Self::Auto, Exit::NoPeer, Some(next)) => {
                let next = format!(
                    "{next}; or let --peer xl move it to stock xl there, uncompressed and without \
                     checksums"
                );
                failure.next(next)
            }
            _ => failure,
        }
    }
}

/// How data travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Over ssh connections of their own, opened like the control channel.
    Ssh,
    /// Over plain TCP connections: neither encrypted nor authenticated but by a token. For an
    /// isolated migration network.
    Tcp,
}
