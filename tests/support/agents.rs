//! Agents that do as they are told, for a coordinator in the test's own process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rxl_agent_protocol::{
    Command, Connection, Finished, Flushed, Freezer, Frozen, PROTOCOL_VERSION, Ready, Reason,
    Stamp, State, Status, Thawed, Verb, pack, path,
};
use rxl_core::boot::BootId;
use rxl_quiesce::error::AgentsError;
use rxl_quiesce::host::AgentHost;
use rxl_quiesce::nodes::{AgentGuest, Lock, Nodes};
use rxl_testkit::locks::MemoryLocks;

/// The agent of one domain.
#[derive(Default)]
struct Agent {
    name: String,
    rank: usize,
    nodes: BTreeMap<String, String>,
    heard: Vec<String>,
    frozen: bool,
}

/// A host's, by domid. At a target a domain's agent is there, frozen, as soon as somebody waits for
/// it.
#[derive(Clone, Default)]
pub struct Agents {
    all: Arc<Mutex<BTreeMap<u32, Agent>>>,
    locks: MemoryLocks,
    is_target: bool,
    vetoes: bool,
}

impl Agents {
    /// At the source: rank N in the Nth domain.
    pub fn at_source(domains: &[(u32, &str)], vetoes: bool) -> Self {
        let agents = Self { vetoes, ..Self::default() };
        for (rank, (domid, name)) in domains.iter().enumerate() {
            let info = format!("version=1 protocol={PROTOCOL_VERSION} pid=1 boot=b freezer=cgroup");
            let nodes = BTreeMap::from([(path::AGENT.to_owned(), info)]);
            agents
                .agents()
                .insert(*domid, Agent { name: (*name).into(), rank, nodes, ..Agent::default() });
        }
        agents
    }

    /// At a target.
    pub fn at_target() -> Self {
        Self { is_target: true, ..Self::default() }
    }

    /// For a coordinator.
    pub fn host(&self, name: &str) -> AgentHost {
        AgentHost::local(name, Box::new(self.clone())).unwrap()
    }

    /// What a domain's has heard.
    pub fn heard(&self, domid: u32) -> String {
        self.agents().get(&domid).map_or_else(String::new, |agent| agent.heard.join(" "))
    }

    /// Whether a domain's ranks stand still.
    pub fn is_frozen(&self, domid: u32) -> bool {
        self.agents().get(&domid).is_some_and(|agent| agent.frozen)
    }

    fn agents(&self) -> MutexGuard<'_, BTreeMap<u32, Agent>> {
        self.all.lock().unwrap()
    }
}

impl Nodes for Agents {
    fn boot(&mut self) -> Result<BootId, AgentsError> {
        self.locks.boot()
    }

    fn guests(&mut self) -> Result<Vec<AgentGuest>, AgentsError> {
        let guest = |(domid, agent): (&u32, &Agent)| AgentGuest {
            domid: *domid,
            name: agent.name.clone(),
            agent: agent.nodes.get(path::AGENT).cloned(),
        };
        Ok(self.agents().iter().map(guest).collect())
    }

    fn read(&mut self, domid: u32, node: &str) -> Result<Option<String>, AgentsError> {
        Ok(self.agents().get(&domid).and_then(|agent| agent.nodes.get(node).cloned()))
    }

    fn write(&mut self, domid: u32, node: &str, value: &str) -> Result<(), AgentsError> {
        let vetoes = self.vetoes;
        if node == path::COMMAND {
            self.agents()
                .get_mut(&domid)
                .ok_or(AgentsError::ForeignNode)?
                .obey(&value.parse().unwrap(), vetoes);
        }
        Ok(())
    }

    fn lock(&mut self, lock: Lock) -> Result<bool, AgentsError> {
        Ok(self.locks.take(lock))
    }

    fn unlock(&mut self, lock: Lock) -> Result<(), AgentsError> {
        self.locks.give_back(lock);
        Ok(())
    }

    fn reachable(&mut self, _domid: u32, _deadline: Duration) -> Result<bool, AgentsError> {
        Ok(true)
    }

    fn wait(
        &mut self,
        domid: u32,
        stamp: Stamp,
        _deadline: Duration,
    ) -> Result<Option<State>, AgentsError> {
        let is_new = self.is_target && !self.agents().contains_key(&domid);
        if is_new {
            let mut agent = Agent { frozen: true, ..Agent::default() };
            agent.say(stamp, Status::Resumed { frozen: true });
            self.agents().insert(domid, agent);
        }
        let state = self.read(domid, path::STATE)?.and_then(|state| state.parse().ok());
        Ok(state.filter(|state: &State| state.stamp == stamp))
    }
}

impl Agent {
    fn say(&mut self, stamp: Stamp, status: Status) {
        self.nodes.insert(path::STATE.into(), State { stamp, status }.to_string());
    }

    fn obey(&mut self, command: &Command, vetoes: bool) {
        self.heard.push(command.to_string().split(' ').nth(2).unwrap().to_owned());
        let status = match &command.verb {
            Verb::Survey => self.advertise(),
            Verb::Prepare(_) if vetoes => {
                Status::Nack { reason: Reason::Uninterruptible, detail: "pid 7".into() }
            }
            Verb::Prepare(_) => Status::Ready(Ready {
                ranks: 1,
                processes: 1,
                connections: 1,
                how: Freezer::Cgroup,
                patience: None,
                took: Duration::ZERO,
            }),
            Verb::Freeze { .. } => {
                self.frozen = true;
                Status::Frozen(Frozen {
                    how: Freezer::Cgroup,
                    processes: 1,
                    took: Duration::from_millis(1),
                })
            }
            Verb::Flush { .. } => self.flush(),
            Verb::Hold { .. } => Status::Resumed { frozen: self.frozen },
            Verb::Thaw { .. } => {
                self.frozen = false;
                Status::Thawed(Thawed::default())
            }
            Verb::Finish => Status::Finished(Finished::default()),
            Verb::Abort => {
                self.frozen = false;
                Status::Finished(Finished::default())
            }
        };
        self.say(command.stamp, status);
    }

    fn advertise(&mut self) -> Status {
        let row = format!("id=77 launcher=openmpi size=2 ranks={}:100", self.rank);
        self.nodes.insert(path::JOBS.into(), "1".into());
        self.nodes.insert(path::job(0), row);
        Status::Surveyed { ranks: 1 }
    }

    /// One connection between the two, 1000 bytes each way.
    fn flush(&mut self) -> Status {
        let ends = ["10.0.0.3:1", "10.0.0.4:2"];
        let end: Connection =
            format!("{} {} 1000 1000 0 0 0 0 -", ends[self.rank], ends[1 - self.rank])
                .parse()
                .unwrap();
        let (chunks, _) = pack(&[end]);
        self.nodes.insert(path::cut(0), chunks[0].clone());
        Status::Flushed(Flushed { clean: true, connections: 1, chunks: 1, ..Flushed::default() })
    }
}
