//! `rxl migrate-receive` against senders that end in every way: what it says, to the byte, and what
//! it leaves.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use migrate_stream::xl::{BANNER, GO, HEADER_LEN, READY, REPORT};

use crate::support::example;
use rxl_core::domain::{GuestType, RunState};
use rxl_core::error::{Exit, Failure};
use rxl_core::io::pipe;
use rxl_core::state_dir::StateDir;
use rxl_host::host::Host;
use rxl_session::events::Events;
use rxl_session::xl::receive::{Options, receive};
use rxl_testkit::memory::{Faults, Guest, MemoryHost};

/// Header, configuration and stream of a guest of 4 MiB named `synthetic`.
fn sent() -> &'static [u8] {
    static SENT: OnceLock<Vec<u8>> = OnceLock::new();
    SENT.get_or_init(|| {
        Command::new(example("make-stream")).args(["4", "1"]).output().unwrap().stdout
    })
}

/// How a receiver ended.
struct Ended {
    result: Result<(), Failure>,
    said: Vec<u8>,
    host: MemoryHost,
}

impl Ended {
    fn names(&self) -> Vec<(String, RunState)> {
        self.host.domains().into_iter().map(|kept| (kept.domain.name, kept.domain.state)).collect()
    }

    fn failure(&self) -> &Failure {
        self.result.as_ref().unwrap_err()
    }

    /// It has said just this, and nothing is left.
    fn assert_nothing_left(&self, said: &[&[u8]], what: &str) {
        println!("{what}: {}", self.failure());
        assert_eq!(
            String::from_utf8_lossy(&self.said),
            String::from_utf8_lossy(&said.concat()),
            "{what}"
        );
        assert_eq!(self.names(), [], "{what}");
    }
}

fn host(faults: Faults) -> MemoryHost {
    let host = MemoryHost::new(64 << 20);
    host.set_faults(faults);
    host
}

/// A sender that writes all this, and then closes; it listens to the end.
fn receive_all(host: MemoryHost, options: Options, bytes: Vec<u8>) -> Ended {
    let (input, mut to) = (pipe().unwrap(), Vec::new());
    let ((reading, writing), (mut from, output)) = (input, pipe().unwrap().into_files());
    let sender = std::thread::spawn(move || {
        // A receiver that has given up reads no more.
        let _ = File::from(writing).write_all(&bytes);
    });
    let listener = std::thread::spawn(move || {
        from.read_to_end(&mut to).unwrap();
        to
    });
    let dir = tempfile::tempdir().unwrap();
    let shared: Arc<dyn Host> = Arc::new(host.clone());
    let result =
        receive(&shared, &StateDir::at(dir.path()), (reading, output), options, &Events::default());
    sender.join().unwrap();
    Ended { result, said: listener.join().unwrap(), host }
}

trait IntoFiles {
    fn into_files(self) -> (File, std::os::fd::OwnedFd);
}

impl IntoFiles for (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
    fn into_files(self) -> (File, std::os::fd::OwnedFd) {
        (File::from(self.0), self.1)
    }
}

fn with(tail: &[&[u8]]) -> Vec<u8> {
    [sent(), &tail.concat()].concat()
}

#[test]
fn what_it_says_is_what_xl_says() {
    let ended = receive_all(host(Faults::default()), Options::default(), with(&[GO]));
    ended.result.as_ref().unwrap();
    assert_eq!(ended.said, [&BANNER[..], READY, REPORT, &[0]].concat());
    assert_eq!(ended.names(), [("synthetic".to_owned(), RunState::Running)]);
}

#[test]
fn it_stays_paused_when_asked() {
    for no_monitor in [true, false] {
        let options = Options { leave_paused: true, no_monitor, ..Options::default() };
        let ended = receive_all(host(Faults::default()), options, with(&[GO]));
        ended.result.as_ref().unwrap();
        assert_eq!(ended.names(), [("synthetic".to_owned(), RunState::Paused)]);
        assert_eq!(ended.host.watchers().len(), usize::from(!no_monitor), "-e leaves none");
    }
}

#[test]
fn a_second_go_and_what_follows_change_nothing() {
    for more in [&GO[..], b"more"] {
        let ended = receive_all(host(Faults::default()), Options::default(), with(&[GO, more]));
        ended.result.as_ref().unwrap();
        assert_eq!(ended.said, [&BANNER[..], READY, REPORT, &[0]].concat());
        assert_eq!(ended.names(), [("synthetic".to_owned(), RunState::Running)]);
    }
}

/// Whatever came in place of GO: destroyed, and given back.
#[test]
fn without_go_nothing_is_left() {
    for (what, instead) in [
        ("no GO", &[][..]),
        ("a part of GO", &[&GO[..43]]),
        ("bytes before GO", &[&[0; 8], GO]),
        ("a garbled GO", &[b"domain is yours, you are cleared to un-pause\0"]),
    ] {
        let ended = receive_all(host(Faults::default()), Options::default(), with(instead));
        ended.assert_nothing_left(&[BANNER, READY, REPORT, &[0xff], GO], what);
        assert_eq!(ended.failure().exit, Exit::FailedSourceRuns, "{what}");
    }
}

/// Nobody sends, nobody listens: stock xl leaves its copy standing here.
#[test]
fn a_sender_that_vanishes_leaves_nothing() {
    let (reading, writing) = pipe().unwrap();
    let (from, output) = pipe().unwrap();
    let sender = std::thread::spawn(move || {
        let mut to = File::from(writing);
        to.write_all(sent()).unwrap();
        let mut said = vec![0; BANNER.len()];
        File::from(from).read_exact(&mut said).unwrap();
    });
    let dir = tempfile::tempdir().unwrap();
    let memory = host(Faults::default());
    let shared: Arc<dyn Host> = Arc::new(memory.clone());
    let state = StateDir::at(dir.path());
    let failure =
        receive(&shared, &state, (reading, output), Options::default(), &Events::default())
            .unwrap_err();
    sender.join().unwrap();
    println!("{failure}");
    assert!(memory.domains().is_empty());
}

#[test]
fn a_stream_that_is_cut_leaves_nothing() {
    let whole = sent().len();
    for length in [
        0,
        20,
        HEADER_LEN,
        HEADER_LEN + 2,
        HEADER_LEN + 40,
        200,
        5_000,
        whole / 2,
        whole - 8,
        whole - 1,
    ] {
        let ended =
            receive_all(host(Faults::default()), Options::default(), sent()[..length].to_vec());
        ended.assert_nothing_left(&[BANNER], &format!("{length} of {whole} bytes"));
    }
}

#[test]
fn a_header_or_stream_that_is_wrong_is_refused() {
    let stream = sent().windows(8).position(|bytes| bytes == b"LibxlFmt").unwrap();
    for (what, at, bytes, words) in [
        ("the magic", 0, &b"RXLSAVE1"[..], "magic"),
        ("a mandatory flag", 36, &[0xff], "mandatory flags"),
        ("a huge length", 44, &[0xff; 4], "at most"),
        ("a configuration longer than its data", 48, &[0xff; 4], "too short"),
        ("the configuration", 52, b"x", "JSON"),
        ("the stream's magic", stream, b"x", "stream"),
        ("a record's length", stream + 20, &[9], "stream"),
    ] {
        let mut damaged = with(&[GO]);
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        let ended = receive_all(host(Faults::default()), Options::default(), damaged);
        ended.assert_nothing_left(&[BANNER], what);
        assert!(ended.failure().to_string().contains(words), "{what}: {}", ended.failure());
    }
}

#[test]
fn a_name_that_is_taken_and_memory_that_is_not_there_are_refused() {
    for name in ["synthetic", "synthetic--incoming"] {
        let taken = host(Faults::default());
        taken.start(
            name,
            GuestType::Pvh,
            Guest { pages: 1, zero_per_256: 0, dirty: vec![], endless: false, seed: 0 },
        );
        let ended = receive_all(taken, Options::default(), with(&[GO]));
        assert_eq!(ended.failure().exit, Exit::Refused);
        assert!(ended.failure().to_string().contains("is there already"), "{}", ended.failure());
        assert_eq!(
            ended.names(),
            [(name.to_owned(), RunState::Running)],
            "the other one is not touched"
        );
        assert_eq!(ended.said, BANNER);
    }
    let ended = receive_all(MemoryHost::new(4096), Options::default(), with(&[GO]));
    ended.assert_nothing_left(&[BANNER], "memory");
    assert_eq!(ended.failure().exit, Exit::Refused);
}

#[test]
fn what_fails_here_is_given_back_or_kept() {
    let ended = receive_all(
        host(Faults { restore_after: Some(1 << 20), ..Faults::default() }),
        Options::default(),
        with(&[GO]),
    );
    ended.assert_nothing_left(&[BANNER], "restore");
    for faults in [
        Faults { rename: true, ..Faults::default() },
        Faults { unpause: true, ..Faults::default() },
    ] {
        let ended = receive_all(host(faults), Options::default(), with(&[GO]));
        ended.assert_nothing_left(&[BANNER, READY, REPORT, &[3], GO], &format!("{faults:?}"));
    }
    // It cannot be got rid of: then it is not given back.
    let faults = Faults { unpause: true, destroy: true, ..Faults::default() };
    let ended = receive_all(host(faults), Options::default(), with(&[GO]));
    assert_eq!(ended.said, [&BANNER[..], READY, REPORT, &[3]].concat());
    assert_eq!(ended.failure().exit, Exit::Undecided);
    assert_eq!(ended.names(), [("synthetic".to_owned(), RunState::Paused)]);
}
