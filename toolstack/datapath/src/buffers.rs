//! Buffers of frames and records that are used again.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers kept for the next frames. The kernel would map and zero fresh ones of 4 MiB each time.
#[derive(Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty buffer, which comes back when it is dropped.
    pub(crate) fn take(self: &Arc<Self>) -> Buffer {
        let mut buffer = self.take_stale();
        buffer.clear();
        buffer
    }

    /// A buffer that still holds what it was last used for, to be overwritten: setting it to zero
    /// first would cost as much as reading into it.
    pub(crate) fn take_stale(self: &Arc<Self>) -> Buffer {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Buffer { bytes, home: self.clone() }
    }
}

/// A buffer out of a pool, into which it returns when it is dropped.
pub struct Buffer {
    bytes: Vec<u8>,
    home: Arc<Buffers>,
}

impl Buffer {
    /// Makes the buffer at least this long, and keeps what it holds.
    pub(crate) fn grow(&mut self, length: usize) {
        if self.bytes.len() < length {
            self.bytes.resize(length, 0);
        }
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() > 0 {
            self.home.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_taken_again() {
        let buffers = Arc::new(Buffers::default());
        let mut buffer = buffers.take();
        buffer.extend_from_slice(b"frame");
        let address = buffer.as_ptr();
        drop(buffer);
        let stale = buffers.take_stale();
        assert_eq!((stale.as_ptr(), &stale[..]), (address, &b"frame"[..]));
        drop(stale);
        assert!(buffers.take().is_empty());
        assert_eq!(buffers.0.lock().unwrap().len(), 1);
    }
}
