//! What a host's agents are asked, and who answers: a thread of this process, or `rxl agent serve`
//! on another host.
//!
//! On the wire each request and each answer is one JSON line, and every request has one answer,
//! with the same number: an answer that comes too late is known by it. The server does what root
//! could do on its host anyway, and no more: it touches nodes under `control/rxl` and `data/rxl`,
//! and its own locks, alone.

use std::io::{BufReader, Read, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::AgentsError;
use crate::nodes::{AgentGuest, Lock, Nodes};
use rxl_agent_protocol::{Stamp, path};
use rxl_core::boot::BootId;
use rxl_core::deadlines;
use rxl_core::json_lines::{JsonLineError, JsonLines};

/// The protocol of `rxl agent serve`. A thousand domains fit into the longest line.
pub(crate) const LINES: JsonLines = JsonLines::up_to(1 << 20);

/// A request as it is on the wire.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Asked {
    /// Grows with each request of a connection.
    pub(crate) number: u64,
    pub(crate) ask: AgentRequest,
}

/// An answer as it is on the wire.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Answered {
    /// The number of the request that it answers.
    pub(crate) number: u64,
    pub(crate) answer: AgentAnswer,
}

/// What a host's agents are asked. Times are in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AgentRequest {
    Boot,
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

/// What they, or their host, answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AgentAnswer {
    Boot(BootId),
    Guests(Vec<AgentGuest>),
    Value(Option<String>),
    Values(Vec<Option<String>>),
    Done,
    Locked(bool),
    Reachable(bool),
    Error(String),
}

impl AgentRequest {
    /// How long its answer may take: what it is to wait for, and the way.
    pub(crate) fn deadline(&self) -> Duration {
        let waits = match self {
            Self::Wait { millis, .. }
            | Self::Obey { millis, .. }
            | Self::Reachable { millis, .. } => waited(*millis),
            _ => Duration::ZERO,
        };
        deadlines::AGENT_SERVER + waits
    }
}

/// How long a request is waited for, whatever it asks for.
fn waited(millis: u64) -> Duration {
    Duration::from_millis(millis).min(deadlines::AGENT_SERVER)
}

/// The server: answers until its input ends.
pub fn serve(
    nodes: &mut dyn Nodes,
    input: impl Read,
    mut output: impl Write,
) -> Result<(), JsonLineError> {
    let mut input = BufReader::new(input);
    while let Some(Asked { number, ask }) = LINES.read(&mut input)? {
        let answered = answer(nodes, ask);
        let answer = answered.unwrap_or_else(|error| AgentAnswer::Error(error.to_string()));
        LINES.write(&mut output, &Answered { number, answer })?;
    }
    Ok(())
}

/// Does on this host what is asked.
pub(crate) fn answer(
    nodes: &mut dyn Nodes,
    request: AgentRequest,
) -> Result<AgentAnswer, AgentsError> {
    Ok(match request {
        AgentRequest::Boot => AgentAnswer::Boot(nodes.boot()?),
        AgentRequest::Guests => AgentAnswer::Guests(nodes.guests()?),
        AgentRequest::Read { domid, node } => AgentAnswer::Value(nodes.read(domid, ours(&node)?)?),
        AgentRequest::Write { domid, node, value } => {
            nodes.write(domid, ours(&node)?, &value)?;
            AgentAnswer::Done
        }
        AgentRequest::Wait { domid, epoch, sequence, millis } => {
            let state = nodes.wait(domid, Stamp { epoch, sequence }, waited(millis))?;
            AgentAnswer::Value(state.map(|state| state.to_string()))
        }
        AgentRequest::Obey { domids, command, millis } => {
            let command = command.parse().map_err(|error| not_a_command(&error))?;
            let states = nodes.obey(&domids, &command, waited(millis))?;
            let text =
                |state: Option<_>| state.map(|state: rxl_agent_protocol::State| state.to_string());
            AgentAnswer::Values(states.into_iter().map(text).collect())
        }
        AgentRequest::Cut { domid, chunks } => {
            let cut = nodes.cut(domid, chunks)?;
            AgentAnswer::Values(cut.iter().map(|end| Some(end.to_string())).collect())
        }
        AgentRequest::Lock(lock) => AgentAnswer::Locked(nodes.lock(lock)?),
        AgentRequest::Unlock(lock) => {
            nodes.unlock(lock)?;
            AgentAnswer::Done
        }
        AgentRequest::Greet => AgentAnswer::Done,
        AgentRequest::Reachable { domid, millis } => {
            AgentAnswer::Reachable(nodes.reachable(domid, waited(millis))?)
        }
    })
}

fn not_a_command(error: &dyn std::fmt::Display) -> AgentsError {
    AgentsError::NotACommand(error.to_string())
}

fn ours(node: &str) -> Result<&str, AgentsError> {
    let is_below = |top| node.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'));
    let ours = (is_below(path::CONTROL) || is_below(path::DATA))
        && !node.split('/').any(|part| part == "..");
    if ours { Ok(node) } else { Err(AgentsError::ForeignNode) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One(Vec<(u32, String, String)>);

    impl Nodes for One {
        fn boot(&mut self) -> Result<BootId, AgentsError> {
            Ok(BootId::try_from("b".to_owned()).unwrap())
        }

        fn guests(&mut self) -> Result<Vec<AgentGuest>, AgentsError> {
            Ok(vec![AgentGuest { domid: 7, name: "dom3".into(), agent: None }])
        }

        fn read(&mut self, domid: u32, node: &str) -> Result<Option<String>, AgentsError> {
            Ok(self
                .0
                .iter()
                .find(|(d, n, _)| *d == domid && n == node)
                .map(|(_, _, value)| value.clone()))
        }

        fn write(&mut self, domid: u32, node: &str, value: &str) -> Result<(), AgentsError> {
            self.0.push((domid, node.into(), value.into()));
            Ok(())
        }

        fn lock(&mut self, lock: Lock) -> Result<bool, AgentsError> {
            Ok(lock == Lock::Survey)
        }

        fn unlock(&mut self, _lock: Lock) -> Result<(), AgentsError> {
            Ok(())
        }

        fn reachable(&mut self, domid: u32, _deadline: Duration) -> Result<bool, AgentsError> {
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
        let requests = r#"{"number":0,"ask":"boot"}
{"number":1,"ask":"guests"}
{"number":2,"ask":{"write":{"domid":7,"node":"control/rxl/command","value":"1 1 survey"}}}
{"number":3,"ask":{"read":{"domid":7,"node":"control/rxl/command"}}}
{"number":4,"ask":{"wait":{"domid":7,"epoch":1,"sequence":1,"millis":1}}}
{"number":5,"ask":{"obey":{"domids":[7,8],"command":"1 2 finish","millis":1}}}
{"number":6,"ask":{"cut":{"domid":9,"chunks":1}}}
{"number":7,"ask":{"obey":{"domids":[7],"command":"dance","millis":1}}}
{"number":8,"ask":{"lock":"survey"}}
{"number":9,"ask":{"lock":{"agent":7}}}
{"number":10,"ask":{"unlock":{"agent":7}}}
{"number":11,"ask":"greet"}
{"number":12,"ask":{"reachable":{"domid":7,"millis":1}}}
"#;
        let answers = r#"{"number":0,"answer":{"boot":"b"}}
{"number":1,"answer":{"guests":[{"domid":7,"name":"dom3","agent":null}]}}
{"number":2,"answer":"done"}
{"number":3,"answer":{"value":"1 1 survey"}}
{"number":4,"answer":{"value":null}}
{"number":5,"answer":{"values":[null,null]}}
{"number":6,"answer":{"values":["10.0.0.3:1 10.0.0.4:2 1 1 0 0 0 0 -"]}}
{"number":7,"answer":{"error":"not a command: bad epoch"}}
{"number":8,"answer":{"locked":true}}
{"number":9,"answer":{"locked":false}}
{"number":10,"answer":"done"}
{"number":11,"answer":"done"}
{"number":12,"answer":{"reachable":true}}
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
            let request = format!(
                r#"{{"number":1,"ask":{{"write":{{"domid":7,"node":"{node}","value":"x"}}}}}}"#
            );
            let refused = r#"{"number":1,"answer":{"error":"not a node of an agent's"}}"#;
            assert_eq!(served(&format!("{request}\n")), format!("{refused}\n"), "{node}");
        }
    }
}
