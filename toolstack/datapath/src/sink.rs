//! Where a received stream goes.

use crate::broken::Broken;

/// Takes a libxl stream, in order. Errors as those of the data path.
pub trait StreamSink: Send {
    /// The next bytes; a record of pages comes whole.
    fn put(&mut self, raw: &[u8]) -> Result<(), Broken>;
    /// After the last.
    fn finish(&mut self) -> Result<(), Broken>;
}
