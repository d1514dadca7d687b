//! Agents that do what they are told, but for their quirks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rxl_agent_protocol::PROTOCOL_VERSION;
use rxl_agent_protocol::{Command, Stamp, State, Status, Verb};
use rxl_agent_protocol::{
    Connection, Finished, Flushed, Freezer, Frozen, JobRow, Ready, Reason, Thawed, pack, path,
};
use rxl_core::boot::BootId;
use rxl_core::deadlines;
use rxl_quiesce::error::AgentsError;
use rxl_quiesce::nodes::{AgentGuest, Lock, Nodes};
use rxl_testkit::locks::MemoryLocks;

/// A domain with an agent that does what it is told, but for its quirk.
#[derive(Clone, Debug)]
pub struct Agent {
    pub name: &'static str,
    pub ranks: Vec<u32>,
    pub quirk: Quirk,
    pub nodes: BTreeMap<String, String>,
    pub heard: Vec<String>,
    pub frozen: bool,
    pub flushes: u32,
    /// The last flush asked for room.
    pub room: bool,
    /// What it says next, whatever node is read, in place of what stands there.
    pub raves: VecDeque<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quirk {
    None,
    Nack,
    DeafToFreeze,
    /// The peer is still sending to it when its cut is asked for the first time.
    LateBytes,
    /// Its peer's last bytes come when the time for a flush is over.
    Slow,
    /// What it has sent was dropped, and is sent again in a minute.
    Dropped,
    /// Its queue is sent until nothing is left, a piece with each flush. The second of these takes
    /// all the time.
    LongQueue,
    /// As that, but nothing of the queue gets away.
    StuckQueue,
    ThawedEarly,
    OldProtocol,
    /// Its connections give up after 90 ms.
    Impatient,
    /// It reads nothing.
    Silent,
    /// It obeys, and names ranks in words of its own.
    Malformed,
}

pub fn agent(name: &'static str, ranks: &[u32], quirk: Quirk) -> Agent {
    let protocol = if quirk == Quirk::OldProtocol { 7 } else { PROTOCOL_VERSION };
    let info = format!("version=1 protocol={protocol} pid=1 boot=b freezer=cgroup");
    let nodes = BTreeMap::from([(path::AGENT.to_owned(), info)]);
    Agent {
        name,
        ranks: ranks.to_vec(),
        quirk,
        nodes,
        heard: Vec::new(),
        frozen: false,
        flushes: 0,
        room: false,
        raves: VecDeque::new(),
    }
}

impl Agent {
    pub fn obey(&mut self, text: &str) {
        let command: Command = text.parse().unwrap();
        self.nodes.insert(path::COMMAND.into(), text.into());
        if self.quirk == Quirk::Silent {
            return;
        }
        self.heard.push(text.split(' ').nth(2).unwrap().to_owned());
        let ready = Ready {
            ranks: self.ranks.len() as u32,
            processes: 1,
            connections: 1,
            how: Freezer::Cgroup,
            patience: Some(Duration::from_millis(if self.quirk == Quirk::Impatient {
                90
            } else {
                900_000
            })),
            took: Duration::ZERO,
        };
        let frozen = Frozen { how: Freezer::Cgroup, processes: 1, took: Duration::from_millis(2) };
        let status = match command.verb {
            Verb::Survey => {
                self.advertise();
                Status::Surveyed { ranks: self.ranks.len() as u32 }
            }
            Verb::Prepare(_) if self.quirk == Quirk::Nack => {
                Status::Nack { reason: Reason::Uninterruptible, detail: "pid 7".into() }
            }
            Verb::Prepare(_) => Status::Ready(ready),
            Verb::Freeze { .. } if self.quirk == Quirk::DeafToFreeze => {
                Status::Failed { reason: Reason::FreezeDeadline, detail: String::new() }
            }
            Verb::Freeze { .. } => {
                self.frozen = true;
                Status::Frozen(frozen)
            }
            Verb::Flush { room, .. } => {
                self.room = room;
                self.flush()
            }
            Verb::Hold { .. } => {
                Status::Resumed { frozen: self.frozen && self.quirk != Quirk::ThawedEarly }
            }
            Verb::Thaw { .. } => {
                self.frozen = false;
                Status::Thawed(Thawed::default())
            }
            Verb::Finish => Status::Finished(Finished { retransmits: 3, connections: 1 }),
            Verb::Abort => {
                self.frozen = false;
                Status::Finished(Finished::default())
            }
        };
        self.nodes.insert(path::STATE.into(), State { stamp: command.stamp, status }.to_string());
    }

    pub fn advertise(&mut self) {
        if self.ranks.is_empty() {
            return;
        }
        let ranks =
            self.ranks.iter().map(|n| format!("{n}:{}", 100 + n)).collect::<Vec<_>>().join(",");
        if self.quirk == Quirk::Malformed {
            self.nodes.insert(path::JOBS.into(), "1".into());
            self.nodes.insert(path::job(0), "all of them".into());
            return;
        }
        let row: JobRow = format!("id=77 launcher=openmpi size=2 ranks={ranks}").parse().unwrap();
        self.nodes.insert(path::JOBS.into(), "1".into());
        self.nodes.insert(path::job(0), row.to_string());
    }

    /// One connection between the two domains, 1000 bytes each way.
    fn flush(&mut self) -> Status {
        self.flushes += 1;
        let (local, remote) = if self.name == "dom3" {
            ("10.0.0.3:1", "10.0.0.4:2")
        } else {
            ("10.0.0.4:2", "10.0.0.3:1")
        };
        let late = match self.quirk {
            Quirk::LateBytes => self.flushes <= 3,
            Quirk::Slow => self.flushes <= 2,
            _ => false,
        };
        if matches!(self.quirk, Quirk::Slow | Quirk::LongQueue | Quirk::StuckQueue)
            && self.flushes == 2
        {
            std::thread::sleep(deadlines::FLUSH);
        }
        let received = if late { 500 } else { 1000 };
        let end: Connection =
            format!("{local} {remote} 1000 {received} 0 0 0 0 -").parse().unwrap();
        let (chunks, _) = pack(&[end]);
        self.nodes.insert(path::cut(0), chunks[0].clone());
        let (connections, chunks) = (1, 1);
        let flushed = Flushed { clean: true, connections, chunks, ..Flushed::default() };
        Status::Flushed(match self.quirk {
            Quirk::Dropped => Flushed {
                clean: false,
                unacked: 7,
                resend: Some(Duration::from_secs(60)),
                ..flushed
            },
            Quirk::LongQueue if self.flushes <= 4 => {
                Flushed { clean: false, unacked: 5 - u64::from(self.flushes), ..flushed }
            }
            Quirk::StuckQueue => Flushed { clean: false, notsent: 7, ..flushed },
            _ => flushed,
        })
    }
}

/// A host's agents, by domid; shared with the test.
#[derive(Clone, Default)]
pub struct Fake {
    pub agents: Arc<Mutex<BTreeMap<u32, Agent>>>,
    pub locks: MemoryLocks,
}

impl Nodes for Fake {
    fn boot(&mut self) -> Result<BootId, AgentsError> {
        self.locks.boot()
    }

    fn guests(&mut self) -> Result<Vec<AgentGuest>, AgentsError> {
        let agents = self.agents.lock().unwrap();
        let guest = |(domid, agent): (&u32, &Agent)| AgentGuest {
            domid: *domid,
            name: agent.name.into(),
            agent: agent.nodes.get(path::AGENT).cloned(),
        };
        Ok(agents.iter().map(guest).collect())
    }

    fn read(&mut self, domid: u32, node: &str) -> Result<Option<String>, AgentsError> {
        let mut agents = self.agents.lock().unwrap();
        let Some(agent) = agents.get_mut(&domid) else { return Ok(None) };
        match agent.raves.pop_front().filter(|_| node.starts_with(path::DATA)) {
            Some(said) => Ok(Some(said)),
            None => Ok(agent.nodes.get(node).cloned()),
        }
    }

    fn write(&mut self, domid: u32, node: &str, value: &str) -> Result<(), AgentsError> {
        if node == path::COMMAND {
            self.agents
                .lock()
                .unwrap()
                .get_mut(&domid)
                .ok_or(AgentsError::ForeignNode)?
                .obey(value);
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

    /// Nobody waits for what will not come.
    fn wait(
        &mut self,
        domid: u32,
        stamp: Stamp,
        _deadline: Duration,
    ) -> Result<Option<State>, AgentsError> {
        let state = self.read(domid, path::STATE)?;
        let state = state.and_then(|state| state.parse().ok());
        Ok(state.filter(|state: &State| state.stamp == stamp))
    }

    fn reachable(&mut self, _domid: u32, _deadline: Duration) -> Result<bool, AgentsError> {
        Ok(true)
    }
}
