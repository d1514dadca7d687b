//! The common form of all values: words separated by single spaces, then `key=value`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::deadlines::LONGEST_SPAN;

/// Longest value of a node, in bytes. xenstored takes less than 2048 for a node with its
/// permissions and names.
pub const MAX_VALUE: usize = 1000;

/// A value that is not what its node is for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Longer than [`MAX_VALUE`] bytes.
    #[error("longer than {MAX_VALUE} bytes")]
    TooLong,
    /// Not printable ASCII, or spaces where none belong.
    #[error("not words of printable ASCII with single spaces between them")]
    NotText,
    /// The value ends before this word, or lacks this field.
    #[error("no {0}")]
    Missing(&'static str),
    /// This word or field is not what it should be, or out of its bounds.
    #[error("bad {0}")]
    Bad(&'static str),
    /// Words follow that do not belong there.
    #[error("more than expected")]
    Surplus,
}

/// The parts of one value: words are taken from the front, then fields by name.
pub(crate) struct Fields<'a> {
    rest: Vec<&'a str>,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(value: &'a str) -> Result<Self, Malformed> {
        if value.len() > MAX_VALUE {
            return Err(Malformed::TooLong);
        }
        if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(Malformed::NotText);
        }
        let mut rest: Vec<_> = value.split(' ').collect();
        if rest.iter().any(|word| word.is_empty()) {
            return Err(Malformed::NotText);
        }
        rest.reverse();
        Ok(Self { rest })
    }

    /// Splits `value` before its field `key`, whose value is then all that follows, spaces
    /// included.
    pub(crate) fn split_tail(value: &'a str, key: &str) -> (&'a str, Option<&'a str>) {
        match value.split_once(&format!(" {key}=")) {
            Some((front, tail)) => (front, Some(tail)),
            None => (value, None),
        }
    }

    pub(crate) fn word(&mut self, what: &'static str) -> Result<&'a str, Malformed> {
        self.rest.pop().ok_or(Malformed::Missing(what))
    }

    pub(crate) fn number<T: Number>(&mut self, what: &'static str) -> Result<T, Malformed> {
        T::parse(self.word(what)?).ok_or(Malformed::Bad(what))
    }

    /// The value of the field `key`, if there is one.
    pub(crate) fn optional(&mut self, key: &str) -> Option<&'a str> {
        let value = |word: &&'a str| {
            word.split_once('=').filter(|(name, _)| *name == key).map(|(_, value)| value)
        };
        let at = self.rest.iter().rposition(|word| value(word).is_some())?;
        let word = self.rest.remove(at);
        value(&word)
    }

    pub(crate) fn field(&mut self, key: &'static str) -> Result<&'a str, Malformed> {
        self.optional(key).ok_or(Malformed::Missing(key))
    }

    pub(crate) fn number_field<T: Number>(&mut self, key: &'static str) -> Result<T, Malformed> {
        T::parse(self.field(key)?).ok_or(Malformed::Bad(key))
    }

    pub(crate) fn parsed<T: FromStr>(&mut self, key: &'static str) -> Result<T, Malformed> {
        self.field(key)?.parse().map_err(|_| Malformed::Bad(key))
    }

    /// The flag `key`: 0 or 1.
    pub(crate) fn flag(&mut self, key: &'static str) -> Result<bool, Malformed> {
        match self.field(key)? {
            "0" => Ok(false),
            "1" => Ok(true),
            _ => Err(Malformed::Bad(key)),
        }
    }

    /// A span in milliseconds, within these bounds.
    pub(crate) fn millis(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<Duration>,
    ) -> Result<Duration, Malformed> {
        let span = Duration::from_millis(self.number_field(key)?);
        if bounds.contains(&span) { Ok(span) } else { Err(Malformed::Bad(key)) }
    }

    /// A span in microseconds, at most [`LONGEST_SPAN`].
    pub(crate) fn micros(&mut self, key: &'static str) -> Result<Duration, Malformed> {
        let span = Duration::from_micros(self.number_field(key)?);
        if span <= LONGEST_SPAN { Ok(span) } else { Err(Malformed::Bad(key)) }
    }

    /// Refuses what was not taken.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Surplus) }
    }
}

/// Whole microseconds, at most [`LONGEST_SPAN`], as [`Fields::micros`] reads them.
pub(crate) fn micros(span: Duration) -> u128 {
    span.min(LONGEST_SPAN).as_micros()
}

/// `1` or `0`, as [`Fields::flag`] reads them.
pub(crate) fn flag(flag: bool) -> u8 {
    u8::from(flag)
}

/// Unsigned decimal numbers without sign or leading zeroes, so that a value has one spelling.
pub(crate) trait Number: Sized + FromStr + fmt::Display {
    fn parse(word: &str) -> Option<Self> {
        let number: Self = word.parse().ok()?;
        (number.to_string() == word).then_some(number)
    }
}

impl Number for u32 {}
impl Number for u64 {}
