//! A host whose agents are asked, near or far: the same requests, one at a time.
//!
//! This host's xenstore blocks who asks it, so a thread of its own serves it. Other hosts run
//! `rxl agent serve` behind ssh; all of their lines are read and written on the one runtime
//! ([`rxl_link::runtime`]), so that any number of hosts is waited for at once. Their answers are
//! numbered: one that is late is dropped, and the host can still be asked.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use crate::error::AgentsError;
use crate::nodes::{AgentGuest, Lock, Nodes, malformed};
use crate::server::{AgentAnswer, AgentRequest, Answered, Asked, LINES, answer};
use rxl_agent_protocol::{
    Command, Connection, JobRow, Lease, MAX_JOB_ROWS, Stamp, State, Unclaimed, path,
};
use rxl_core::boot::BootId;
use rxl_core::error::Failure;
use rxl_core::json_lines::JsonLineError;
use rxl_core::text::one_line;
use rxl_link::descriptor::{Descriptor, LineReader};
use rxl_link::runtime::runtime;
use rxl_link::ssh::{AGENT_SERVER, Remote, Route};

/// The hosts of a cluster, shared by the coordinator and the keeper of its leases.
pub type Hosts = Arc<[AgentHost]>;

/// A host whose agents can be asked. Dropping it gives its locks back.
pub struct AgentHost {
    /// The name that the user or the cluster's file has for it; this host's own name for this one.
    pub name: String,
    /// Who asks next waits in turn.
    line: Mutex<Line>,
}

enum Line {
    Here(Thread),
    There(Box<Server>),
    Left,
}

impl AgentHost {
    /// This host, served by a thread that has these nodes.
    pub fn local(name: impl Into<String>, nodes: Box<dyn Nodes>) -> io::Result<Self> {
        Ok(Self { name: name.into(), line: Mutex::new(Line::Here(Thread::start(nodes)?)) })
    }

    /// Starts the server on another host. Whether it got through shows with the first answer.
    pub fn remote(name: impl Into<String>, route: &Route) -> Result<Self, Failure> {
        let server = Box::new(Server::start(route)?);
        Ok(Self { name: name.into(), line: Mutex::new(Line::There(server)) })
    }

    /// The host's boot: it tells whether two names are the same host's.
    pub async fn boot(&self) -> Result<BootId, AgentsError> {
        match self.ask(AgentRequest::Boot).await? {
            AgentAnswer::Boot(boot) => Ok(boot),
            _ => Err(self.wrong_answer()),
        }
    }

    /// Ends the line to a host that is not needed: its server gives its locks back, whatever was
    /// asked of it last.
    pub(crate) async fn leave(&self) {
        *self.line.lock().await = Line::Left;
    }

    /// The host's domains but dom0.
    pub async fn guests(&self) -> Result<Vec<AgentGuest>, AgentsError> {
        match self.ask(AgentRequest::Guests).await? {
            AgentAnswer::Guests(guests) => Ok(guests),
            _ => Err(self.wrong_answer()),
        }
    }

    /// Reads a node of an agent's.
    pub async fn read(
        &self,
        domid: u32,
        node: impl Into<String>,
    ) -> Result<Option<String>, AgentsError> {
        match self.ask(AgentRequest::Read { domid, node: node.into() }).await? {
            AgentAnswer::Value(value) => Ok(value),
            _ => Err(self.wrong_answer()),
        }
    }

    async fn write(&self, domid: u32, node: &str, value: String) -> Result<(), AgentsError> {
        self.tell(AgentRequest::Write { domid, node: node.into(), value }).await
    }

    /// The agent's state, if it has one that can be understood.
    pub async fn state(&self, domid: u32) -> Result<Option<State>, AgentsError> {
        Ok(self.read(domid, path::STATE).await?.and_then(|state| state.parse().ok()))
    }

    /// The ranks that the agent has found.
    pub async fn jobs(&self, domid: u32) -> Result<Vec<JobRow>, AgentsError> {
        let count = self.read(domid, path::JOBS).await?;
        let count = count.and_then(|count| count.parse().ok()).unwrap_or(0);
        let mut rows = Vec::new();
        for n in 0..count.min(MAX_JOB_ROWS) {
            let row = self.read(domid, path::job(n)).await?.unwrap_or_default();
            rows.push(row.parse().map_err(|error| malformed(domid, path::job(n), &error))?);
        }
        Ok(rows)
    }

    /// Processes in it that look like ranks and are none that the agent knows. None where it says
    /// nothing of them that can be understood.
    pub async fn unclaimed(&self, domid: u32) -> Result<Option<Unclaimed>, AgentsError> {
        let unclaimed = self.read(domid, path::UNCLAIMED).await?;
        Ok(unclaimed.and_then(|unclaimed| unclaimed.parse().ok()))
    }

    /// Commands the agent, and waits for no answer.
    pub async fn command(&self, domid: u32, command: &Command) -> Result<(), AgentsError> {
        self.write(domid, path::COMMAND, command.to_string()).await
    }

    /// Renews the agent's lease.
    pub async fn renew(&self, domid: u32, lease: &Lease) -> Result<(), AgentsError> {
        self.write(domid, path::LEASE, lease.to_string()).await
    }

    /// Takes a lock of the host's for as long as this connection lives, or until it is given back.
    /// False when another has it.
    pub async fn lock(&self, lock: Lock) -> Result<bool, AgentsError> {
        match self.ask(AgentRequest::Lock(lock)).await? {
            AgentAnswer::Locked(locked) => Ok(locked),
            _ => Err(self.wrong_answer()),
        }
    }

    /// Gives a lock back.
    pub async fn unlock(&self, lock: Lock) -> Result<(), AgentsError> {
        self.tell(AgentRequest::Unlock(lock)).await
    }

    /// Lets a server on another host know that this one is still there.
    pub async fn greet(&self) -> Result<(), AgentsError> {
        self.tell(AgentRequest::Greet).await
    }

    /// Whether the host's network forwards, at the deadline, to a domain that has come there.
    pub async fn reachable(&self, domid: u32, deadline: Duration) -> Result<bool, AgentsError> {
        match self.ask(AgentRequest::Reachable { domid, millis: millis(deadline) }).await? {
            AgentAnswer::Reachable(reachable) => Ok(reachable),
            _ => Err(self.wrong_answer()),
        }
    }

    /// The agent's state, as soon as it answers a command of this stamp; none at the deadline.
    /// Waited for at the host: a round trip of ssh is longer than a freeze.
    pub async fn wait(
        &self,
        domid: u32,
        stamp: Stamp,
        deadline: Duration,
    ) -> Result<Option<State>, AgentsError> {
        let Stamp { epoch, sequence } = stamp;
        let request = AgentRequest::Wait { domid, epoch, sequence, millis: millis(deadline) };
        match self.ask(request).await? {
            AgentAnswer::Value(value) => Ok(value.and_then(|value| value.parse().ok())),
            _ => Err(self.wrong_answer()),
        }
    }

    /// Commands agents and waits for their answers: one round trip for all of them, while a job
    /// stands still.
    pub async fn obey(
        &self,
        domids: Vec<u32>,
        command: &Command,
        deadline: Duration,
    ) -> Result<Vec<Option<State>>, AgentsError> {
        let (asked, command, millis) = (domids.len(), command.to_string(), millis(deadline));
        match self.ask(AgentRequest::Obey { domids, command, millis }).await? {
            AgentAnswer::Values(states) if states.len() == asked => {
                let parse = |state: Option<String>| state.and_then(|state| state.parse().ok());
                Ok(states.into_iter().map(parse).collect())
            }
            _ => Err(self.wrong_answer()),
        }
    }

    /// The connections at the cut, all chunks in one round trip.
    pub async fn cut(&self, domid: u32, chunks: u32) -> Result<Vec<Connection>, AgentsError> {
        let AgentAnswer::Values(lines) = self.ask(AgentRequest::Cut { domid, chunks }).await?
        else {
            return Err(self.wrong_answer());
        };
        let parse = |line: Option<String>| line.unwrap_or_default().parse();
        let parsed = lines.into_iter().map(parse).collect::<Result<_, _>>();
        parsed.map_err(|error| malformed(domid, "the cut", &error))
    }

    /// A request whose answer says only that it was done.
    async fn tell(&self, request: AgentRequest) -> Result<(), AgentsError> {
        match self.ask(request).await? {
            AgentAnswer::Done => Ok(()),
            _ => Err(self.wrong_answer()),
        }
    }

    async fn ask(&self, request: AgentRequest) -> Result<AgentAnswer, AgentsError> {
        match &mut *self.line.lock().await {
            Line::Here(thread) => thread.ask(&self.name, request).await,
            Line::There(server) => server.ask(&self.name, request).await,
            Line::Left => Err(AgentsError::Unserved(self.name.clone())),
        }
    }

    fn wrong_answer(&self) -> AgentsError {
        AgentsError::WrongAnswer(self.name.clone())
    }
}

fn millis(deadline: Duration) -> u64 {
    u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)
}

/// A request to the thread, and where its answer goes.
type Queued = (AgentRequest, oneshot::Sender<Result<AgentAnswer, AgentsError>>);

/// The thread that serves this host. Dropping it waits until it has given its locks back.
struct Thread {
    requests: Option<mpsc::Sender<Queued>>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    fn start(mut nodes: Box<dyn Nodes>) -> io::Result<Self> {
        let (requests, queue) = mpsc::channel::<Queued>();
        let serve = move || {
            for (request, answered) in queue {
                // Who asked may have been cancelled.
                let _ = answered.send(answer(&mut *nodes, request));
            }
        };
        let thread = std::thread::Builder::new().name("agents".into()).spawn(serve)?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    async fn ask(&mut self, host: &str, request: AgentRequest) -> Result<AgentAnswer, AgentsError> {
        let unserved = || AgentsError::Unserved(host.to_owned());
        let (answered, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(unserved)?;
        requests.send((request, answered)).map_err(|_| unserved())?;
        // Each of its calls has a deadline.
        answer.await.unwrap_or_else(|_| Err(unserved()))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

/// `rxl agent serve` on another host. Dropping it ends the server.
struct Server {
    to: Descriptor,
    from: LineReader,
    remote: Remote,
    /// The last request's number.
    number: u64,
    /// A request was cut off while it was written: no line can follow it.
    half_written: bool,
}

impl Server {
    fn start(route: &Route) -> Result<Self, Failure> {
        let (remote, pipes) = Remote::start(route, AGENT_SERVER)?;
        let broken = |e| Failure::internal("agent channel", &e);
        let runtime = runtime().map_err(broken)?;
        let to = Descriptor::new(&runtime, pipes.to).map_err(broken)?;
        let from = Descriptor::new(&runtime, pipes.from).map_err(broken)?;
        Ok(Self { to, from: LineReader::new(from), remote, number: 0, half_written: false })
    }

    /// May be cancelled: the answer is dropped when it comes.
    async fn ask(&mut self, host: &str, ask: AgentRequest) -> Result<AgentAnswer, AgentsError> {
        if self.half_written {
            return Err(AgentsError::HalfWritten(host.into()));
        }
        self.number += 1;
        let (number, deadline) = (self.number, ask.deadline());
        let broken = |source| AgentsError::Broken { host: host.into(), source };
        let request = LINES.encode(&Asked { number, ask }).map_err(broken)?;
        let late = |_| AgentsError::Late { host: host.into(), deadline };
        let told = timeout(deadline, self.tell(&request, deadline)).await.map_err(late)?;
        let told = match told {
            // It ended before it read the request: why, it has said on standard error.
            Err(JsonLineError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => None,
            told => told.map_err(broken)?,
        };
        match told {
            None => Err(self.remote.post_mortem_on_runtime().await.into()),
            Some(Answered { answer: AgentAnswer::Error(line), .. }) => {
                Err(AgentsError::Refused { host: host.into(), line: one_line(&line) })
            }
            Some(Answered { answer, number: of }) if of == number => Ok(answer),
            Some(_) => Err(AgentsError::WrongAnswer(host.into())),
        }
    }

    /// Sends a request, and waits for its answer, or for one that no request has. None at the end.
    async fn tell(
        &mut self,
        request: &[u8],
        deadline: Duration,
    ) -> Result<Option<Answered>, JsonLineError> {
        self.half_written = true;
        self.to.write_all(request, deadline).await?;
        self.half_written = false;
        loop {
            match self.from.json::<Answered>(LINES).await? {
                Some(late) if late.number < self.number => {
                    tracing::debug!(late.number, "an answer that nobody waits for");
                }
                answer => return Ok(answer),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const DONE_LATE: &str = r#"read a; sleep 0.5; echo "{\"number\":1,\"answer\":\"done\"}""#;

    /// A host whose server is this shell script.
    fn served_by(script: &str) -> AgentHost {
        // The route's host and program follow the command.
        let command = format!("sh -c '{script}'");
        AgentHost::remote("far", &Route::new(Some(&command), "far").unwrap()).unwrap()
    }

    #[test]
    fn a_server_answers_or_says_why_not() {
        let runtime = runtime().unwrap();
        let host = served_by(
            r#"a() { read line; echo "{\"number\":$1,\"answer\":$2}"; }
            a 1 "{\"locked\":true}"; a 2 "{\"error\":\"a b\"}"
            a 3 "\"done\""; read line; exit 127"#,
        );
        assert!(runtime.block_on(host.lock(Lock::Survey)).unwrap());
        let refused = runtime.block_on(host.greet()).unwrap_err();
        assert_eq!(refused.to_string(), "far: a b");
        let wrong = runtime.block_on(host.lock(Lock::Survey)).unwrap_err();
        assert!(matches!(wrong, AgentsError::WrongAnswer(_)), "{wrong}");
        let gone = runtime.block_on(host.greet()).unwrap_err();
        assert!(gone.to_string().contains("no rxl on far"), "{gone}");
    }

    /// Its answer still comes, and is not taken for the next request's.
    #[test]
    fn a_late_answer_is_dropped() {
        let runtime = runtime().unwrap();
        let host = served_by(
            r#"read a; read b; echo "{\"number\":1,\"answer\":{\"locked\":false}}"
            echo "{\"number\":2,\"answer\":{\"locked\":true}}"
            read c; echo "{\"number\":9,\"answer\":\"done\"}"; sleep 10"#,
        );
        let cancelled = async { timeout(Duration::from_millis(50), host.greet()).await };
        assert!(runtime.block_on(cancelled).is_err());
        assert!(runtime.block_on(host.lock(Lock::Survey)).unwrap());
        let early = runtime.block_on(host.greet()).unwrap_err();
        assert!(matches!(early, AgentsError::WrongAnswer(_)), "{early}");
    }

    #[test]
    fn a_host_that_was_left_is_not_asked() {
        let runtime = runtime().unwrap();
        let host = served_by("read a; sleep 60");
        let begun = Instant::now();
        runtime.block_on(host.leave());
        assert!(matches!(runtime.block_on(host.greet()), Err(AgentsError::Unserved(_))));
        assert!(begun.elapsed() < Duration::from_secs(5), "its end is not waited for");
    }

    #[test]
    fn hosts_are_asked_at_once() {
        let runtime = runtime().unwrap();
        let hosts: Vec<_> = (0..5).map(|_| served_by(DONE_LATE)).collect();
        let begun = Instant::now();
        let greeted = futures::future::join_all(hosts.iter().map(AgentHost::greet));
        assert!(runtime.block_on(greeted).iter().all(Result::is_ok));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}
