//! Answers the other host's questions.

use std::io::{BufRead, Write};

use rxl_core::error::{Exit, Failure};
use rxl_core::state_dir::{DomainLock, StateDir};
use rxl_core::text::one_line;
use rxl_handover::questions::{SourceAnswer, SourceQuestion, TargetAnswer, TargetQuestion};
use rxl_handover::source::{SourceState, answer_claim, answer_runs};
use rxl_handover::target::{self, TargetState};
use rxl_handover::{Entry, JournalError, Record};

use crate::end::{End, RecoverError};
use crate::exchange::{Answer, LINES, Peer, Question, Unreachable};
use crate::source::{MOST_STEPS, settle_source};
use crate::source_copy::{presence as source_presence, release};
use crate::target::{destroy_copy, presence as target_presence, settle_target};
use crate::{AnyRecord, Place};

/// Reads one question about a migration, and answers it. What was done is told by `log`.
pub fn serve(
    place: Result<Place<'_>, Failure>,
    state: &StateDir,
    id: &str,
    input: &mut impl BufRead,
    output: &mut impl Write,
    log: impl Fn(&str),
) -> Result<(), Failure> {
    let broken = |what: String| Failure::new(Exit::Usage, format!("a question: {what}"));
    let question: Option<Question> = LINES.read(input).map_err(|e| broken(e.to_string()))?;
    let question = question.ok_or_else(|| broken("none came".into()))?;
    let answered = match place {
        Ok(place) => answer(place, state, id, question, &log).map_err(|e| e.to_string()),
        Err(failure) => Err(failure.to_string()),
    };
    let answer = answered.unwrap_or_else(|reason| Answer::Failed(one_line(&reason)));
    LINES.write(output, &answer).map_err(|e| broken(e.to_string()))
}

/// Records what follows from a question, does it, and answers.
pub fn answer(
    place: Place<'_>,
    state: &StateDir,
    id: &str,
    question: Question,
    log: &dyn Fn(&str),
) -> Result<Answer, RecoverError> {
    match question {
        Question::Target(question) => {
            let record = place.journal.find_for_other(id)?;
            as_target(place, state, record, question, log).map(Answer::Target)
        }
        Question::Source(question) => {
            let record = place.journal.find_for_other(id)?;
            as_source(place, state, record, question, log).map(Answer::Source)
        }
    }
}

/// Settling a record that needs no answer asks nobody.
struct Nobody;

impl Peer for Nobody {
    fn ask(&self, _id: &str, _question: Question) -> Result<Answer, Unreachable> {
        Err(Unreachable("it is the other host that asks".into()))
    }
}

fn tell(end: &End, log: &dyn Fn(&str)) {
    if !end.line().is_empty() {
        log(end.line());
    }
}

fn as_target(
    place: Place<'_>,
    state: &StateDir,
    record: Option<Record<TargetState>>,
    question: TargetQuestion,
    log: &dyn Fn(&str),
) -> Result<TargetAnswer, RecoverError> {
    let Some(record) = record else { return Ok(TargetAnswer::Unknown) };
    for _ in 0..MOST_STEPS {
        let entry = record.read()?;
        let lock = AnyRecord::Target(record.clone()).lock(state, &entry.header);
        if entry.state == TargetState::Receiving && lock.is_some() {
            // What was built has no number in the record: it is destroyed before that is closed.
            tell(&settle_target(place, &record, &Nobody)?, log);
            continue;
        }
        let copy = target_presence(place, &entry)?;
        let reply = target::answer(Some(entry.state), question, copy, lock.is_none());
        match record_all(&record, reply.events) {
            Ok(()) => {}
            Err(RecoverError::Journal(JournalError::OutOfOrder(_))) => continue,
            Err(error) => return Err(error),
        }
        return finish_target(place, &record, &entry, reply.answer, lock, log);
    }
    Err(RecoverError::Restless)
}

/// The record says what is answered. What follows from it here is done before the answer, where
/// nobody else does it.
fn finish_target(
    place: Place<'_>,
    record: &Record<TargetState>,
    entry: &Entry<TargetState>,
    answer: TargetAnswer,
    lock: Option<DomainLock>,
    log: &dyn Fn(&str),
) -> Result<TargetAnswer, RecoverError> {
    match (answer, lock) {
        (TargetAnswer::Aborted, _) => {
            // That it never runs is recorded. Destroying it gives its memory back.
            match destroy_copy(place, entry) {
                Ok(true) => log(&format!("{}: fenced, and destroyed here", entry.header.name)),
                Ok(false) => {}
                Err(error) => log(&format!("{}: fenced, and left: {error}", entry.header.name)),
            }
            Ok(answer)
        }
        (TargetAnswer::Taken, Some(_lock)) => {
            let end = settle_target(place, record, &Nobody)?;
            tell(&end, log);
            match record.state()? {
                TargetState::Running | TargetState::Settled => Ok(TargetAnswer::Running),
                _ => Ok(answer),
            }
        }
        (answer, _) => Ok(answer),
    }
}

fn as_source(
    place: Place<'_>,
    state: &StateDir,
    record: Option<Record<SourceState>>,
    question: SourceQuestion,
    log: &dyn Fn(&str),
) -> Result<SourceAnswer, RecoverError> {
    let Some(record) = record else { return Ok(SourceAnswer::Unknown) };
    for _ in 0..MOST_STEPS {
        let entry = record.read()?;
        let lock = AnyRecord::Source(record.clone()).lock(state, &entry.header);
        let answered = match question {
            SourceQuestion::Claim => claim(place, &record, &entry, lock, log),
            SourceQuestion::Runs => runs(place, &record, &entry, lock.is_none(), log),
        };
        match answered {
            Err(RecoverError::Journal(JournalError::OutOfOrder(_))) => {}
            answered => return answered,
        }
    }
    Err(RecoverError::Restless)
}

fn claim(
    place: Place<'_>,
    record: &Record<SourceState>,
    entry: &Entry<SourceState>,
    lock: Option<DomainLock>,
    log: &dyn Fn(&str),
) -> Result<SourceAnswer, RecoverError> {
    let copy = source_presence(place, entry)?;
    let reply = answer_claim(Some(entry.state), copy, lock.is_none());
    record_all(record, reply.events)?;
    if reply.answer == SourceAnswer::Stays && lock.is_some() {
        let end = settle_source(place, record, &Nobody)?;
        tell(&end, log);
    }
    Ok(reply.answer)
}

fn runs(
    place: Place<'_>,
    record: &Record<SourceState>,
    entry: &Entry<SourceState>,
    at_work: bool,
    log: &dyn Fn(&str),
) -> Result<SourceAnswer, RecoverError> {
    let (answer, destroy) = answer_runs(Some(entry.state), at_work);
    if destroy {
        let end = release(place, record, entry)?;
        tell(&end, log);
    } else if answer == SourceAnswer::Stays {
        log(&format!(
            "{}: it runs on another host, which it was never given to; look at both hosts",
            entry.header.name
        ));
    }
    Ok(answer)
}

fn record_all<S: rxl_handover::State>(
    record: &Record<S>,
    events: [Option<S::Event>; 2],
) -> Result<(), RecoverError> {
    for event in events.into_iter().flatten() {
        record.advance(event)?;
    }
    Ok(())
}
