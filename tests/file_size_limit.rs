//! A limit on the length of files stops a save, not the program: the domain runs on, and no part of
//! a file is left.
//!
//! A test program of its own, because the limit is the whole process's.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use rxl_core::domain::{GuestType, RunState};
use rxl_core::error::Exit;
use rxl_core::level::Level;
use rxl_core::save_format::Format;
use rxl_core::state_dir::StateDir;
use rxl_datapath::packing::Packing;
use rxl_session::events::Events;
use rxl_session::savefile::save::{After, SaveRequest, save};
use rxl_testkit::memory::{Guest, MemoryHost};

#[test]
fn a_file_that_may_not_grow_leaves_the_domain_running() {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 1 << 20, hard).unwrap();
    for format in [Format::Rxl, Format::Plain] {
        let directory = tempfile::tempdir().unwrap();
        let host = MemoryHost::new(1 << 20);
        host.start(
            "dom3",
            GuestType::Pvh,
            Guest { pages: 5000, zero_per_256: 0, dirty: vec![], endless: false, seed: 7 },
        );
        let path = directory.path().join("dom3.save");
        let packing = Packing { compress: true, level: 1, threads: 2 };
        let request = SaveRequest {
            domain: "dom3".into(),
            path,
            format,
            after: After::Destroy,
            packing,
            quiesce: Level::Off,
        };
        let state = StateDir::at(directory.path().join("state"));
        let failure = save(&host, &state, &request, None, &Events::default()).unwrap_err();
        assert_eq!(failure.exit, Exit::FailedSourceRuns, "{failure}");
        assert!(failure.to_string().contains("File too large"), "{failure}");
        assert_eq!(host.domains()[0].domain.state, RunState::Running);
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            1,
            "only the directory of locks"
        );
    }
}
