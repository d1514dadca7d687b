//! Settles the record of a domain that was leaving.

use rxl_core::names::{INCOMING, MIGRATED_AWAY};
use rxl_handover::questions::TargetAnswer;
use rxl_handover::source::{SourceEvent, SourceState, SourceStep, step};
use rxl_handover::{Entry, JournalError, Other, Record};

use crate::boot::boot;
use crate::end::{End, RecoverError};
use crate::exchange::Peer;
use crate::source_copy::{close, presence, release, run_here};
use crate::{Place, saved};

/// Steps after which a record that changes all the time is left for later.
pub(crate) const MOST_STEPS: usize = 16;

/// Decides what becomes of a domain that was leaving, and does it. The caller has its lock.
pub fn settle_source(
    place: Place<'_>,
    record: &Record<SourceState>,
    peer: &dyn Peer,
) -> Result<End, RecoverError> {
    match &record.read()?.header.other {
        Other::File { .. } => saved::settle(place, record),
        Other::Rxl { .. } | Other::Xl { .. } => settle(place, record, peer),
    }
}

fn settle(
    place: Place<'_>,
    record: &Record<SourceState>,
    peer: &dyn Peer,
) -> Result<End, RecoverError> {
    let mut heard = None;
    for _ in 0..MOST_STEPS {
        let entry = record.read()?;
        let copy = presence(place, &entry)?;
        let next = step(entry.state, copy, heard.take());
        tracing::debug!(id = entry.header.id, state = ?entry.state, ?copy, ?next, "settling");
        match take_step(place, record, &entry, next, peer, &mut heard) {
            Ok(Some(end)) => return Ok(end),
            // Somebody else has decided meanwhile: what is to be done now, the record says.
            Ok(None) | Err(RecoverError::Journal(JournalError::OutOfOrder(_))) => {}
            Err(error) => return Err(error),
        }
    }
    Err(RecoverError::Restless)
}

/// One step. None where more have to follow.
fn take_step(
    place: Place<'_>,
    record: &Record<SourceState>,
    entry: &Entry<SourceState>,
    next: SourceStep,
    peer: &dyn Peer,
    heard: &mut Option<TargetAnswer>,
) -> Result<Option<End>, RecoverError> {
    let name = &entry.header.name;
    match next {
        SourceStep::Nothing => Ok(Some(End::Before)),
        SourceStep::Record(event) => record.advance(event).map(|_| None).map_err(Into::into),
        SourceStep::Close(event) => {
            close(record, event)?;
            Ok(Some(End::NothingLeft(format!("{name} was leaving, and is not here any more"))))
        }
        SourceStep::RunOn(event) => {
            record.advance(event)?;
            run_here(place, record, entry).map(Some)
        }
        SourceStep::Boot(event) => {
            record.advance(event)?;
            // It ran here, however it is to arrive at the target.
            let domid = boot(place.host, &entry.header, false)?;
            record.advance(SourceEvent::RunsHere)?;
            let what = format!("{name} lost its power here and was booted again (number {domid})");
            Ok(Some(End::Booted(what)))
        }
        SourceStep::Release => release(place, record, entry).map(Some),
        SourceStep::Wait => Ok(Some(waits(name, "it is still at work on it"))),
        SourceStep::Ask(question) => {
            if let Other::Xl { .. } = entry.header.other {
                return Ok(Some(undecided_by_xl(entry)));
            }
            match peer.ask_target(&entry.header.id, question) {
                Ok(answer) => {
                    *heard = Some(answer);
                    Ok(None)
                }
                Err(unreachable) => Ok(Some(waits(name, &unreachable.to_string()))),
            }
        }
    }
}

fn waits(name: &str, why: &str) -> End {
    End::Waits(format!(
        "{name} stands still here as {name}{MIGRATED_AWAY}: whether the other host has it is not \
         known ({why})"
    ))
}

/// xl's protocol has no second connection: whether its GO was read, only a person can find out.
fn undecided_by_xl(entry: &Entry<SourceState>) -> End {
    let name = &entry.header.name;
    let away = format!("{name}{MIGRATED_AWAY}");
    let host = match &entry.header.other {
        Other::Xl { host: Some(host) } => host,
        _ => "the target",
    };
    End::Person {
        what: format!(
            "{name} was given to xl on {host}, which cannot be asked; the copy here is kept as \
             {away}"
        ),
        next: format!(
            "if `xl list` there shows {name}, or it ran there since, `xl destroy {away}` here; if \
             it shows {name}{INCOMING}, `xl destroy` that there; once neither is there, and it \
             never ran there, `xl rename {away} {name}` and `xl resume {name}` here"
        ),
    }
}
