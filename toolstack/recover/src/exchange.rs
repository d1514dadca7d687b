//! A question to the other host, and its answer.

use std::io::{BufReader, Write};

use migrate_stream::frame::{MigrationId, Purpose};
use serde::{Deserialize, Serialize};

use rxl_core::deadlines;
use rxl_core::io::{Cancel, Guarded};
use rxl_core::json_lines::JsonLines;
use rxl_core::text::one_line;
use rxl_handover::Other;
use rxl_handover::questions::{SourceAnswer, SourceQuestion, TargetAnswer, TargetQuestion};
use rxl_link::ssh::{RECEIVER, Remote, Route};
use rxl_link::transport::Ticket;

/// Questions and answers are short: a reason is the longest part.
pub(crate) const LINES: JsonLines = JsonLines::up_to(4096);

/// What is asked about a migration, which the preamble names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "to", content = "ask", rename_all = "kebab-case")]
pub enum Question {
    /// To the target.
    Target(TargetQuestion),
    /// To the source.
    Source(SourceQuestion),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", content = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// From the target.
    Target(TargetAnswer),
    /// From the source.
    Source(SourceAnswer),
    /// The question was understood, and the record or the domain could not be dealt with.
    Failed(String),
}

/// The other host gave no answer: it was not reached, or could not tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// Whoever answers for the other host.
pub trait Peer {
    /// Asks about a migration.
    fn ask(&self, id: &str, question: Question) -> Result<Answer, Unreachable>;

    /// Asks it as the target.
    fn ask_target(&self, id: &str, question: TargetQuestion) -> Result<TargetAnswer, Unreachable> {
        match self.ask(id, Question::Target(question))? {
            Answer::Target(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks it as the source.
    fn ask_source(&self, id: &str, question: SourceQuestion) -> Result<SourceAnswer, Unreachable> {
        match self.ask(id, Question::Source(question))? {
            Answer::Source(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }
}

/// A host of which a person has said that it will never come back, with all that it had: nothing of
/// it runs, and its word is whatever lets the domain run here.
pub struct GoneForGood;

impl Peer for GoneForGood {
    fn ask(&self, _id: &str, question: Question) -> Result<Answer, Unreachable> {
        Ok(match question {
            Question::Target(_) => Answer::Target(TargetAnswer::Aborted),
            Question::Source(SourceQuestion::Claim) => Answer::Source(SourceAnswer::Go),
            Question::Source(SourceQuestion::Runs) => Answer::Source(SourceAnswer::Released),
        })
    }
}

fn unexpected(answer: &Answer) -> Unreachable {
    match answer {
        Answer::Failed(reason) => Unreachable(one_line(reason)),
        other => Unreachable(format!("an answer to another question: {other:?}")),
    }
}

/// The other host of a record, asked over a fresh connection.
pub struct OtherHost<'a>(pub &'a Other);

impl Peer for OtherHost<'_> {
    fn ask(&self, id: &str, question: Question) -> Result<Answer, Unreachable> {
        let Other::Rxl { hosts, ssh_command } = self.0 else {
            return Err(Unreachable("there is no rxl to ask".into()));
        };
        let mut reasons = Vec::new();
        for host in hosts {
            match ask_over_ssh(host, ssh_command.as_deref(), id, question) {
                Ok(answer) => return Ok(answer),
                Err(Unreachable(reason)) => reasons.push(reason),
            }
        }
        Err(Unreachable(reasons.join("; ")))
    }
}

fn ask_over_ssh(
    host: &str,
    ssh_command: Option<&str>,
    id: &str,
    question: Question,
) -> Result<Answer, Unreachable> {
    let failed = |what: String| Unreachable(format!("{host}: {what}"));
    let id = MigrationId::parse(id).ok_or_else(|| failed(format!("'{id}' is no id")))?;
    // The token proves nothing here: who may run rxl as root there may ask.
    let ticket = Ticket::random().map_err(|e| failed(format!("random numbers: {e}")))?;
    let ticket = Ticket { id, ..ticket };
    let route = Route::new(ssh_command, host).map_err(|e| failed(e.to_string()))?;
    let (mut remote, pipes) = Remote::start(&route, RECEIVER).map_err(|e| failed(e.to_string()))?;
    let exchanged = (|| {
        let cancel = Cancel::new()?;
        let patience = Some(deadlines::RECOVER_ANSWER);
        let mut to = Guarded::new(pipes.to, cancel.clone(), patience)?;
        let from = Guarded::new(pipes.from, cancel, patience)?;
        to.write_all(&ticket.preamble(Purpose::Recover, 0))?;
        LINES.write(&mut to, &question)?;
        Ok::<_, std::io::Error>(LINES.read(&mut BufReader::new(from))?)
    })();
    match exchanged {
        Ok(Some(answer)) => Ok(answer),
        // ssh's own words say more than a pipe that ended.
        Ok(None) | Err(_) => Err(Unreachable(remote.post_mortem().to_string())),
    }
}
