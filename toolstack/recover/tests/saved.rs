//! What is done about a save that was cut short, by how far it came.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod hosts;

use std::path::PathBuf;

use hosts::Hosts;
use rxl_core::domain::RunState;
use rxl_handover::record::AfterSave;
use rxl_handover::source::{SourceEvent, SourceState};
use rxl_recover::End;

/// A save whose domain stands still, with its file under the name that it has until it is complete.
fn saving(after: AfterSave) -> (Hosts, PathBuf, PathBuf) {
    let hosts = Hosts::saving(after);
    hosts.source.suspend();
    let (path, unfinished) = hosts.source.save_paths();
    std::fs::write(&unfinished, "half").unwrap();
    (hosts, path, unfinished)
}

fn settle(hosts: &Hosts) -> End {
    hosts.source.settle_source(&hosts.target).unwrap()
}

#[test]
fn an_unfinished_file_is_removed_and_the_domain_runs_on() {
    for commit in [false, true] {
        let (hosts, path, unfinished) = saving(AfterSave::Destroy);
        if commit {
            hosts.source.source_record().advance(SourceEvent::Commit).unwrap();
        }
        assert!(matches!(settle(&hosts), End::RunsOn(_)));
        assert_eq!(hosts.source.domains(), [("dom3".into(), RunState::Running)]);
        assert!(!unfinished.exists() && !path.exists());
        assert_eq!(hosts.source.source_state(), SourceState::Returned);
    }
}

#[test]
fn a_domain_whose_file_is_in_place_becomes_what_was_asked_for() {
    for (after, left) in [
        (AfterSave::Destroy, None),
        (AfterSave::Run, Some(RunState::Running)),
        (AfterSave::Pause, Some(RunState::Paused)),
    ] {
        let (hosts, path, unfinished) = saving(after);
        hosts.source.source_record().advance(SourceEvent::Commit).unwrap();
        std::fs::rename(&unfinished, &path).unwrap();
        assert!(matches!(settle(&hosts), End::Released(_)));
        let domains = hosts.source.domains();
        assert_eq!(domains.first().map(|(_, state)| *state), left, "{after:?}");
        assert!(path.exists());
        assert_eq!(hosts.source.source_state(), SourceState::Released);
        assert_eq!(settle(&hosts), End::Before, "it is done once");
    }
}

#[test]
fn a_host_without_power_has_the_domain_in_its_file_or_boots_it() {
    let boot = || "another boot".to_owned().try_into().unwrap();
    let (hosts, ..) = saving(AfterSave::Destroy);
    let hosts = hosts.source_lost_power(boot());
    assert!(matches!(settle(&hosts), End::Booted(_)));

    let (hosts, path, unfinished) = saving(AfterSave::Destroy);
    hosts.source.source_record().advance(SourceEvent::Commit).unwrap();
    std::fs::rename(&unfinished, &path).unwrap();
    let hosts = hosts.source_lost_power(boot());
    assert!(matches!(settle(&hosts), End::Released(_)));
    assert_eq!(hosts.source.domains(), []);
}
