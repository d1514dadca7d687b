//! Where a received stream goes.

use crate::broken::Broken;

/// Takes a received libxl stream, in order.
pub trait StreamSink: Send {
    /// Takes the next bytes. A PAGE_DATA record that is a frame of its own comes whole.
    fn put(&mut self, raw: &[u8]) -> Result<(), Broken>;
    /// Called once, after the last byte: completes what the stream is for.
    fn finish(&mut self) -> Result<(), Broken>;
}
