//! Which lab a scenario runs in: a fresh one, or one in which others have run.

use std::path::Path;

use anyhow::Result;
use rxl_lab::Node;

use crate::cluster::Cluster;

/// Checks one fact on Xen.
pub struct Scenario {
    /// `module::function`, which documents refer to.
    pub name: &'static str,
    pub run: fn(&Cluster) -> Result<()>,
    pub needs: Needs,
    /// Left to `make test-long`.
    pub long: bool,
}

/// The hosts that a scenario starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Two hosts at the snapshot. For whatever changes them for good.
    FreshPair,
    /// Two hosts with the snapshot's guests where the snapshot has them, and nothing left of a
    /// migration. Others may have run there: a fault that shows in the second is a fault.
    SharedPair,
    /// The same with `small` on either: the scenario looks.
    SharedAnywhere,
    /// Three hosts at the snapshot.
    ThreeHosts,
}

/// The guests that have to be on nodeA and on nodeB where a lab is shared.
const GUESTS: [&[&str]; 2] = [&["dom3", "small"], &["dom4"]];

impl Scenario {
    pub const fn of(name: &'static str, run: fn(&Cluster) -> Result<()>, needs: Needs) -> Self {
        Self { name, run, needs, long: false }
    }

    pub const fn fresh(name: &'static str, run: fn(&Cluster) -> Result<()>) -> Self {
        Self::of(name, run, Needs::FreshPair)
    }

    pub const fn shared(name: &'static str, run: fn(&Cluster) -> Result<()>) -> Self {
        Self::of(name, run, Needs::SharedPair)
    }

    pub const fn anywhere(name: &'static str, run: fn(&Cluster) -> Result<()>) -> Self {
        Self::of(name, run, Needs::SharedAnywhere)
    }

    pub const fn long(self) -> Self {
        Self { long: true, ..self }
    }
}

impl Needs {
    fn nodes(self) -> &'static [Node] {
        if self == Self::ThreeHosts { &Node::THREE } else { &Node::PAIR }
    }

    /// Whether hosts that served `other` may serve this, as far as their guests are in place. Those
    /// with MPI jobs do not: an agent keeps the end of its last epoch.
    fn shares_with(self, other: Self) -> bool {
        let of_small = |needs| matches!(needs, Self::SharedPair | Self::SharedAnywhere);
        of_small(self) && of_small(other)
    }

    fn are_met_by(self, cluster: &Cluster) -> Result<bool> {
        if self == Self::SharedAnywhere {
            return Ok(true);
        }
        for (node, wanted) in Node::PAIR.into_iter().zip(GUESTS) {
            let mut there: Vec<String> =
                cluster.lab.domains(node)?.into_iter().map(|domain| domain.name).collect();
            there.retain(|name| name != "Domain-0");
            there.sort();
            if there != wanted {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The lab that the last scenario has left in order, if it has.
#[derive(Default)]
pub struct Labs {
    kept: Option<(Needs, Cluster)>,
}

impl Labs {
    /// A lab for these needs: the kept one where it serves, else a fresh one.
    pub fn take(&mut self, needs: Needs) -> Result<Cluster> {
        if let Some((served, cluster)) = self.kept.take()
            && needs.shares_with(served)
            && needs.are_met_by(&cluster).unwrap_or(false)
        {
            return Ok(cluster);
        }
        Cluster::up(needs.nodes(), &programs())
    }

    /// Keeps the lab of a scenario that has passed.
    pub fn give_back(&mut self, needs: Needs, cluster: Cluster) {
        self.kept = Some((needs, cluster));
    }
}

/// What is installed on every host. Cargo builds both for this test.
fn programs() -> [&'static Path; 2] {
    [Path::new(env!("CARGO_BIN_EXE_rxl")), Path::new(env!("CARGO_BIN_EXE_rxl-save-helper"))]
}
