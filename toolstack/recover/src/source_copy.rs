//! The copy that a source has: whether it is there, and what a record says is done with it.

use rxl_core::domain::{DomId, RunState};
use rxl_core::host_error::HostError;
use rxl_core::names::MIGRATED_AWAY;
use rxl_handover::source::{SourceEvent, SourceState};
use rxl_handover::{Entry, Presence, Record};

use crate::Place;
use crate::effects::{destroy, run_on};
use crate::end::{End, RecoverError};

/// Records the event, and that it is over.
pub(crate) fn close(record: &Record<SourceState>, event: SourceEvent) -> Result<(), RecoverError> {
    record.advance(event)?;
    record.advance(SourceEvent::RunsHere)?;
    Ok(())
}

/// The record says that the domain stays.
pub(crate) fn run_here(
    place: Place<'_>,
    record: &Record<SourceState>,
    entry: &Entry<SourceState>,
) -> Result<End, RecoverError> {
    let (name, domid) = (&entry.header.name, DomId(entry.domid.unwrap_or_default()));
    let resumed = run_on(place.host, place.settling, domid, name)?;
    record.advance(SourceEvent::RunsHere)?;
    let how = if resumed { "was suspended and runs on here" } else { "runs on here" };
    Ok(End::RunsOn(format!("{name} {how}")))
}

/// The record of the target says that the domain is there.
pub(crate) fn release(
    place: Place<'_>,
    record: &Record<SourceState>,
    entry: &Entry<SourceState>,
) -> Result<End, RecoverError> {
    let name = &entry.header.name;
    if presence(place, entry)? == Presence::There {
        destroy(place.host, DomId(entry.domid.unwrap_or_default()))?;
    }
    record.advance(SourceEvent::Destroyed)?;
    Ok(End::Released(format!("{name} belongs to the other host, and its copy here is destroyed")))
}

/// Whether the copy is here still: a domain of that number, under one of the two names that it can
/// have.
pub(crate) fn presence(
    place: Place<'_>,
    entry: &Entry<SourceState>,
) -> Result<Presence, RecoverError> {
    let name = &entry.header.name;
    let found = match entry.domid.map(|domid| place.host.domain(DomId(domid))) {
        None | Some(Err(HostError::NoSuchDomain(_))) => false,
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(domain)) => {
            let ours = domain.name == *name || domain.name == format!("{name}{MIGRATED_AWAY}");
            ours && domain.state != RunState::Dying
        }
    };
    Ok(entry.presence(place.journal.boot(), found))
}
