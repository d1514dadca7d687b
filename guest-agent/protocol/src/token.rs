//! Names that come from elsewhere, made safe to print and to put into a value.

use std::fmt;
use std::str::FromStr;

use crate::fields::Malformed;

/// Longest [`Token`], in bytes.
pub const MAX_TOKEN: usize = 128;

/// A name, such as a job's id, a version or a boot id: 1 to [`MAX_TOKEN`] bytes of `A-Za-z0-9` and
/// `.:@/+_-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(String);

impl Token {
    /// Makes a token of any text. Other characters become `_`. A text that is too long loses its
    /// front, since such names differ at their ends. An empty text becomes `-`.
    pub fn from_text(text: &str) -> Self {
        let mut kept: Vec<char> =
            text.chars().rev().take(MAX_TOKEN).map(|c| if allowed(c) { c } else { '_' }).collect();
        kept.reverse();
        if kept.is_empty() { Self("-".into()) } else { Self(kept.into_iter().collect()) }
    }

    /// The token's bytes, which are ASCII.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let good = (1..=MAX_TOKEN).contains(&text.len()) && text.chars().all(allowed);
        if good { Ok(Self(text.into())) } else { Err(Malformed::Bad("name")) }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || ".:@/+_-".contains(c)
}
