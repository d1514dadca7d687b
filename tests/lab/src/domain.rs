//! The domains of a host, as `xl list` tells of them.

use anyhow::{Context, Result};

/// A line of `xl list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// As in its configuration; `NAME--incoming` while it is being received.
    pub name: String,
    /// Its id on its host.
    pub domid: u32,
    /// xl's flags: running, blocked, paused, shut down, crashed, dying; `-` where not.
    pub state: String,
}

impl Domain {
    /// The domains that `xl list` printed.
    ///
    /// # Errors
    /// A line is no line of it.
    pub fn parse_list(list: &str) -> Result<Vec<Self>> {
        let parse = |line: &str| {
            let mut fields = line.split_ascii_whitespace();
            let (name, domid) = (fields.next()?.to_owned(), fields.next()?.parse().ok()?);
            Some(Self { name, domid, state: fields.nth(2)?.to_owned() })
        };
        list.lines()
            .skip(1)
            .map(|line| parse(line).with_context(|| format!("xl list: {line}")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_read_from_xl() {
        let list = "\
Name                                        ID   Mem VCPUs\tState\tTime(s)
Domain-0                                     0  1024     1     r-----     103.5
small--incoming                              2   128     1     --p---     131.1
";
        let domains = Domain::parse_list(list).unwrap();
        assert_eq!(domains.len(), 2);
        assert_eq!(
            domains[1],
            Domain { name: "small--incoming".to_owned(), domid: 2, state: "--p---".to_owned() }
        );
        assert!(Domain::parse_list("Name\nsomething else\n").is_err());
    }
}
