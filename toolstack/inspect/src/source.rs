//! Reads a stream through one buffer: headers and pages come as contiguous slices of it, and the
//! rest is skipped in place.

use std::io::{ErrorKind, Read};

/// Bytes of the buffer, and so the most that [`Source::exact`] gives: large enough that system
/// calls do not count, small enough to stay in a processor's cache.
pub const BUFFER: usize = 512 << 10;

/// Why the next bytes cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The input has ended.
    Truncated {
        /// Its length in bytes.
        at: u64,
        /// Bytes that are certainly missing.
        missing: u64,
    },
    /// Reading failed.
    Io(String),
}

/// An input with a position.
pub struct Source<R> {
    input: R,
    buffer: Vec<u8>,
    /// What of the buffer has been read and not yet been given out.
    held: std::ops::Range<usize>,
    offset: u64,
}

impl<R: Read> Source<R> {
    /// At the input's first byte, which is byte 0.
    pub fn new(input: R) -> Self {
        Self { input, buffer: vec![0; BUFFER], held: 0..0, offset: 0 }
    }

    /// Bytes given out or skipped so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes, as many as there are up to `most` (at most [`BUFFER`]), without giving them
    /// out.
    pub fn peek(&mut self, most: usize) -> Result<&[u8], Cut> {
        while self.held.len() < most {
            if self.fill(most)? == 0 {
                break;
            }
        }
        let until = self.held.end.min(self.held.start + most);
        Ok(&self.buffer[self.held.start..until])
    }

    /// The next `length` bytes, at most [`BUFFER`].
    pub fn exact(&mut self, length: usize) -> Result<&[u8], Cut> {
        if self.held.len() < length && self.peek(length)?.len() < length {
            return Err(self.truncated(length as u64));
        }
        let from = self.held.start;
        self.held.start += length;
        self.offset += length as u64;
        Ok(&self.buffer[from..from + length])
    }

    /// The next `N` bytes: a header.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Cut> {
        let mut array = [0; N];
        array.copy_from_slice(self.exact(N)?);
        Ok(array)
    }

    /// Passes over `length` bytes, showing them in pieces.
    pub fn pieces(&mut self, length: u64, mut show: impl FnMut(&[u8])) -> Result<(), Cut> {
        let mut left = length;
        while left > 0 {
            if self.held.is_empty() && self.fill(1)? == 0 {
                return Err(self.truncated(left));
            }
            let piece = self.held.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            show(&self.buffer[self.held.start..self.held.start + piece]);
            self.held.start += piece;
            self.offset += piece as u64;
            left -= piece as u64;
        }
        Ok(())
    }

    /// Passes over all that follows, and says how many bytes that were.
    pub fn rest(&mut self) -> Result<u64, Cut> {
        let mut passed = 0;
        while !self.held.is_empty() || self.fill(1)? > 0 {
            passed += self.held.len() as u64;
            self.held.start = self.held.end;
        }
        self.offset += passed;
        Ok(passed)
    }

    fn truncated(&self, wanted: u64) -> Cut {
        let held = self.held.len() as u64;
        Cut::Truncated { at: self.offset + held, missing: wanted - held }
    }

    /// Reads once, after making room for `length` bytes in all. 0: the input has ended.
    fn fill(&mut self, length: usize) -> Result<usize, Cut> {
        if self.held.is_empty() {
            self.held = 0..0;
        } else if self.held.start + length > self.buffer.len() {
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        loop {
            match self.input.read(&mut self.buffer[self.held.end..]) {
                Ok(got) => {
                    self.held.end += got;
                    return Ok(got);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Cut::Io(error.to_string())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in pieces of 7.
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
    fn the_end_is_told_to_the_byte() {
        let mut source = Source::new(&[0; 10][..]);
        source.exact(4).unwrap();
        assert_eq!(source.exact(8), Err(Cut::Truncated { at: 10, missing: 2 }));
        assert_eq!(source.peek(8).unwrap().len(), 6);
        assert_eq!(source.pieces(9, |_| ()), Err(Cut::Truncated { at: 10, missing: 3 }));
    }
}
