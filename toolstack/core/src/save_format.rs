//! The formats of saved domains.

/// How a saved domain is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// rxl's: compressed, checksummed.
    Rxl,
    /// xl's.
    Plain,
}
