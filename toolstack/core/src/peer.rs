//! The program at the other end of a migration, and what carries the data there.

use serde::{Deserialize, Serialize};

use crate::error::{Exit, Failure};

/// The program that receives the domain at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// rxl. If the target has none, the failure suggests stock xl.
    Auto,
    /// rxl, without that suggestion.
    Rxl,
    /// Stock xl, over its own protocol.
    Xl,
}

impl Peer {
    /// Adds the suggestion to use stock xl, where the target has no rxl. rxl never does so by
    /// itself: over xl's protocol nothing is checked.
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

/// What carries the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// ssh connections of their own, opened like the control channel.
    Ssh,
    /// Plain TCP connections, not encrypted and authenticated only by a token: for an isolated
    /// migration network.
    Tcp,
}
