//! Another host's nodes: `rxl agent serve` there, asked over ssh.
//!
//! One JSON value a line each way; every request has one answer. The server does what root could do
//! there anyway, and no more: it touches nodes under `control/rxl` and `data/rxl`, and its own
//! locks, alone.

use rxl_core::deadlines;
use std::io::{BufReader, Read, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::nodes::{Guest, Lock, Nodes};
use rxl_agent_protocol::{Command, Connection, Stamp, State, path};
use rxl_core::error::Failure;
use rxl_core::io::{Cancel, Guarded};
use rxl_core::json_lines::{JsonLineError, JsonLines};
use rxl_link::ssh::{AGENT_SERVER, Remote, Route};

/// A thousand domains fit into the longest line.
const LINES: JsonLines = JsonLines::up_to(1 << 20);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    Guests,
    Read { domid: u32, node: String },
    Write { domid: u32, node: String, value: String },
    Wait { domid: u32, epoch: u64, sequence: u32, millis: u64 },
    Obey { domids: Vec<u32>, command: String, millis: u64 },
    Cut { domid: u32, chunks: u32 },
    Lock(Lock),
    Unlock(Lock),
    Greet,
    Reachable { domid: u32, millis: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Guests(Vec<Guest>),
    Value(Option<String>),
    Values(Vec<Option<String>>),
    Done,
    Locked(bool),
    Reachable(bool),
    Error(String),
}

/// The client's end. Dropping it ends the server.
pub struct RemoteNodes {
    host: String,
    to: Guarded,
    from: BufReader<Guarded>,
    remote: Remote,
}

impl RemoteNodes {
    /// Starts the server on a host. Whether it got through shows with the first answer.
    pub fn start(route: &Route) -> Result<Self, Failure> {
        let (remote, pipes) = Remote::start(route, AGENT_SERVER)?;
        let broken = |e| Failure::internal("agent channel", &e);
        let cancel = Cancel::new().map_err(broken)?;
        let to = Guarded::new(pipes.to, cancel.clone(), Some(deadlines::AGENT_SERVER))
            .map_err(broken)?;
        let from =
            Guarded::new(pipes.from, cancel, Some(deadlines::AGENT_SERVER)).map_err(broken)?;
        Ok(Self { host: route.host().into(), to, from: BufReader::new(from), remote })
    }

    fn ask(&mut self, request: &Request) -> Result<Answer, String> {
        let answered = LINES.write(&mut self.to, request).and_then(|()| LINES.read(&mut self.from));
        match answered {
            Ok(Some(Answer::Error(line))) => Err(format!("{}: {line}", self.host)),
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.remote.post_mortem().what),
            Err(error) => Err(format!("agents on {}: {error}", self.host)),
        }
    }

    /// A request without an answer but that it was done.
    fn tell(&mut self, request: &Request) -> Result<(), String> {
        match self.ask(request)? {
            Answer::Done => Ok(()),
            other => Err(self.odd(&other)),
        }
    }

    fn odd(&self, answer: &Answer) -> String {
        format!("agents on {}: an answer to another question ({answer:?})", self.host)
    }
}

impl Nodes for RemoteNodes {
    fn guests(&mut self) -> Result<Vec<Guest>, String> {
        match self.ask(&Request::Guests)? {
            Answer::Guests(guests) => Ok(guests),
            other => Err(self.odd(&other)),
        }
    }

    fn read(&mut self, domid: u32, node: &str) -> Result<Option<String>, String> {
        match self.ask(&Request::Read { domid, node: node.into() })? {
            Answer::Value(value) => Ok(value),
            other => Err(self.odd(&other)),
        }
    }

    fn write(&mut self, domid: u32, node: &str, value: &str) -> Result<(), String> {
        self.tell(&Request::Write { domid, node: node.into(), value: value.into() })
    }

    /// Kept there by the server, which ends with its connection.
    fn lock(&mut self, lock: Lock) -> Result<bool, String> {
        match self.ask(&Request::Lock(lock))? {
            Answer::Locked(locked) => Ok(locked),
            other => Err(self.odd(&other)),
        }
    }

    fn unlock(&mut self, lock: Lock) -> Result<(), String> {
        self.tell(&Request::Unlock(lock))
    }

    fn greet(&mut self) -> Result<(), String> {
        self.tell(&Request::Greet)
    }

    fn reachable(&mut self, domid: u32, patience: Duration) -> Result<bool, String> {
        match self.ask(&Request::Reachable { domid, millis: millis(patience) })? {
            Answer::Reachable(reachable) => Ok(reachable),
            other => Err(self.odd(&other)),
        }
    }

    /// Waited for there: a round trip of ssh is longer than a freeze.
    fn wait(
        &mut self,
        domid: u32,
        stamp: Stamp,
        patience: Duration,
    ) -> Result<Option<State>, String> {
        let Stamp { epoch, sequence } = stamp;
        match self.ask(&Request::Wait { domid, epoch, sequence, millis: millis(patience) })? {
            Answer::Value(value) => Ok(value.and_then(|value| value.parse().ok())),
            other => Err(self.odd(&other)),
        }
    }

    /// One round trip for all of them, while a job stands still.
    fn obey(
        &mut self,
        domids: &[u32],
        command: &Command,
        patience: Duration,
    ) -> Result<Vec<Option<State>>, String> {
        let request = Request::Obey {
            domids: domids.into(),
            command: command.to_string(),
            millis: millis(patience),
        };
        match self.ask(&request)? {
            Answer::Values(states) if states.len() == domids.len() => Ok(states
                .into_iter()
                .map(|state| state.and_then(|state| state.parse().ok()))
                .collect()),
            other => Err(self.odd(&other)),
        }
    }

    /// The same for all chunks.
    fn cut(&mut self, domid: u32, chunks: u32) -> Result<Vec<Connection>, String> {
        match self.ask(&Request::Cut { domid, chunks })? {
            Answer::Values(lines) => {
                let parse = |line: Option<String>| line.unwrap_or_default().parse();
                let parsed = lines.into_iter().map(parse).collect::<Result<_, _>>();
                parsed.map_err(|error| {
                    format!("agents on {}: the cut of domain {domid}: {error}", self.host)
                })
            }
            other => Err(self.odd(&other)),
        }
    }
}

fn millis(patience: Duration) -> u64 {
    u64::try_from(patience.as_millis()).unwrap_or(u64::MAX)
}

/// The server: answers until its input ends.
pub fn serve(
    nodes: &mut dyn Nodes,
    input: impl Read,
    mut output: impl Write,
) -> Result<(), JsonLineError> {
    let mut input = BufReader::new(input);
    while let Some(request) = LINES.read(&mut input)? {
        LINES.write(&mut output, &answer(nodes, request).unwrap_or_else(Answer::Error))?;
    }
    Ok(())
}

fn answer(nodes: &mut dyn Nodes, request: Request) -> Result<Answer, String> {
    Ok(match request {
        Request::Guests => Answer::Guests(nodes.guests()?),
        Request::Read { domid, node } => Answer::Value(nodes.read(domid, ours(&node)?)?),
        Request::Write { domid, node, value } => {
            nodes.write(domid, ours(&node)?, &value)?;
            Answer::Done
        }
        Request::Wait { domid, epoch, sequence, millis } => {
            let patience = Duration::from_millis(millis).min(deadlines::AGENT_SERVER);
            let state = nodes.wait(domid, Stamp { epoch, sequence }, patience)?;
            Answer::Value(state.map(|state| state.to_string()))
        }
        Request::Obey { domids, command, millis } => {
            let command = command.parse().map_err(|error| format!("not a command: {error}"))?;
            let states = nodes.obey(
                &domids,
                &command,
                Duration::from_millis(millis).min(deadlines::AGENT_SERVER),
            )?;
            Answer::Values(
                states.into_iter().map(|state| state.map(|state| state.to_string())).collect(),
            )
        }
        Request::Cut { domid, chunks } => {
            let cut = nodes.cut(domid, chunks)?;
            Answer::Values(cut.iter().map(|end| Some(end.to_string())).collect())
        }
        Request::Lock(lock) => Answer::Locked(nodes.lock(lock)?),
        Request::Unlock(lock) => {
            nodes.unlock(lock)?;
            Answer::Done
        }
        Request::Greet => Answer::Done,
        Request::Reachable { domid, millis } => Answer::Reachable(
            nodes.reachable(domid, Duration::from_millis(millis).min(deadlines::AGENT_SERVER))?,
        ),
    })
}

fn ours(node: &str) -> Result<&str, String> {
    let is_below = |top| node.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'));
    let ours = (is_below(path::CONTROL) || is_below(path::DATA))
        && !node.split('/').any(|part| part == "..");
    if ours { Ok(node) } else { Err("not a node of an agent's".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One(Vec<(u32, String, String)>);

    impl Nodes for One {
        fn guests(&mut self) -> Result<Vec<Guest>, String> {
            Ok(vec![Guest { domid: 7, name: "dom3".into(), agent: None }])
        }

        fn read(&mut self, domid: u32, node: &str) -> Result<Option<String>, String> {
            Ok(self
                .0
                .iter()
                .find(|(d, n, _)| *d == domid && n == node)
                .map(|(_, _, value)| value.clone()))
        }

        fn write(&mut self, domid: u32, node: &str, value: &str) -> Result<(), String> {
            self.0.push((domid, node.into(), value.into()));
            Ok(())
        }

        fn lock(&mut self, lock: Lock) -> Result<bool, String> {
            Ok(lock == Lock::Survey)
        }

        fn unlock(&mut self, _lock: Lock) -> Result<(), String> {
            Ok(())
        }

        fn greet(&mut self) -> Result<(), String> {
            Ok(())
        }

        fn reachable(&mut self, domid: u32, _patience: Duration) -> Result<bool, String> {
            Ok(domid == 7)
        }
    }

    fn served(requests: &str) -> String {
        let mut output = Vec::new();
        let cut = (9, path::cut(0), "10.0.0.3:1 10.0.0.4:2 1 1 0 0 0 0 -".to_owned());
        serve(&mut One(vec![cut]), requests.as_bytes(), &mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn each_request_has_its_answer() {
        let requests = r#""guests"
{"write":{"domid":7,"node":"control/rxl/command","value":"1 1 survey"}}
{"read":{"domid":7,"node":"control/rxl/command"}}
{"wait":{"domid":7,"epoch":1,"sequence":1,"millis":1}}
{"obey":{"domids":[7,8],"command":"1 2 finish","millis":1}}
{"cut":{"domid":9,"chunks":1}}
{"obey":{"domids":[7],"command":"dance","millis":1}}
{"lock":"survey"}
{"lock":{"agent":7}}
{"unlock":{"agent":7}}
"greet"
{"reachable":{"domid":7,"millis":1}}
"#;
        let answers = r#"{"guests":[{"domid":7,"name":"dom3","agent":null}]}
"done"
{"value":"1 1 survey"}
{"value":null}
{"values":[null,null]}
{"values":["10.0.0.3:1 10.0.0.4:2 1 1 0 0 0 0 -"]}
{"error":"not a command: bad epoch"}
{"locked":true}
{"locked":false}
"done"
"done"
{"reachable":true}
"#;
        assert_eq!(served(requests), answers);
    }

    #[test]
    fn other_nodes_are_refused() {
        for node in [
            "control/shutdown",
            "control/rxl",
            "data/rxl/../../control/shutdown",
            "data/rxlx/a",
            "name",
        ] {
            let request =
                format!("{{\"write\":{{\"domid\":7,\"node\":\"{node}\",\"value\":\"x\"}}}}\n");
            assert_eq!(served(&request), "{\"error\":\"not a node of an agent's\"}\n", "{node}");
        }
    }
}
