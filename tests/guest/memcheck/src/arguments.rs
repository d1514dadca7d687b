//! The command line.

use std::time::Duration;

use crate::pattern::Pattern;

const PAGES_PER_MIB: usize = 256;
const LARGEST_SIZE_MIB: usize = 1 << 20;

/// What is done to memory, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Pages of 4096 bytes that are filled and checked.
    pub pages: usize,
    /// Pages that get a new generation, a second.
    pub dirty_rate: u64,
    /// Pages that are compared, a second, beside those about to be rewritten.
    pub verify_rate: u64,
    /// What the pages hold.
    pub pattern: Pattern,
}

/// The parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    /// The load on memory.
    pub load: Load,
    /// Time between two looks at the clocks. Each wakes the guest up, which costs nested guests
    /// dearly.
    pub tick: Duration,
    /// `ADDRESS:PORT` of the status service.
    pub listen: String,
}

impl Arguments {
    /// Parses `--NAME=VALUE` words.
    ///
    /// # Errors
    /// A word of another form, an unknown name, or a value out of range.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self {
            load: Load {
                pages: 16 * PAGES_PER_MIB,
                dirty_rate: 100,
                verify_rate: 1000,
                pattern: Pattern { seed: 1, entropy: 50 },
            },
            tick: Duration::from_millis(10),
            listen: "0.0.0.0:7000".to_owned(),
        };
        for word in words {
            let (name, value) =
                word.split_once('=').ok_or_else(|| format!("{word}: expected --NAME=VALUE"))?;
            parsed.set(name, value)?;
        }
        Ok(parsed)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let load = &mut self.load;
        match name {
            "--size" => {
                load.pages =
                    number(name, value, 1, LARGEST_SIZE_MIB as u64)? as usize * PAGES_PER_MIB
            }
            "--rate" => load.dirty_rate = number(name, value, 0, 10_000_000)?,
            "--verify-rate" => load.verify_rate = number(name, value, 1, 10_000_000)?,
            "--entropy" => load.pattern.entropy = number(name, value, 0, 100)? as usize,
            "--seed" => load.pattern.seed = number(name, value, 0, u64::MAX)?,
            "--tick" => self.tick = Duration::from_millis(number(name, value, 1, 10_000)?),
            "--listen" => value.clone_into(&mut self.listen),
            _ => return Err(format!("{name}: unknown option")),
        }
        Ok(())
    }
}

fn number(name: &str, value: &str, least: u64, most: u64) -> Result<u64, String> {
    match value.parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("{name}={value}: expected a number from {least} to {most}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, String> {
        Arguments::parse(words.iter().map(|&word| word.to_owned()))
    }

    #[test]
    fn sizes_are_in_mebibytes() {
        let parsed = parse(&["--size=24", "--rate=0", "--entropy=100"]).unwrap();
        assert_eq!(parsed.load.pages, 24 * 256);
        assert_eq!(parsed.load.dirty_rate, 0);
        assert_eq!(parsed.load.pattern.entropy, 100);
    }

    #[test]
    fn nonsense_is_refused() {
        for words in ["--size=0", "--entropy=101", "--rate=-1", "--colour=red", "size"] {
            assert!(parse(&[words]).is_err(), "{words}");
        }
    }
}
