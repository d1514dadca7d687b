//! `xl migrate-receive` for the tests: rxl's own over the in-memory host, or one that does as it is
//! told.
//!
//! memory-xl-peer DIR rxl [paused] [fault=restore|rename|unpause|destroy] [taken=NAME]
//! memory-xl-peer DIR STEP...
//!
//! Steps: `banner`, `ready`, `report=STATUS`, `give-back`, `say=TEXT` (words to the sender);
//! `stream` (reads all that comes before READY into DIR/captured), `some=BYTES` (reads so many),
//! `go` (reads GO, and leaves DIR/go when it was that); `deaf` (closes its input), `linger` (reads
//! its input to the end), `exit=STATUS`.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use migrate_stream::reader::{Start, StreamReader};
use migrate_stream::xl::{BANNER, GO, READY, REPORT};

use rxl_core::domain::GuestType;
use rxl_core::state_dir::StateDir;
use rxl_host::host::Host;
use rxl_session::events::Events;
use rxl_session::xl::receive::{Options, receive};
use rxl_testkit::memory::{Faults, Guest, MemoryHost};

#[path = "outcome.rs"]
mod outcome;

fn main() {
    let mut words = std::env::args().skip(1);
    let dir = PathBuf::from(words.next().expect("DIR"));
    let words: Vec<String> = words.collect();
    match words.split_first() {
        Some((first, options)) if first == "rxl" => as_rxl(&dir, options),
        _ => as_told(&dir, &words),
    }
}

fn as_rxl(dir: &Path, words: &[String]) {
    let memory = MemoryHost::new(64 << 20);
    let (mut options, mut faults) = (Options::default(), Faults::default());
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("paused", _) => options.leave_paused = true,
            ("fault", "restore") => faults.restore_after = Some(1 << 20),
            ("fault", "rename") => faults.rename = true,
            ("fault", "unpause") => faults.unpause = true,
            ("fault", "destroy") => (faults.unpause, faults.destroy) = (true, true),
            ("taken", name) => {
                let guest =
                    Guest { pages: 1, zero_per_256: 0, dirty: Vec::new(), endless: false, seed: 0 };
                memory.start(name, GuestType::Pvh, guest);
            }
            other => panic!("{other:?}"),
        }
    }
    memory.set_faults(faults);
    let host: Arc<dyn Host> = Arc::new(memory.clone());
    let wire = (own(&std::io::stdin()), own(&std::io::stdout()));
    let result = receive(&host, &StateDir::at(dir), wire, options, &Events::default());
    let failure = result.err().map(|failure| failure.to_string());
    if let Some(failure) = &failure {
        eprintln!("{failure}");
    }
    outcome::leave_outcome(dir, &memory, failure);
}

fn own(fd: &impl AsFd) -> std::os::fd::OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

fn as_told(dir: &Path, steps: &[String]) {
    // Closed when dropped, unlike std's.
    let mut input = Some(File::from(own(&std::io::stdin())));
    let mut output = File::from(own(&std::io::stdout()));
    for step in steps {
        let (step, value) = step.split_once('=').unwrap_or((step, ""));
        let from = || input.as_ref().expect("an open input");
        match step {
            "banner" => output.write_all(BANNER).unwrap(),
            "ready" => output.write_all(READY).unwrap(),
            "report" => {
                output.write_all(&[&REPORT[..], &[value.parse().unwrap()]].concat()).unwrap()
            }
            "give-back" => output.write_all(GO).unwrap(),
            "say" => output.write_all(value.as_bytes()).unwrap(),
            "stream" => std::fs::write(dir.join("captured"), stream(from())).unwrap(),
            "some" => std::io::copy(&mut from().take(value.parse().unwrap()), &mut std::io::sink())
                .map(drop)
                .unwrap(),
            "go" => {
                let mut got = [0; GO.len()];
                if from().read_exact(&mut got).is_ok() && got == *GO {
                    std::fs::write(dir.join("go"), "").unwrap();
                }
            }
            "deaf" => {
                input = None;
                // The last handle is std's.
                nix::unistd::close(0).unwrap();
            }
            "linger" => std::io::copy(&mut from(), &mut std::io::sink()).map(drop).unwrap(),
            "exit" => std::process::exit(value.parse().unwrap()),
            other => panic!("{other}"),
        }
    }
}

/// Header, configuration and stream, to their last byte.
fn stream(mut from: &File) -> Vec<u8> {
    let mut reader = StreamReader::new(Start::XlFile);
    let mut all = Vec::new();
    while !reader.is_complete() {
        let at = all.len();
        all.resize(at + usize::try_from(reader.wanted()).unwrap(), 0);
        from.read_exact(&mut all[at..]).unwrap();
        let mut rest = &all[at..];
        while reader.next(&mut rest).unwrap().is_some() {}
    }
    all
}
