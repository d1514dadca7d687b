//! The agents' nodes in one host's xenstore, and the locks that coordinators take there.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::AgentsError;
use rxl_agent_protocol::{AgentInfo, Command, Connection, MAX_CUT_CHUNKS, Stamp, State};
use rxl_agent_protocol::{path, unpack};
use rxl_core::boot::BootId;
use rxl_core::dom0;
use rxl_core::error::Exit;
use rxl_core::state_dir::{DomainLock, StateDir};
use rxl_core::text::one_line;
use rxl_host::announce;
use rxl_xenstore::Store;

/// Pause between two looks at a state in memory, which nobody watches.
const GLANCE: Duration = Duration::from_millis(5);

/// Longest pause between two looks at a state that is watched.
const WATCHED_GLANCE: Duration = Duration::from_secs(1);

/// A domain of a host, as far as its agent goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentGuest {
    /// The domain's number on its host.
    pub domid: u32,
    /// The domain's name in xenstore.
    pub name: String,
    /// What its agent says of itself, if there is one: an [`AgentInfo`].
    pub agent: Option<String>,
}

impl AgentGuest {
    /// What its agent says of itself; none where there is none, or none that can be understood.
    pub fn agent_info(&self) -> Option<AgentInfo> {
        self.agent.as_deref()?.parse().ok()
    }
}

/// What one coordinator alone may do on a host at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lock {
    /// Ask agents for their ranks.
    Survey,
    /// Command the agent of this domain.
    Agent(u32),
}

/// One host's nodes, and its locks. Calls block, so they are made on a thread of the host's own
/// ([`crate::host::AgentHost`]). All that comes from below `data/` is a guest's own word.
pub trait Nodes: Send {
    /// The boot that this host is in.
    fn boot(&mut self) -> Result<BootId, AgentsError>;

    /// The host's domains but dom0.
    fn guests(&mut self) -> Result<Vec<AgentGuest>, AgentsError>;

    /// Reads a node below a domain's directory.
    fn read(&mut self, domid: u32, node: &str) -> Result<Option<String>, AgentsError>;

    /// Writes a node below a domain's directory.
    fn write(&mut self, domid: u32, node: &str, value: &str) -> Result<(), AgentsError>;

    /// Takes a lock of this host's for as long as these nodes live, or until it is given back.
    /// False when another has it.
    fn lock(&mut self, lock: Lock) -> Result<bool, AgentsError>;

    /// Gives a lock back.
    fn unlock(&mut self, lock: Lock) -> Result<(), AgentsError>;

    /// Waits until this host's network forwards to a domain that has come here; tells whether it
    /// does at the deadline.
    fn reachable(&mut self, domid: u32, deadline: Duration) -> Result<bool, AgentsError>;

    /// The agent's state, as soon as it answers a command of this stamp. None when it has not at
    /// the deadline.
    fn wait(
        &mut self,
        domid: u32,
        stamp: Stamp,
        deadline: Duration,
    ) -> Result<Option<State>, AgentsError> {
        let until = Instant::now() + deadline;
        loop {
            let state = understood(self.read(domid, path::STATE)?, stamp);
            if state.is_some() || Instant::now() >= until {
                return Ok(state);
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Commands agents, all of them first, and waits for their answers: none from those that have
    /// not answered at the deadline.
    fn obey(
        &mut self,
        domids: &[u32],
        command: &Command,
        deadline: Duration,
    ) -> Result<Vec<Option<State>>, AgentsError> {
        let until = Instant::now() + deadline;
        let text = command.to_string();
        domids.iter().try_for_each(|domid| self.write(*domid, path::COMMAND, &text))?;
        let answer = |domid: &u32| {
            self.wait(*domid, command.stamp, until.saturating_duration_since(Instant::now()))
        };
        domids.iter().map(answer).collect()
    }

    /// The connections at the cut, as the agent has written them down in so many chunks.
    fn cut(&mut self, domid: u32, chunks: u32) -> Result<Vec<Connection>, AgentsError> {
        let mut connections = Vec::new();
        for n in 0..(chunks as usize).min(MAX_CUT_CHUNKS) {
            let node = path::cut(n);
            let chunk = self.read(domid, &node)?.unwrap_or_default();
            connections.extend(unpack(&chunk).map_err(|error| malformed(domid, node, &error))?);
        }
        Ok(connections)
    }
}

/// What a guest has written is not what its agent's protocol has there.
pub(crate) fn malformed(
    domid: u32,
    node: impl Into<String>,
    problem: &dyn std::fmt::Display,
) -> AgentsError {
    AgentsError::Malformed { domid, node: node.into(), problem: one_line(&problem.to_string()) }
}

/// The nodes of the host that this process runs on.
pub struct LocalNodes {
    store: Store,
    locks: Vec<(Lock, DomainLock)>,
}

impl LocalNodes {
    /// Connects to xenstore.
    pub fn connect() -> Result<Self, AgentsError> {
        dom0::check()?;
        Ok(Self { store: Store::connect()?, locks: Vec::new() })
    }
}

impl Nodes for LocalNodes {
    fn boot(&mut self) -> Result<BootId, AgentsError> {
        BootId::current().map_err(AgentsError::NoBootId)
    }

    fn guests(&mut self) -> Result<Vec<AgentGuest>, AgentsError> {
        let names = self.store.list("/local/domain")?;
        let domids =
            names.iter().filter_map(|name| name.parse().ok()).filter(|domid: &u32| *domid != 0);
        let guest = |domid| {
            let name = self.store.read(&below(domid, "name"))?.unwrap_or_default();
            let agent = self.store.read(&below(domid, path::AGENT))?;
            Ok(AgentGuest { domid, name, agent })
        };
        domids.map(guest).collect()
    }

    fn read(&mut self, domid: u32, node: &str) -> Result<Option<String>, AgentsError> {
        Ok(self.store.read(&below(domid, node))?)
    }

    fn write(&mut self, domid: u32, node: &str, value: &str) -> Result<(), AgentsError> {
        Ok(self.store.write(&below(domid, node), value)?)
    }

    fn lock(&mut self, lock: Lock) -> Result<bool, AgentsError> {
        let key = match lock {
            Lock::Survey => "survey".to_owned(),
            Lock::Agent(domid) => format!("agent-{domid}"),
        };
        match StateDir::system().lock(&key, &key) {
            Ok(held) => self.locks.push((lock, held)),
            Err(failure) if failure.exit == Exit::Busy => return Ok(false),
            Err(failure) => return Err(failure.into()),
        }
        Ok(true)
    }

    fn unlock(&mut self, lock: Lock) -> Result<(), AgentsError> {
        self.locks.retain(|(held, _)| *held != lock);
        Ok(())
    }

    /// By a watch: each look takes time of the host's processors, and of xenstored, which guests
    /// that have just moved need.
    fn wait(
        &mut self,
        domid: u32,
        stamp: Stamp,
        deadline: Duration,
    ) -> Result<Option<State>, AgentsError> {
        let until = Instant::now() + deadline;
        let path = below(domid, path::STATE);
        let watch = self.store.watch(&path)?;
        loop {
            let state = understood(self.store.read(&path)?, stamp);
            let left = until.saturating_duration_since(Instant::now());
            if state.is_some() || left.is_zero() {
                return Ok(state);
            }
            watch.wait(left.min(WATCHED_GLANCE));
        }
    }

    fn reachable(&mut self, domid: u32, deadline: Duration) -> Result<bool, AgentsError> {
        let vifs = announce::vifs(&self.store, domid)?;
        Ok(announce::reachable(&vifs, Instant::now() + deadline).is_ok())
    }
}

/// The state that answers a command of this stamp.
fn understood(state: Option<String>, stamp: Stamp) -> Option<State> {
    state?.parse().ok().filter(|state: &State| state.stamp == stamp)
}

fn below(domid: u32, node: &str) -> String {
    format!("/local/domain/{domid}/{node}")
}
