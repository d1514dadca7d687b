//! Reads libxl's log lines: from text to [`NoteKind`], without state.
//!
//! The lines are libxl's debug output (libxl_dom_suspend.c in 4.17) and no promise. Each is looked
//! for at the end of the line, after the domain number that libxl puts before it; one that is never
//! found only leaves the matching note out.

use rxl_core::notes::NoteKind;

/// A level of xentoollog.h, as far as anything here tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Debug,
    Progress,
    Info,
    Warn,
    Error,
}

impl Level {
    /// From a `xentoollog_level`. Unknown ones count as errors, to be seen.
    pub(super) fn of(raw: i32) -> Self {
        match u32::try_from(raw).unwrap_or(u32::MAX) {
            libxl_sys::XTL_NONE
            | libxl_sys::XTL_DEBUG
            | libxl_sys::XTL_VERBOSE
            | libxl_sys::XTL_DETAIL => Self::Debug,
            libxl_sys::XTL_PROGRESS => Self::Progress,
            libxl_sys::XTL_INFO | libxl_sys::XTL_NOTICE => Self::Info,
            libxl_sys::XTL_WARN => Self::Warn,
            _ => Self::Error,
        }
    }
}

/// The note that a line stands for, if it stands for one.
pub(super) fn note_of(level: Level, line: &str) -> Option<NoteKind> {
    match level {
        Level::Warn | Level::Error => Some(NoteKind::Message(line.to_owned())),
        Level::Debug => suspend_step(line),
        Level::Progress | Level::Info => None,
    }
}

fn suspend_step(line: &str) -> Option<NoteKind> {
    // "issuing PVH/HVM suspend request via XenBus control node", or "... via event channel".
    if line.contains(":issuing ") && line.contains(" suspend request via ") {
        return Some(NoteKind::SuspendRequested);
    }
    // A guest without PV drivers is not asked but stopped.
    if line.ends_with(":Calling xc_domain_shutdown on HVM domain") {
        return Some(NoteKind::SuspendRequested);
    }
    if line.ends_with(":guest acknowledged suspend request") {
        return Some(NoteKind::SuspendAcknowledged);
    }
    line.ends_with(":guest has suspended").then_some(NoteKind::Suspended)
}

/// The line without libxl's source position (`FILE.c:LINE:FUNCTION: `), which tells an operator
/// nothing.
pub(super) fn without_position(line: &str) -> &str {
    match line.split_once(": ") {
        Some((position, rest)) if is_position(position) => rest,
        _ => line,
    }
}

fn is_position(text: &str) -> bool {
    let mut parts = text.split(':');
    parts.next().is_some_and(|file| file.ends_with(".c"))
        && parts.next().is_some_and(|line| line.parse::<u32>().is_ok())
        && parts.next().is_some()
        && parts.next().is_none()
}

/// One line without control characters: parts of libxl's lines come from guests.
pub(super) fn printable(text: &str) -> String {
    text.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debug(line: &str) -> Option<NoteKind> {
        note_of(Level::Debug, line)
    }

    #[test]
    fn the_steps_of_a_suspend_are_recognised() {
        let at = "Domain 3:";
        for asked in [
            "issuing PVH/HVM suspend request via XenBus control node",
            "issuing PV suspend request via event channel",
            "Calling xc_domain_shutdown on HVM domain",
        ] {
            assert_eq!(debug(&format!("{at}{asked}")), Some(NoteKind::SuspendRequested), "{asked}");
        }
        assert_eq!(
            debug(&format!("{at}guest acknowledged suspend request")),
            Some(NoteKind::SuspendAcknowledged)
        );
        assert_eq!(debug(&format!("{at}guest has suspended")), Some(NoteKind::Suspended));
        assert_eq!(debug(&format!("{at}wait for the guest to suspend")), None);
        assert_eq!(debug("ao 0x1: complete, rc=0"), None);
    }

    #[test]
    fn only_debug_lines_are_steps_and_only_warnings_are_for_people() {
        let step = "x: Domain 3:guest has suspended";
        assert_eq!(note_of(Level::Info, step), None);
        assert_eq!(note_of(Level::Warn, step), Some(NoteKind::Message(step.into())));
        assert_eq!(
            note_of(Level::of(libxl_sys::XTL_CRITICAL as i32), "bad"),
            Some(NoteKind::Message("bad".into()))
        );
    }

    #[test]
    fn levels_keep_their_order() {
        assert_eq!(Level::of(libxl_sys::XTL_DEBUG as i32), Level::Debug);
        assert_eq!(Level::of(libxl_sys::XTL_WARN as i32), Level::Warn);
        assert_eq!(Level::of(libxl_sys::XTL_ERROR as i32), Level::Error);
        assert_eq!(Level::of(-1), Level::Error);
    }

    #[test]
    fn source_positions_are_cut_and_nothing_else() {
        let line = "libxl_create.c:1292:initiate_domain_create: Domain 4:cannot make domain: -3";
        assert_eq!(without_position(line), "Domain 4:cannot make domain: -3");
        for whole in ["saving domain: it broke", "a.c:x:f: y", "a.c:1:f:g: y", "a.c: y", ""] {
            assert_eq!(without_position(whole), whole);
        }
    }

    #[test]
    fn a_line_stays_one_line() {
        assert_eq!(printable("name \u{1b}[2J\nx\n"), "name ?[2J?x");
    }
}
