//! What a data connection begins with.

use std::fmt;
use std::hint::black_box;

use crate::bytes::{array, le16};

/// Length of a preamble in bytes.
pub const PREAMBLE_LEN: usize = 64;

const MAGIC: [u8; 8] = *b"RXLDATA1";
const VERSION: u16 = 1;

/// Why a preamble was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreambleError {
    /// The peer speaks something else.
    #[error("not an rxl data connection (its magic is missing)")]
    Magic,
    /// The peer speaks another version.
    #[error("data connection of version {0}, expected {VERSION}")]
    Version(u16),
    /// An unknown purpose.
    #[error("data connection for the unknown purpose {0}")]
    Purpose(u8),
    /// Reserved bytes are not zero.
    #[error("data connection with reserved bytes set")]
    Reserved,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Control messages.
    Control,
    /// Frames.
    Data,
}

/// Names a migration on both hosts. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MigrationId(pub [u8; 16]);

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MigrationId({self})")
    }
}

/// The migration's secret, by which a connection shows that it belongs. Neither printed nor
/// compared with `==`.
#[derive(Clone, Copy)]
pub struct Token([u8; 32]);

impl Token {
    /// Wraps 32 bytes, which must come from a cryptographic random source.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret, to be sent over a channel that keeps it.
    pub fn reveal(&self) -> [u8; 32] {
        self.0
    }

    /// Whether both are the same, in a time that does not tell how much of them is.
    pub fn matches(&self, other: &Token) -> bool {
        let differing =
            self.0.iter().zip(&other.0).fold(0, |seen, (a, b)| black_box(seen | (a ^ b)));
        black_box(differing) == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What a data connection begins with: which migration it belongs to, and the proof.
#[derive(Clone, Copy, Debug)]
pub struct Preamble {
    /// What the connection is for.
    pub purpose: Purpose,
    /// Number of the connection, from 0.
    pub connection: u16,
    /// Which migration.
    pub migration: MigrationId,
    /// Its secret; the receiver compares it ([`Token::matches`]).
    pub token: Token,
}

impl Preamble {
    /// Parses a preamble. Its token is not judged.
    pub fn parse(bytes: &[u8; PREAMBLE_LEN]) -> Result<Self, PreambleError> {
        if array::<8>(bytes, 0) != MAGIC {
            return Err(PreambleError::Magic);
        }
        if le16(bytes, 8) != VERSION {
            return Err(PreambleError::Version(le16(bytes, 8)));
        }
        let purpose = match bytes[10] {
            0 => Purpose::Control,
            1 => Purpose::Data,
            other => return Err(PreambleError::Purpose(other)),
        };
        if bytes[11] != 0 || le16(bytes, 14) != 0 {
            return Err(PreambleError::Reserved);
        }
        Ok(Self {
            purpose,
            connection: le16(bytes, 12),
            migration: MigrationId(array(bytes, 16)),
            token: Token(array(bytes, 32)),
        })
    }

    /// The preamble's bytes.
    pub fn to_bytes(&self) -> [u8; PREAMBLE_LEN] {
        let mut bytes = [0; PREAMBLE_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = match self.purpose {
            Purpose::Control => 0,
            Purpose::Data => 1,
        };
        bytes[12..14].copy_from_slice(&self.connection.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.migration.0);
        bytes[32..].copy_from_slice(&self.token.0);
        bytes
    }
}
