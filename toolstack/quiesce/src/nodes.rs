//! The agents' nodes in one host's xenstore.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use rxl_agent_protocol::{
    AgentInfo, Command, Connection, JobRow, Lease, MAX_CUT_CHUNKS, MAX_JOB_ROWS, Stamp, State,
};
use rxl_agent_protocol::{path, unpack};
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
pub struct Guest {
    /// Its number.
    pub domid: u32,
    /// Its name.
    pub name: String,
    /// What its agent says of itself, if there is one: an [`AgentInfo`].
    pub agent: Option<String>,
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

/// One host's nodes, and its locks. Errors are one line. All that comes from below `data/` is a
/// guest's own word.
pub trait Nodes: Send {
    /// Its domains but dom0.
    fn guests(&mut self) -> Result<Vec<Guest>, String>;

    /// A node below a domain's directory.
    fn read(&mut self, domid: u32, node: &str) -> Result<Option<String>, String>;

    /// Writes one.
    fn write(&mut self, domid: u32, node: &str, value: &str) -> Result<(), String>;

    /// Takes a lock of this host's for as long as these nodes live, or until it is given back.
    /// False when another has it.
    fn lock(&mut self, lock: Lock) -> Result<bool, String>;

    /// Gives a lock back.
    fn unlock(&mut self, lock: Lock) -> Result<(), String>;

    /// Lets the other end know that this one is there, where there is another end.
    fn greet(&mut self) -> Result<(), String>;

    /// Waits until this host's network forwards to a domain that has come here; tells whether it
    /// does by then.
    fn reachable(&mut self, domid: u32, patience: Duration) -> Result<bool, String>;

    /// The agent's state, as soon as it answers a command of this stamp. None when it has not by
    /// then.
    fn wait(
        &mut self,
        domid: u32,
        stamp: Stamp,
        patience: Duration,
    ) -> Result<Option<State>, String> {
        let deadline = Instant::now() + patience;
        loop {
            let state = self.state(domid)?.filter(|state| state.stamp == stamp);
            if state.is_some() || Instant::now() >= deadline {
                return Ok(state);
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// The agent's state, if it has one that can be understood.
    fn state(&mut self, domid: u32) -> Result<Option<State>, String> {
        Ok(understood(self.read(domid, path::STATE)?))
    }

    /// Tells agents something, all of them first, and waits for their answers: none from those that
    /// have not answered by then.
    fn obey(
        &mut self,
        domids: &[u32],
        command: &Command,
        patience: Duration,
    ) -> Result<Vec<Option<State>>, String> {
        let deadline = Instant::now() + patience;
        domids.iter().try_for_each(|domid| self.command(*domid, command))?;
        let answer = |domid: &u32| {
            self.wait(*domid, command.stamp, deadline.saturating_duration_since(Instant::now()))
        };
        domids.iter().map(answer).collect()
    }

    /// Tells the agent something.
    fn command(&mut self, domid: u32, command: &Command) -> Result<(), String> {
        self.write(domid, path::COMMAND, &command.to_string())
    }

    /// Renews the agent's lease.
    fn renew(&mut self, domid: u32, lease: &Lease) -> Result<(), String> {
        self.write(domid, path::LEASE, &lease.to_string())
    }

    /// The ranks that the agent has found.
    fn jobs(&mut self, domid: u32) -> Result<Vec<JobRow>, String> {
        let count = self.read(domid, path::JOBS)?.and_then(|count| count.parse().ok()).unwrap_or(0);
        let mut rows = Vec::new();
        for n in 0..count.min(MAX_JOB_ROWS) {
            let row = self.read(domid, &path::job(n))?.unwrap_or_default();
            let parsed =
                row.parse().map_err(|error| format!("domain {domid}: {}: {error}", path::job(n)));
            rows.push(parsed.map_err(|line| one_line(&line))?);
        }
        Ok(rows)
    }

    /// The connections at the cut.
    fn cut(&mut self, domid: u32, chunks: u32) -> Result<Vec<Connection>, String> {
        let mut connections = Vec::new();
        for n in 0..(chunks as usize).min(MAX_CUT_CHUNKS) {
            let chunk = self.read(domid, &path::cut(n))?.unwrap_or_default();
            let parsed = unpack(&chunk)
                .map_err(|error| one_line(&format!("domain {domid}: {}: {error}", path::cut(n))));
            connections.extend(parsed?);
        }
        Ok(connections)
    }
}

impl Guest {
    /// What its agent says of itself; none where there is none, or none that can be understood.
    pub fn agent_info(&self) -> Option<AgentInfo> {
        self.agent.as_deref()?.parse().ok()
    }
}

/// This host's.
pub struct LocalNodes {
    store: Store,
    locks: Vec<(Lock, DomainLock)>,
}

impl LocalNodes {
    /// Connects to xenstore.
    pub fn connect() -> Result<Self, String> {
        dom0::check().map_err(|not_dom0| not_dom0.to_string())?;
        Store::connect()
            .map(|store| Self { store, locks: Vec::new() })
            .map_err(|error| error.to_string())
    }

    fn get(&self, path: &str) -> Result<Option<String>, String> {
        self.store.read(path).map_err(|failure| failure.to_string())
    }
}

impl Nodes for LocalNodes {
    fn guests(&mut self) -> Result<Vec<Guest>, String> {
        let names = self.store.list("/local/domain").map_err(|failure| failure.to_string())?;
        let domids =
            names.iter().filter_map(|name| name.parse().ok()).filter(|domid: &u32| *domid != 0);
        let guest = |domid| {
            let name = self.get(&format!("/local/domain/{domid}/name"))?.unwrap_or_default();
            let agent = self.get(&below(domid, path::AGENT))?;
            Ok(Guest { domid, name, agent })
        };
        domids.map(guest).collect()
    }

    fn read(&mut self, domid: u32, node: &str) -> Result<Option<String>, String> {
        self.get(&below(domid, node))
    }

    fn write(&mut self, domid: u32, node: &str, value: &str) -> Result<(), String> {
        self.store.write(&below(domid, node), value).map_err(|failure| failure.to_string())
    }

    fn lock(&mut self, lock: Lock) -> Result<bool, String> {
        let key = match lock {
            Lock::Survey => "survey".to_owned(),
            Lock::Agent(domid) => format!("agent-{domid}"),
        };
        match StateDir::system().lock(&key, &key) {
            Ok(held) => self.locks.push((lock, held)),
            Err(failure) if failure.exit == Exit::Busy => return Ok(false),
            Err(failure) => return Err(failure.to_string()),
        }
        Ok(true)
    }

    fn unlock(&mut self, lock: Lock) -> Result<(), String> {
        self.locks.retain(|(held, _)| *held != lock);
        Ok(())
    }

    fn greet(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// By a watch: each look takes time of the host's processors, and of xenstored, which guests
    /// that have just moved need.
    fn wait(
        &mut self,
        domid: u32,
        stamp: Stamp,
        patience: Duration,
    ) -> Result<Option<State>, String> {
        let deadline = Instant::now() + patience;
        let path = below(domid, path::STATE);
        let watch = self.store.watch(&path).map_err(|failure| failure.to_string())?;
        loop {
            let state = understood(self.get(&path)?).filter(|state| state.stamp == stamp);
            let left = deadline.saturating_duration_since(Instant::now());
            if state.is_some() || left.is_zero() {
                return Ok(state);
            }
            watch.wait(left.min(WATCHED_GLANCE));
        }
    }

    fn reachable(&mut self, domid: u32, patience: Duration) -> Result<bool, String> {
        let vifs = announce::vifs(&self.store, domid).map_err(|failure| failure.to_string())?;
        Ok(announce::reachable(&vifs, Instant::now() + patience).is_ok())
    }
}

fn understood(state: Option<String>) -> Option<State> {
    state?.parse().ok()
}

fn below(domid: u32, node: &str) -> String {
    format!("/local/domain/{domid}/{node}")
}
