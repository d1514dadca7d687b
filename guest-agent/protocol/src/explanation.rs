//! Why processes are ranks or are none, in lines for people.

use crate::fields::{MAX_VALUE, Malformed};

/// Most lines of an explanation.
pub const MAX_EXPLANATION: usize = 32;

/// Longest such line, in bytes.
pub const MAX_EXPLANATION_LINE: usize = 255;

/// Most nodes `data/rxl/explain/N`: three of the longest lines fit into one.
pub const MAX_EXPLANATION_CHUNKS: usize = MAX_EXPLANATION.div_ceil(3);

/// Values for the nodes `data/rxl/explain/N`. Of too many lines the last are left out. Characters
/// that are not printable ASCII become `?`, and a long line loses its end.
pub fn pack_explanation(lines: &[String]) -> Vec<String> {
    let mut chunks: Vec<String> = Vec::new();
    for line in lines.iter().take(MAX_EXPLANATION) {
        let printable = |c: char| if (' '..='~').contains(&c) { c } else { '?' };
        let line: String = line.chars().take(MAX_EXPLANATION_LINE).map(printable).collect();
        match chunks.last_mut() {
            Some(chunk) if chunk.len() + 1 + line.len() <= MAX_VALUE => {
                chunk.push('\n');
                chunk.push_str(&line);
            }
            _ => chunks.push(line),
        }
    }
    chunks
}

/// The lines in one node `data/rxl/explain/N`.
pub fn unpack_explanation(chunk: &str) -> Result<Vec<String>, Malformed> {
    if chunk.len() > MAX_VALUE {
        return Err(Malformed::TooLong);
    }
    let is_line = |line: &str| {
        line.len() <= MAX_EXPLANATION_LINE && line.bytes().all(|byte| (b' '..=b'~').contains(&byte))
    };
    let lines: Vec<_> = chunk.split('\n').map(str::to_owned).collect();
    if lines.len() <= MAX_EXPLANATION && lines.iter().all(|line| is_line(line)) {
        Ok(lines)
    } else {
        Err(Malformed::NotText)
    }
}
