use super::*;
use crate::record::tests::header;
use crate::source::{SourceEvent, SourceState};
use crate::target::TargetState;

const ID: &str = "0123456789abcdef0123456789abcdef";

fn journal(dir: &Path) -> Journal {
    Journal::at(dir.join("lib/rxl/migrations")).unwrap()
}

fn make_old(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - KEPT - Duration::from_secs(60)).unwrap();
}

#[test]
fn an_id_is_thirty_two_digits_and_no_path() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(dir.path());
    let long = "a".repeat(1000);
    let slashes = "../../../../../../etc/cron.d/xyz";
    assert_eq!(slashes.len(), 32);
    for id in
        ["", "..", "../../etc/passwd", slashes, &ID[1..], "é123456789abcdef0123456789abcdef", &long]
    {
        let refused = |error| match error {
            JournalError::NoId(shown) => shown.chars().count() <= 64,
            _ => false,
        };
        assert!(refused(journal.find::<SourceState>(id).unwrap_err()), "{id}");
        assert!(refused(journal.begin::<TargetState>(&header(id)).unwrap_err()), "{id}");
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was made");
}

#[test]
fn both_ends_of_a_migration_may_be_on_one_host_and_neither_begins_twice() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(dir.path());
    assert!(journal.all::<SourceState>().unwrap().is_empty(), "before anything was made");
    let source = journal.begin::<SourceState>(&header(ID)).unwrap();
    journal.begin::<TargetState>(&header(ID)).unwrap();
    source.advance(SourceEvent::Commit).unwrap();
    assert!(journal.begin::<SourceState>(&header(ID)).is_err());
    assert_eq!(source.state().unwrap(), SourceState::Committing, "it is not forgotten");
    assert_eq!(journal.all::<SourceState>().unwrap().len(), 1);
    assert_eq!(journal.all::<TargetState>().unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(&journal.dir).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn that_a_record_cannot_be_looked_for_is_not_that_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(dir.path());
    std::fs::create_dir_all(journal.dir.parent().unwrap()).unwrap();
    assert!(journal.find::<SourceState>(ID).unwrap().is_none());
    std::fs::write(&journal.dir, "a file in the way").unwrap();
    assert!(matches!(journal.find::<SourceState>(ID), Err(JournalError::Io { .. })));
}

#[test]
fn only_what_has_ended_long_ago_is_removed_and_what_was_never_made() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(dir.path());
    let begin =
        |digit: char| journal.begin::<SourceState>(&header(&digit.to_string().repeat(32))).unwrap();
    let [open, ended, ended_now] = ['1', '2', '3'].map(begin);
    for record in [&ended, &ended_now] {
        record.advance(SourceEvent::Stay).unwrap();
        record.advance(SourceEvent::RunsHere).unwrap();
    }
    let half_made = journal.dir.join("4".repeat(32) + ".source.new");
    let being_made = journal.dir.join("5".repeat(32) + ".source.new");
    for path in [&half_made, &being_made] {
        std::fs::write(path, "").unwrap();
    }
    for path in [open.path(), ended.path(), &half_made] {
        make_old(path);
    }
    journal.prune::<TargetState>().unwrap();
    assert!(ended.path().exists(), "it is the source's");
    journal.prune::<SourceState>().unwrap();
    assert!(open.path().exists() && ended_now.path().exists() && being_made.exists());
    assert!(!ended.path().exists() && !half_made.exists());
    assert!(journal.find::<SourceState>(&"2".repeat(32)).unwrap().is_none());
}

#[test]
fn records_are_for_root_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(dir.path());
    let record = journal.begin::<SourceState>(&header(ID)).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&journal.dir), mode(record.path())), (0o700, 0o600));
}
