//! Names and addresses. The image recipes in `images/files/` hold the same ones.

use std::fmt;

use anyhow::{Context, Result};

/// TCP port of the guests' memcheck.
pub const MEMCHECK_PORT: u16 = 7000;

/// One of the nested Xen hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// 10.77.0.1; in the golden snapshot it runs `small` and `dom3`.
    A,
    /// 10.77.0.2; in the golden snapshot it runs `dom4`.
    B,
    /// 10.77.0.3; in labs that ask for it ([`Node::THREE`]), and without guests.
    C,
}

impl Node {
    /// The hosts that every lab has, in order.
    pub const PAIR: [Self; 2] = [Self::A, Self::B];

    /// All hosts, in order.
    pub const THREE: [Self; 3] = [Self::A, Self::B, Self::C];

    /// The host's name, by which the hosts and guests know it too.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "nodeA",
            Self::B => "nodeB",
            Self::C => "nodeC",
        }
    }

    /// The host's address on the lab's network.
    pub fn ip(self) -> &'static str {
        match self {
            Self::A => "10.77.0.1",
            Self::B => "10.77.0.2",
            Self::C => "10.77.0.3",
        }
    }

    /// 1, 2 or 3: the last part of every address of the host.
    pub fn number(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
            Self::C => 3,
        }
    }

    /// The host of the pair that this one is not.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B | Self::C => Self::A,
        }
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.number() - 1)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A domain for which all hosts have `/etc/xen/NAME.cfg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The domain's name.
    pub name: &'static str,
    /// Its address, whichever host it runs on.
    pub ip: &'static str,
    /// Whether it runs sshd.
    pub ssh: bool,
    /// Where it runs in the golden snapshot, if it does.
    pub home: Option<Node>,
}

/// All domains that the lab has a configuration for, in the order in which they are started: small
/// does not rest, and what boots beside it has a third of the processor.
pub const GUESTS: [Guest; 5] = [
    Guest { name: "dom3", ip: "10.77.0.13", ssh: true, home: Some(Node::A) },
    Guest { name: "small", ip: "10.77.0.20", ssh: false, home: Some(Node::A) },
    Guest { name: "dom4", ip: "10.77.0.14", ssh: true, home: Some(Node::B) },
    Guest { name: "small-pv", ip: "10.77.0.21", ssh: false, home: None },
    Guest { name: "small-hvm", ip: "10.77.0.22", ssh: false, home: None },
];

/// Looks a guest up by its domain's name.
///
/// # Errors
/// The lab has no such guest.
pub fn guest(name: &str) -> Result<Guest> {
    GUESTS
        .into_iter()
        .find(|guest| guest.name == name)
        .with_context(|| format!("the lab has no guest {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn recipe(path: &str) -> String {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("images/files").join(path))
            .unwrap()
    }

    #[test]
    fn the_images_use_the_same_addresses() {
        let hosts = recipe("hosts");
        let nodes = Node::THREE.map(|node| (node.name(), node.ip()));
        for (name, ip) in nodes.into_iter().chain(GUESTS.map(|guest| (guest.name, guest.ip))) {
            assert!(hosts.lines().any(|line| line == format!("{ip} {name}")), "{name}");
        }
        for guest in GUESTS {
            let config = recipe(&format!("dom0/etc/xen/{}.cfg", guest.name));
            assert!(config.contains(&format!("name = \"{}\"", guest.name)));
            assert!(config.contains(&format!("lab.ip={}", guest.ip)));
        }
    }

    #[test]
    fn nodes_differ_from_each_other() {
        for node in Node::THREE {
            assert_ne!(node.other(), node);
            assert_eq!(Node::THREE[node.index()], node);
        }
    }
}
