//! Settles the record of a domain that was being saved into a file.
//!
//! The file gets its name by rename(2), after Committing is recorded: the name that it had while it
//! was written tells whether that has happened.

use std::path::Path;

use rxl_core::domain::DomId;
use rxl_core::host_error::HostError;
use rxl_handover::record::AfterSave;
use rxl_handover::source::{SourceEvent, SourceState};
use rxl_handover::{Entry, Other, Presence, Record};
use rxl_host::watch;

use crate::Place;
use crate::boot::boot;
use crate::effects::destroy;
use crate::end::{End, RecoverError};
use crate::source_copy::{presence, run_here};

/// Decides whether the domain is in its file, and does what follows.
pub(crate) fn settle(place: Place<'_>, record: &Record<SourceState>) -> Result<End, RecoverError> {
    let entry = record.read()?;
    let Other::File { path, unfinished, after } = &entry.header.other else {
        return Ok(End::Before);
    };
    match entry.state {
        SourceState::Returned | SourceState::Released => Ok(End::Before),
        SourceState::Committing | SourceState::Granted if is_in_place(unfinished.as_deref()) => {
            finish(place, record, &entry, path, *after)
        }
        state => {
            remove(unfinished.as_deref());
            let event = match state {
                SourceState::Committing => SourceEvent::NotSaid,
                _ => SourceEvent::Stay,
            };
            record.advance(event)?;
            stay(place, record, &entry)
        }
    }
}

fn is_in_place(unfinished: Option<&Path>) -> bool {
    unfinished.is_none_or(|path| !path.exists())
}

fn remove(unfinished: Option<&Path>) {
    if let Some(path) = unfinished
        && let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("{}: {error}", path.display());
    }
}

/// The domain is not in the file.
fn stay(
    place: Place<'_>,
    record: &Record<SourceState>,
    entry: &Entry<SourceState>,
) -> Result<End, RecoverError> {
    let name = &entry.header.name;
    match presence(place, entry)? {
        Presence::There => run_here(place, record, entry),
        Presence::Gone => {
            record.advance(SourceEvent::RunsHere)?;
            Ok(End::NothingLeft(format!("{name} was being saved, and is not here any more")))
        }
        Presence::PowerLost => {
            let domid = boot(place.host, &entry.header, false)?;
            record.advance(SourceEvent::RunsHere)?;
            let what = format!("{name} lost its power here and was booted again (number {domid})");
            Ok(End::Booted(what))
        }
    }
}

/// The domain is in the file, and becomes what was asked for.
fn finish(
    place: Place<'_>,
    record: &Record<SourceState>,
    entry: &Entry<SourceState>,
    path: &Path,
    after: AfterSave,
) -> Result<End, RecoverError> {
    let (name, domid) = (&entry.header.name, DomId(entry.domid.unwrap_or_default()));
    let there = presence(place, entry)? == Presence::There;
    let what = match (there, after) {
        (true, AfterSave::Destroy) => {
            destroy(place.host, domid)?;
            "and is destroyed here"
        }
        (false, AfterSave::Destroy) => "and is not here any more",
        (true, AfterSave::Run | AfterSave::Pause) => {
            resume(place, domid, after)?;
            "and goes on here"
        }
        (false, AfterSave::Run | AfterSave::Pause) => "and is not here any more",
    };
    record.advance(SourceEvent::Destroyed)?;
    Ok(End::Released(format!("{name} is saved in {}, {what}", path.display())))
}

fn resume(place: Place<'_>, domid: DomId, after: AfterSave) -> Result<(), HostError> {
    if after == AfterSave::Pause {
        place.host.pause(domid)?;
    }
    place.host.resume(domid)?;
    watch::again(place.host, domid);
    Ok(())
}
