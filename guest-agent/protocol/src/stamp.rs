//! The order of commands.

use std::fmt;

use crate::fields::{Fields, Malformed};

/// Identifies a command: the attempt to migrate, and the command's number in it. Later commands
/// have greater stamps. The default is before all commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The attempt to migrate, from 1.
    pub epoch: u64,
    /// The command's number in it, from 1.
    pub sequence: u32,
}

impl Stamp {
    pub(crate) fn take(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self { epoch: fields.number("epoch")?, sequence: fields.number("sequence number")? })
    }

    /// The stamp of the next command in the same epoch.
    pub fn next(self) -> Self {
        Self { sequence: self.sequence.saturating_add(1), ..self }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.epoch, self.sequence)
    }
}
