//! The formats of saved domains.

/// How a saved domain is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// rxl's own format, compressed and with checksums.
    Rxl,
    /// The format of `xl save`.
    Plain,
}
