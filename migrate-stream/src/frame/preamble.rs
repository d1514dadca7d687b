//! The preamble, with which a connection to another rxl begins.

use std::fmt;
use std::hint::black_box;

use crate::fields::{Builder, Fields};

/// Length of a preamble in bytes.
pub const PREAMBLE_LEN: usize = 64;

const MAGIC: [u8; 8] = *b"RXLDATA1";
const VERSION: u16 = 1;

/// Why a preamble was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreambleError {
    /// The connection does not begin with the magic: the peer is no rxl.
    #[error("not an rxl data connection (its magic is missing)")]
    Magic,
    #[error("data connection of version {0}, expected {VERSION}")]
    Version(u16),
    #[error("data connection for the unknown purpose {0}")]
    Purpose(u8),
    /// Bytes that must be 0 are not.
    #[error("data connection with reserved bytes set")]
    Reserved,
}

/// The use of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The connection carries control messages.
    Control,
    /// The connection carries data frames.
    Data,
    /// The connection asks one question about a migration that has been begun before.
    Recover,
}

/// Names a migration on both hosts. It is not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MigrationId(pub [u8; 16]);

impl MigrationId {
    /// The id that is written as 32 hexadecimal digits, as [`fmt::Display`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|id| Self(id.to_be_bytes()))
    }
}

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

/// The migration's secret, by which a connection proves that it belongs to the migration. Debug
/// output hides it, and there is no `==`, whose time would tell how much of a guess is right.
#[derive(Clone, Copy)]
pub struct Token([u8; 32]);

impl Token {
    /// Wraps 32 bytes, which must come from a cryptographic random source.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret's bytes, to be sent over an encrypted channel only.
    pub fn reveal(&self) -> [u8; 32] {
        self.0
    }

    /// Whether both are the same, in a time that does not depend on their bytes.
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

/// Says which migration a connection belongs to, and proves it.
#[derive(Clone, Copy, Debug)]
pub struct Preamble {
    pub purpose: Purpose,
    /// Counts the migration's connections from 0.
    pub connection: u16,
    /// The migration that the connection belongs to.
    pub migration: MigrationId,
    /// The migration's secret; the receiver compares it ([`Token::matches`]).
    pub token: Token,
}

impl Preamble {
    /// Parses a preamble. The caller must compare the token.
    pub fn parse(bytes: &[u8; PREAMBLE_LEN]) -> Result<Self, PreambleError> {
        let fields = Fields(bytes);
        if fields.array::<0, 8>() != MAGIC {
            return Err(PreambleError::Magic);
        }
        let version = fields.le16::<8>();
        if version != VERSION {
            return Err(PreambleError::Version(version));
        }
        let [purpose, reserved] = fields.array::<10, 2>();
        let purpose = match purpose {
            0 => Purpose::Control,
            1 => Purpose::Data,
            2 => Purpose::Recover,
            other => return Err(PreambleError::Purpose(other)),
        };
        if reserved != 0 || fields.le16::<14>() != 0 {
            return Err(PreambleError::Reserved);
        }
        Ok(Self {
            purpose,
            connection: fields.le16::<12>(),
            migration: MigrationId(fields.array::<16, 16>()),
            token: Token(fields.array::<32, 32>()),
        })
    }

    pub fn to_bytes(&self) -> [u8; PREAMBLE_LEN] {
        let purpose = match self.purpose {
            Purpose::Control => 0,
            Purpose::Data => 1,
            Purpose::Recover => 2,
        };
        Builder::new()
            .put::<0, 8>(MAGIC)
            .put::<8, 2>(VERSION.to_le_bytes())
            .put::<10, 1>([purpose])
            .put::<12, 2>(self.connection.to_le_bytes())
            .put::<16, 16>(self.migration.0)
            .put::<32, 32>(self.token.0)
            .bytes()
    }
}
