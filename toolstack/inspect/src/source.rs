//! An input that is read through one buffer: headers and pages are contiguous slices of it, all
//! else is skipped in place.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;

/// Size of the buffer in bytes, and so the most that [`Source::exact`] returns. It is large enough
/// that the cost of system calls does not matter, and fits into a processor's cache.
pub const BUFFER: usize = 512 << 10;

/// Why the next bytes cannot be read.
#[derive(Debug)]
pub enum Cut {
    /// The input ends too early.
    Truncated {
        /// The input's length in bytes.
        at: u64,
        /// Least number of bytes that are missing.
        missing: u64,
    },
    /// The read failed.
    Io(io::Error),
}

/// An input with a position.
pub struct Source<R> {
    input: R,
    buffer: Vec<u8>,
    /// The part of the buffer that holds bytes of the input which were not returned yet.
    held: Range<usize>,
    offset: u64,
}

impl<R: Read> Source<R> {
    /// A source at the input's first byte, which has the offset 0.
    pub fn new(input: R) -> Self {
        Self { input, buffer: vec![0; BUFFER], held: 0..0, offset: 0 }
    }

    /// Number of bytes returned or skipped so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes, as many as there are up to `most` (at most [`BUFFER`]). The offset stays.
    pub fn peek(&mut self, most: usize) -> Result<&[u8], Cut> {
        while self.held.len() < most {
            if self.fill(most)? == 0 {
                break;
            }
        }
        Ok(self.held(most))
    }

    /// The next `length` bytes, at most [`BUFFER`].
    pub fn exact(&mut self, length: usize) -> Result<&[u8], Cut> {
        if self.held.len() < length && self.peek(length)?.len() < length {
            return Err(self.truncated(length as u64));
        }
        let exact = self.held.start..self.held.start + length;
        self.held.start = exact.end;
        self.offset += length as u64;
        Ok(self.buffer.get(exact).unwrap_or_default())
    }

    /// The next `N` bytes, a header.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Cut> {
        let mut array = [0; N];
        array.copy_from_slice(self.exact(N)?);
        Ok(array)
    }

    /// The bytes that are in the buffer already, up to `most`.
    fn held(&self, most: usize) -> &[u8] {
        let until = self.held.end.min(self.held.start + most);
        self.buffer.get(self.held.start..until).unwrap_or_default()
    }

    /// Skips `length` bytes, and shows them in pieces.
    pub fn pieces(&mut self, length: u64, mut show: impl FnMut(&[u8])) -> Result<(), Cut> {
        let mut left = length;
        while left > 0 {
            if self.held.is_empty() && self.fill(1)? == 0 {
                return Err(self.truncated(left));
            }
            let piece = self.held(usize::try_from(left).unwrap_or(BUFFER).min(BUFFER));
            show(piece);
            let length = piece.len();
            self.held.start += length;
            self.offset += length as u64;
            left -= length as u64;
        }
        Ok(())
    }

    /// Skips all bytes that follow, and returns their number.
    pub fn rest(&mut self) -> Result<u64, Cut> {
        let mut skipped = 0;
        while !self.held.is_empty() || self.fill(1)? > 0 {
            skipped += self.held.len() as u64;
            self.held.start = self.held.end;
        }
        self.offset += skipped;
        Ok(skipped)
    }

    fn truncated(&self, wanted: u64) -> Cut {
        let held = self.held.len() as u64;
        Cut::Truncated { at: self.offset + held, missing: wanted - held }
    }

    /// Reads once, after making room for `length` bytes in all, and returns the number of bytes
    /// read; 0 at the input's end.
    fn fill(&mut self, length: usize) -> Result<usize, Cut> {
        if self.held.is_empty() {
            self.held = 0..0;
        } else if self.held.start + length > self.buffer.len() {
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        loop {
            let room = self.buffer.get_mut(self.held.end..).unwrap_or_default();
            match self.input.read(room) {
                Ok(got) => {
                    self.held.end += got;
                    return Ok(got);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Cut::Io(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns at most 7 bytes from each read.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let piece = into.len().min(7);
            self.0.read(&mut into[..piece])
        }
    }

    #[test]
    fn every_byte_comes_once_and_in_order() {
        let bytes: Vec<u8> = (0..2 * BUFFER + 4321).map(|at| (at % 251) as u8).collect();
        let mut source = Source::new(Slow(&bytes));
        assert_eq!(source.peek(3).unwrap(), &bytes[..3]);
        let mut seen = Vec::new();
        for length in [5, 4096, 1, BUFFER, 77] {
            seen.extend_from_slice(source.exact(length).unwrap());
        }
        source.pieces(BUFFER as u64, |piece| seen.extend_from_slice(piece)).unwrap();
        assert!(seen == bytes[..seen.len()]);
        assert_eq!(source.offset(), seen.len() as u64);
        assert_eq!(source.rest().unwrap(), (bytes.len() - seen.len()) as u64);
    }

    #[test]
    fn the_end_is_reported_to_the_byte() {
        let mut source = Source::new(&[0; 10][..]);
        source.exact(4).unwrap();
        assert!(matches!(source.exact(8), Err(Cut::Truncated { at: 10, missing: 2 })));
        assert_eq!(source.peek(8).unwrap().len(), 6);
        let cut = source.pieces(9, |_| ());
        assert!(matches!(cut, Err(Cut::Truncated { at: 10, missing: 3 })));
    }
}
