//! One JSON value a line, over any reader and writer.
//!
//! Lines come from other processes, and some of those are on other hosts. So each protocol states
//! its longest line: a longer one is refused before it is stored, and is never sent.

use std::io::{self, BufRead, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a line was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum JsonLineError {
    /// The connection failed, was cancelled, or nothing moved on it in time.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The line is longer than its protocol allows.
    #[error("a line is longer than {longest} bytes")]
    TooLong {
        /// The protocol's longest line, without its newline.
        longest: usize,
    },
    /// The connection ended before the line did.
    #[error("the connection ended in the middle of a line")]
    Cut,
    /// The line is no JSON, or JSON of another protocol.
    #[error("a line that cannot be understood: {0}")]
    Json(#[source] serde_json::Error),
}

/// A protocol of JSON lines of bounded length.
#[derive(Clone, Copy, Debug)]
pub struct JsonLines {
    longest: usize,
}

impl JsonLines {
    /// A protocol whose lines have at most so many bytes, without the newline.
    pub const fn up_to(longest: usize) -> Self {
        Self { longest }
    }

    /// The longest line in bytes, without its newline.
    pub const fn longest(self) -> usize {
        self.longest
    }

    /// Writes one line and flushes it.
    pub fn write(
        self,
        output: &mut impl Write,
        value: &impl Serialize,
    ) -> Result<(), JsonLineError> {
        output.write_all(&self.encode(value)?)?;
        Ok(output.flush()?)
    }

    /// The bytes of one line, newline included, for those who send them by other means.
    pub fn encode(self, value: &impl Serialize) -> Result<Vec<u8>, JsonLineError> {
        let mut line = serde_json::to_vec(value).map_err(JsonLineError::Json)?;
        if line.len() > self.longest {
            return Err(JsonLineError::TooLong { longest: self.longest });
        }
        line.push(b'\n');
        Ok(line)
    }

    /// Reads one line. None when the input ended before it began.
    pub fn read<T: DeserializeOwned>(
        self,
        input: &mut impl BufRead,
    ) -> Result<Option<T>, JsonLineError> {
        let mut line = Vec::new();
        let most = u64::try_from(self.longest).unwrap_or(u64::MAX).saturating_add(1);
        input.take(most).read_until(b'\n', &mut line)?;
        self.decode(&line)
    }

    /// Understands what has been read up to and including a newline. None when that is nothing.
    pub fn decode<T: DeserializeOwned>(self, line: &[u8]) -> Result<Option<T>, JsonLineError> {
        match line.split_last() {
            None => Ok(None),
            Some((b'\n', text)) => serde_json::from_slice(text).map_err(JsonLineError::Json),
            Some(_) if line.len() > self.longest => {
                Err(JsonLineError::TooLong { longest: self.longest })
            }
            Some(_) => Err(JsonLineError::Cut),
        }
    }
}

/// For callers whose other failures are all I/O.
impl From<JsonLineError> for io::Error {
    fn from(error: JsonLineError) -> Self {
        match error {
            JsonLineError::Io(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: JsonLines = JsonLines::up_to(8);

    fn read(text: &str) -> Result<Option<u32>, JsonLineError> {
        LINES.read(&mut text.as_bytes())
    }

    #[test]
    fn values_are_read_as_they_were_written() {
        let mut wire = Vec::new();
        LINES.write(&mut wire, &12_345_678).unwrap();
        LINES.write(&mut wire, &7).unwrap();
        assert_eq!(wire, b"12345678\n7\n");
        let mut input = wire.as_slice();
        assert_eq!(LINES.read(&mut input).unwrap(), Some(12_345_678));
        assert_eq!(LINES.read(&mut input).unwrap(), Some(7));
        assert_eq!(LINES.read::<u32>(&mut input).unwrap(), None, "the end");
    }

    #[test]
    fn each_kind_of_bad_line_has_its_error() {
        assert!(matches!(read("123456789\n"), Err(JsonLineError::TooLong { longest: 8 })));
        assert!(matches!(read("12345678"), Err(JsonLineError::Cut)), "as long as may be");
        assert!(matches!(read("1"), Err(JsonLineError::Cut)));
        assert!(matches!(read("one\n"), Err(JsonLineError::Json(_))));
        assert!(matches!(read("\n"), Err(JsonLineError::Json(_))));
        assert!(matches!(LINES.encode(&"too long"), Err(JsonLineError::TooLong { longest: 8 })));
    }

    /// A peer that never ends its line costs no more memory than the longest line.
    #[test]
    fn an_endless_line_is_left_unread() {
        let mut input = io::BufReader::with_capacity(4, io::repeat(b'['));
        assert!(matches!(
            LINES.read::<u32>(&mut input),
            Err(JsonLineError::TooLong { longest: 8 })
        ));
    }

    #[test]
    fn as_an_io_error_it_keeps_its_words() {
        let error = io::Error::from(read("1").unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(error.to_string(), "the connection ended in the middle of a line");
        let error = JsonLineError::from(io::Error::from(io::ErrorKind::TimedOut));
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
    }
}
