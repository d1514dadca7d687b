//! The domains of a job.

use std::time::Instant;

use crate::host::AgentHost;
use rxl_report::mpi::MpiDomain;

/// A domain of the first host that is to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mover {
    /// The domain's number on the first host.
    pub domid: u32,
    /// The domain's target: an index into the hosts.
    pub to: usize,
}

/// A domain of the job.
#[derive(Clone, Debug)]
pub(crate) struct JobMember {
    /// Where it runs: an index into the hosts.
    pub(crate) host: usize,
    pub(crate) domid: u32,
    /// Its name, fit for one line.
    pub(crate) name: String,
    pub(crate) ranks: Vec<u32>,
    /// Its target, if it is to move: an index into the hosts.
    pub(crate) to: Option<usize>,
    /// It is suspended, on its way.
    pub(crate) away: bool,
    /// When its target has said that it runs there.
    pub(crate) arrived: Option<Instant>,
}

impl JobMember {
    /// The domain as the report has it.
    pub(crate) fn describe(&self, hosts: &[AgentHost]) -> MpiDomain {
        let host = hosts.get(self.host).map_or_else(String::new, |host| host.name.clone());
        MpiDomain { name: self.name.clone(), host, ranks: self.ranks.clone() }
    }
}
