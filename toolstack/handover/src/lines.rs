//! The lines of a record's file: JSON, each with its checksum in front.
//!
//! A line that was torn by a loss of power fails its checksum, and counts as not written: nothing
//! has followed from it, as its writer was still waiting for the disk.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Hexadecimal digits of a checksum, and the space behind it.
const PREFIX: usize = 9;

/// One line, newline included.
pub fn encode(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_string(value)?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes())
}

/// The first line, and how many bytes it takes. None where there is no whole and right one.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, usize)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let (sum, json) = (line.get(..PREFIX)?, line.get(PREFIX..)?);
    if u32::from_str_radix(sum.trim_end(), 16).ok()? != crc32fast::hash(json.as_bytes()) {
        return None;
    }
    Some((serde_json::from_str(json).ok()?, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back_and_a_torn_or_changed_one_does_not() {
        let line = encode(&vec!["committing"]).unwrap();
        let (back, length): (Vec<String>, usize) = decode(&line).unwrap();
        assert_eq!((back, length), (vec!["committing".to_owned()], line.len()));
        for cut in 0..line.len() {
            assert!(decode::<Vec<String>>(&line[..cut]).is_none(), "{cut}");
        }
        for changed in 0..line.len() {
            let mut line = line.clone();
            line[changed] ^= 1;
            assert!(decode::<Vec<String>>(&line).is_none(), "{changed}");
        }
        assert!(decode::<Vec<String>>(&[0; 64]).is_none());
    }
}
