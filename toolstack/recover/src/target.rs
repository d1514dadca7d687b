//! Settles the record of a domain that was arriving.

use rxl_core::domain::{DomId, Domain, RunState};
use rxl_core::host_error::HostError;
use rxl_core::names::INCOMING;
use rxl_handover::questions::SourceAnswer;
use rxl_handover::target::{TargetEvent, TargetState, TargetStep, step};
use rxl_handover::{Entry, Header, JournalError, Other, Presence, Record};

use crate::Place;
use crate::boot::boot;
use crate::effects::{destroy, discard_named, start};
use crate::end::{End, RecoverError};
use crate::exchange::Peer;
use crate::source::MOST_STEPS;

/// Decides what becomes of a domain that was arriving, and does it. The caller has its lock.
pub fn settle_target(
    place: Place<'_>,
    record: &Record<TargetState>,
    peer: &dyn Peer,
) -> Result<End, RecoverError> {
    let mut heard = None;
    let mut told = None;
    for _ in 0..MOST_STEPS {
        let entry = record.read()?;
        let copy = presence(place, &entry)?;
        let next = step(entry.state, copy, heard.take());
        tracing::debug!(id = entry.header.id, state = ?entry.state, ?copy, ?next, "settling");
        match take_step(place, record, &entry, next, peer, &mut heard) {
            // What was done tells more than that nothing is left to do.
            Ok(Some(End::Before)) => return Ok(told.unwrap_or(End::Before)),
            // The domain runs: that the source does not know it yet is a matter of time.
            Ok(Some(End::Waits(waits))) => return Ok(told.unwrap_or(End::Waits(waits))),
            Ok(Some(end)) => told = Some(end),
            Ok(None) | Err(RecoverError::Journal(JournalError::OutOfOrder(_))) => {}
            Err(error) => return Err(error),
        }
    }
    Err(RecoverError::Restless)
}

/// One step. None where nothing was done that a person would want to know.
fn take_step(
    place: Place<'_>,
    record: &Record<TargetState>,
    entry: &Entry<TargetState>,
    next: TargetStep,
    peer: &dyn Peer,
    heard: &mut Option<SourceAnswer>,
) -> Result<Option<End>, RecoverError> {
    let name = &entry.header.name;
    match next {
        TargetStep::Nothing => Ok(Some(End::Before)),
        TargetStep::Wait => Ok(Some(End::Waits(waits(entry, "the source is still at work on it")))),
        TargetStep::Discard => discard(place, record, entry).map(Some),
        TargetStep::Take => record.advance(TargetEvent::Take).map(|_| None).map_err(Into::into),
        TargetStep::Run => run(place, record, entry),
        TargetStep::Boot => reboot(place, record, entry).map(Some),
        TargetStep::Ended => {
            record.advance(TargetEvent::Start)?;
            Ok(Some(End::NothingLeft(format!("{name} arrived here, and has ended since"))))
        }
        TargetStep::GiveBack => {
            destroy_copy(place, entry)?;
            record.advance(TargetEvent::Destroyed)?;
            Ok(Some(End::Discarded(format!("{name} could not be started here, and is destroyed"))))
        }
        TargetStep::Settle => {
            record.advance(TargetEvent::Settle)?;
            Ok(None)
        }
        TargetStep::Ask(question) => {
            if !matches!(entry.header.other, Other::Rxl { .. }) {
                return without_a_source(place, record, entry);
            }
            match peer.ask_source(&entry.header.id, question) {
                Ok(answer) => {
                    *heard = Some(answer);
                    Ok(None)
                }
                Err(unreachable) => Ok(Some(End::Waits(waits(entry, &unreachable.to_string())))),
            }
        }
    }
}

fn waits(entry: &Entry<TargetState>, why: &str) -> String {
    let name = &entry.header.name;
    match entry.state {
        TargetState::Running => {
            format!("{name} runs here; whether its old copy is gone is not known ({why})")
        }
        _ => format!(
            "{name} was received and stands still here as {name}{INCOMING}: whether it is to run \
             is not known ({why})"
        ),
    }
}

/// A file is not asked; and xl's sender keeps its copy until it has read a good report, which is
/// said after the domain was started.
fn without_a_source(
    place: Place<'_>,
    record: &Record<TargetState>,
    entry: &Entry<TargetState>,
) -> Result<Option<End>, RecoverError> {
    if entry.state != TargetState::Running {
        return discard(place, record, entry).map(Some);
    }
    record.advance(TargetEvent::Settle)?;
    Ok(None)
}

/// The copy never runs. That is recorded before it is destroyed: a GO that comes late is refused.
/// One that was not complete has no number in the record. It is destroyed first, by its name: once
/// its record has ended, a domain of that name is another's.
fn discard(
    place: Place<'_>,
    record: &Record<TargetState>,
    entry: &Entry<TargetState>,
) -> Result<End, RecoverError> {
    let name = &entry.header.name;
    let destroyed = match entry.domid {
        Some(_) => {
            record.advance(TargetEvent::Abort)?;
            destroy_copy(place, entry)?
        }
        None => {
            let destroyed = discard_half_built(place, entry)?;
            record.advance(TargetEvent::Abort)?;
            destroyed
        }
    };
    Ok(match destroyed {
        true => {
            End::Discarded(format!("{name} was received, is not to run here, and is destroyed"))
        }
        false => End::NothingLeft(format!("{name} was being received, and nothing of it is here")),
    })
}

/// What has no number in the record was never complete. It did not outlive the host's boot.
fn discard_half_built(place: Place<'_>, entry: &Entry<TargetState>) -> Result<bool, RecoverError> {
    if entry.presence(place.journal.boot(), true) == Presence::PowerLost {
        return Ok(false);
    }
    let name = built_as(&entry.header);
    let is_ours = |domain: &Domain| is_half_built(place, entry, domain);
    Ok(discard_named(place.host, place.settling, &name, is_ours)?)
}

/// A domain that is being built is paused, and is not marked before it is complete.
fn is_half_built(
    place: Place<'_>,
    entry: &Entry<TargetState>,
    domain: &Domain,
) -> Result<bool, HostError> {
    let marked = place.host.mark_of(domain.domid)?;
    let may_be_ours = marked.is_none_or(|mark| mark == entry.header.id);
    Ok(may_be_ours && matches!(domain.state, RunState::Paused | RunState::Dying))
}

/// The name of the domain while it is being built. One out of a file has its own name at once.
fn built_as(header: &Header) -> String {
    match header.other {
        Other::File { .. } => header.name.clone(),
        Other::Rxl { .. } | Other::Xl { .. } => format!("{}{INCOMING}", header.name),
    }
}

/// True where it was there.
pub(crate) fn destroy_copy(
    place: Place<'_>,
    entry: &Entry<TargetState>,
) -> Result<bool, RecoverError> {
    if presence(place, entry)? != Presence::There {
        return Ok(false);
    }
    destroy(place.host, DomId(entry.domid.unwrap_or_default()))?;
    Ok(true)
}

fn run(
    place: Place<'_>,
    record: &Record<TargetState>,
    entry: &Entry<TargetState>,
) -> Result<Option<End>, RecoverError> {
    let (name, domid) = (&entry.header.name, DomId(entry.domid.unwrap_or_default()));
    if let Err(error) = start(place.host, &entry.header, domid) {
        return cannot_run(place, record, domid, error);
    }
    record.advance(TargetEvent::Start)?;
    let how = if entry.header.leave_paused { "is here, paused" } else { "runs here" };
    Ok(Some(End::Arrived(format!("{name} {how} (number {domid})"))))
}

/// Only what is known not to have run may be given back.
fn cannot_run(
    place: Place<'_>,
    record: &Record<TargetState>,
    domid: DomId,
    error: HostError,
) -> Result<Option<End>, RecoverError> {
    if place.host.domain(domid)?.state != RunState::Paused {
        return Err(error.into());
    }
    tracing::warn!("it could not be started, and is given back: {error}");
    record.advance(TargetEvent::CannotRun)?;
    Ok(None)
}

/// A domain that another toolstack sent is not booted: that one may run it again by now.
fn reboot(
    place: Place<'_>,
    record: &Record<TargetState>,
    entry: &Entry<TargetState>,
) -> Result<End, RecoverError> {
    let name = &entry.header.name;
    if !matches!(entry.header.other, Other::Rxl { .. }) {
        record.advance(TargetEvent::Start)?;
        record.advance(TargetEvent::Settle)?;
        return Ok(End::NothingLeft(format!("{name} was arriving when this host lost its power")));
    }
    let domid = boot(place.host, &entry.header, entry.header.leave_paused)?;
    record.advance_with(TargetEvent::Start, Some(domid.0))?;
    let what = format!("{name} lost its power here and was booted again (number {domid})");
    Ok(End::Booted(what))
}

/// Whether the copy is here still: a domain of that number with this migration's mark.
pub(crate) fn presence(
    place: Place<'_>,
    entry: &Entry<TargetState>,
) -> Result<Presence, RecoverError> {
    let found = match entry.domid.map(DomId) {
        None => false,
        Some(domid) => is_ours(place, entry, domid)?,
    };
    Ok(entry.presence(place.journal.boot(), found))
}

fn is_ours(
    place: Place<'_>,
    entry: &Entry<TargetState>,
    domid: DomId,
) -> Result<bool, RecoverError> {
    let domain = match place.host.domain(domid) {
        Err(HostError::NoSuchDomain(_)) => return Ok(false),
        domain => domain?,
    };
    let name = &entry.header.name;
    let named = domain.name == *name || domain.name == format!("{name}{INCOMING}");
    let marked = place.host.mark_of(domid)?;
    // What was booted again has no mark, and its number is from this boot.
    let ours = marked.map_or(domain.name == *name, |mark| mark == entry.header.id);
    Ok(named && ours && domain.state != RunState::Dying)
}
