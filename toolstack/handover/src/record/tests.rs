use std::path::Path;
use std::time::Instant;

use super::*;
use crate::Journal;
use crate::source::{SourceEvent, SourceState};
use crate::target::{TargetEvent, TargetState};

pub(crate) fn header(id: &str) -> Header {
    Header {
        id: id.into(),
        name: "dom3".into(),
        uuid: None,
        config_json: "{}".into(),
        domid: Some(3),
        other: Other::Rxl { hosts: vec!["nodeB".into()], ssh_command: None },
        leave_paused: false,
        no_monitor: false,
    }
}

const ID: &str = "0123456789abcdef0123456789abcdef";

fn journal(dir: &Path) -> Journal {
    Journal::at(dir.join("records")).unwrap()
}

fn another_boot() -> BootId {
    BootId::try_from("another boot".to_owned()).unwrap()
}

/// Where the last line begins and ends.
fn last_line(record: &Record<SourceState>) -> (usize, usize) {
    let bytes = std::fs::read(record.path()).unwrap();
    let end = bytes.iter().rposition(|byte| *byte == b'\n').unwrap();
    let begin = bytes[..end].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    (begin, end + 1)
}

#[test]
fn a_record_says_what_was_told_and_what_was_refused_is_not_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let record = journal(dir.path()).begin::<SourceState>(&header(ID)).unwrap();
    assert_eq!(record.advance(SourceEvent::Commit).unwrap(), SourceState::Committing);
    let refused = record.advance(SourceEvent::Stay).unwrap_err();
    assert!(matches!(&refused, JournalError::OutOfOrder(_)), "{refused}");
    assert!(refused.to_string().contains("Committing"), "{refused}");
    let entry = record.read().unwrap();
    assert_eq!(entry.header, header(ID));
    assert_eq!((entry.state, entry.domid), (SourceState::Committing, Some(3)));
}

#[test]
fn a_copy_belongs_to_the_boot_in_which_its_number_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let unnumbered = Header { domid: None, ..header(ID) };
    let before = journal(dir.path());
    let record = before.begin::<TargetState>(&unnumbered).unwrap();
    record.advance_with(TargetEvent::Hold, Some(7)).unwrap();
    record.advance(TargetEvent::Take).unwrap();
    let held = record.read().unwrap();
    assert_eq!((held.domid, held.presence(before.boot(), true)), (Some(7), Presence::There));
    assert_eq!(held.presence(before.boot(), false), Presence::Gone);

    let after = before.in_boot(another_boot());
    let record = after.find::<TargetState>(ID).unwrap().unwrap();
    assert_eq!(record.read().unwrap().presence(after.boot(), true), Presence::PowerLost);
    // A state without a number says nothing about the copy.
    record.advance(TargetEvent::Start).unwrap();
    assert_eq!(record.read().unwrap().presence(after.boot(), true), Presence::PowerLost);
    record.advance_with(TargetEvent::Start, Some(1)).unwrap();
    let booted = record.read().unwrap();
    assert_eq!((booted.domid, booted.presence(after.boot(), true)), (Some(1), Presence::There));
}

#[test]
fn a_line_that_was_torn_was_not_written_and_the_next_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let record = journal(dir.path()).begin::<SourceState>(&header(ID)).unwrap();
    record.advance(SourceEvent::Commit).unwrap();
    let whole = std::fs::read(record.path()).unwrap();
    let (begin, end) = last_line(&record);
    for cut in begin..end {
        // The disk has the line's beginning, or its end.
        for lost in [cut..end, begin..cut + 1] {
            let mut torn = whole.clone();
            torn[lost].fill(0);
            std::fs::write(record.path(), &torn).unwrap();
            assert_eq!(record.state().unwrap(), SourceState::Leaving, "{cut}");
        }
    }
    // A shorter line leaves the torn one's end behind it.
    let mut torn = whole.clone();
    torn[begin] ^= 1;
    torn[end - 1] = b' ';
    torn[end..end + 9].copy_from_slice(b"leftover\n");
    std::fs::write(record.path(), &torn).unwrap();
    assert_eq!(record.advance(SourceEvent::Stay).unwrap(), SourceState::Returning);
    assert_eq!(record.advance(SourceEvent::RunsHere).unwrap(), SourceState::Returned);
    assert_eq!(record.state().unwrap(), SourceState::Returned);
}

#[test]
fn no_line_makes_the_file_longer() {
    let dir = tempfile::tempdir().unwrap();
    let record = journal(dir.path()).begin::<SourceState>(&header(ID)).unwrap();
    let length = || record.path().metadata().unwrap().len();
    let before = length();
    for event in [SourceEvent::Commit, SourceEvent::Grant, SourceEvent::TargetAborted] {
        record.advance(event).unwrap();
    }
    record.advance(SourceEvent::RunsHere).unwrap();
    assert_eq!(length(), before);
    // What changes nothing writes nothing.
    let whole = std::fs::read(record.path()).unwrap();
    record.advance(SourceEvent::RunsHere).unwrap();
    assert_eq!(std::fs::read(record.path()).unwrap(), whole);
}

#[test]
fn what_is_too_long_or_no_record_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let long = usize::try_from(LONGEST).unwrap();
    let too_long = Header { config_json: "x".repeat(long), ..header(ID) };
    let journal = journal(dir.path());
    assert!(matches!(journal.begin::<SourceState>(&too_long), Err(JournalError::Io { .. })));
    assert!(journal.find::<SourceState>(ID).unwrap().is_none());

    let record = journal.begin::<SourceState>(&header(ID)).unwrap();
    for rubbish in [Vec::new(), vec![0; 64], vec![b'x'; 2 * long], b"00000000 {}\n".to_vec()] {
        std::fs::write(record.path(), rubbish).unwrap();
        assert!(matches!(record.read(), Err(JournalError::Unreadable(_))));
        assert!(record.advance(SourceEvent::Commit).is_err());
    }
}

/// Stay and Commit exclude each other: with a session and a fence at once, one has its way.
#[test]
fn of_two_that_decide_at_once_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..50 {
        let id = format!("{round:032x}");
        let first = journal(dir.path()).begin::<SourceState>(&header(&id)).unwrap();
        let second = journal(dir.path()).find::<SourceState>(&id).unwrap().unwrap();
        let (one, other) = std::thread::scope(|scope| {
            let one = scope.spawn(|| first.advance(SourceEvent::Commit));
            let other = scope.spawn(|| second.advance(SourceEvent::Stay));
            (one.join().unwrap(), other.join().unwrap())
        });
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
        let won = if one.is_ok() { SourceState::Committing } else { SourceState::Returning };
        assert_eq!(first.state().unwrap(), won);
    }
}

#[test]
fn a_process_that_is_stopped_with_the_lock_delays_others_only_so_long() {
    let dir = tempfile::tempdir().unwrap();
    let record = journal(dir.path()).begin::<SourceState>(&header(ID)).unwrap();
    let file = File::open(record.path()).unwrap();
    let stopped = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    let began = Instant::now();
    assert!(matches!(record.advance(SourceEvent::Commit), Err(JournalError::Io { .. })));
    let waited = began.elapsed();
    assert!(waited >= deadlines::RECORD_LOCK && waited < 2 * deadlines::RECORD_LOCK, "{waited:?}");
    assert_eq!(record.state().unwrap(), SourceState::Leaving, "reading needs no lock");
    drop(stopped);
    assert_eq!(record.advance(SourceEvent::Commit).unwrap(), SourceState::Committing);
}

/// On the disk that holds the current directory's target.
#[test]
#[ignore = "measures this machine's disk"]
fn how_long_a_line_takes() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let mut lines = Vec::new();
    for round in 0..100 {
        let id = format!("{round:032x}");
        let record = journal(dir.path()).begin::<SourceState>(&header(&id)).unwrap();
        for event in [SourceEvent::Commit, SourceEvent::Grant, SourceEvent::TargetAborted] {
            let began = Instant::now();
            record.advance(event).unwrap();
            lines.push(began.elapsed());
        }
    }
    lines.sort();
    let at = |percent: usize| lines[lines.len() * percent / 100];
    println!("median {:?}, ninth decile {:?}, longest {:?}", at(50), at(90), lines[299]);
}
