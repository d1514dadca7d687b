//! `rxl receive` over the in-memory host: the far end of the session tests, in a process of its
//! own, with faults.
//!
//! memory-receiver DIR [free-kib=N] [taken=NAME] [fault=restore|restore-end|rename|unpause|destroy]
//! [flip=BYTE] [hang=BYTES]
//!
//! The session leaves what it ended with in DIR/outcome.json.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use migrate_stream::frame::{PREAMBLE_LEN, Purpose};

use rxl_core::domain::GuestType;
use rxl_core::io::{Cancel, Guarded};
use rxl_core::state_dir::StateDir;
use rxl_handover::Journal;
use rxl_link::transport::{Ticket, greet, hand_over, read_preamble};
use rxl_recover::{Answer, Asking, Peer, Place, Question, Settling, Unreachable, answer, serve};
use rxl_session::events::Events;
use rxl_session::rxl::target;
use rxl_testkit::memory::{Faults, Guest, MemoryHost};

#[path = "outcome.rs"]
mod outcome;

use outcome::leave_outcome;

struct Options {
    dir: PathBuf,
    free_kib: u64,
    taken: Option<String>,
    faults: Faults,
    flip: Option<u64>,
    hang: Option<u64>,
    /// Silence after which the source is lost, until it has made its offer.
    patience: Duration,
    /// The control connection is lost in place of, or right after, this message.
    lose: Option<String>,
}

fn options() -> Options {
    let mut words = std::env::args().skip(1);
    let dir = words.next().expect("DIR").into();
    let mut options = Options {
        dir,
        free_kib: 64 << 20,
        taken: None,
        faults: Faults::default(),
        flip: None,
        hang: None,
        patience: Duration::from_secs(5),
        lose: None,
    };
    for word in words {
        match word.split_once('=').expect("key=value") {
            ("free-kib", n) => options.free_kib = n.parse().expect("KiB"),
            ("taken", name) => options.taken = Some(name.into()),
            ("fault", "restore") => options.faults.restore_after = Some(1 << 20),
            ("fault", "restore-end") => options.faults.restore_at_end = true,
            ("fault", "memory") => options.faults.memory_taken = true,
            ("fault", "rename") => options.faults.rename = true,
            ("fault", "unpause") => options.faults.unpause = true,
            ("fault", "destroy") => {
                options.faults = Faults { unpause: true, destroy: true, ..options.faults }
            }
            ("flip", n) => options.flip = Some(n.parse().expect("byte")),
            ("patience-ms", n) => options.patience = Duration::from_millis(n.parse().expect("ms")),
            ("lose", message) => options.lose = Some(message.into()),
            ("hang", n) => options.hang = Some(n.parse().expect("bytes")),
            other => panic!("{other:?}"),
        }
    }
    options
}

fn main() {
    let options = options();
    let input = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut greeting = Guarded::new(
        input.try_clone().unwrap(),
        Cancel::new().unwrap(),
        Some(Duration::from_secs(10)),
    )
    .unwrap();
    let preamble = read_preamble(&mut greeting).unwrap();
    let state = StateDir::at(&options.dir);
    let mut output = std::io::stdout();
    if preamble.purpose != Purpose::Data {
        greet(&mut output).unwrap();
    }
    match preamble.purpose {
        Purpose::Control => {
            drop(greeting);
            let ticket = Ticket { id: preamble.migration, token: preamble.token };
            session(&options, &state, input, ticket);
        }
        Purpose::Recover => {
            answer_once(&options, &state, &preamble.migration.to_string(), greeting)
        }
        Purpose::Data => {
            let socket = state.receive_socket(&preamble.migration.to_string()).unwrap();
            let input = if options.flip.is_some() || options.hang.is_some() {
                tamper(&options, greeting)
            } else {
                input
            };
            hand_over(&socket, &preamble, &input, &mut output).unwrap();
        }
    }
}

fn session(options: &Options, state: &StateDir, input: OwnedFd, ticket: Ticket) {
    std::fs::write(options.dir.join("session.pid"), std::process::id().to_string()).unwrap();
    let host = MemoryHost::new(options.free_kib);
    host.set_faults(options.faults);
    if let Some(name) = &options.taken {
        let guest = Guest { pages: 1, zero_per_256: 0, dirty: Vec::new(), endless: false, seed: 0 };
        host.start(name, GuestType::Pvh, guest);
    }
    let output = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
    let (input, output) = match &options.lose {
        Some(message) => losing(input, output, message.clone()),
        None => (input, output),
    };
    let source = JournalPeer { state: StateDir::at(options.dir.join("source")) };
    let asking = Asking { peer: Some(Arc::new(source)), try_for: Duration::from_secs(3) };
    let patience = options.patience;
    let endpoint = target::Endpoint { input, output, ticket, patience, asking };
    let result = target::receive(Ok(Arc::new(host.clone())), state, endpoint, Events::default());
    leave_outcome(&options.dir, &host, result.err().map(|failure| failure.to_string()));
}

/// Answers a question about a migration. The host's domains are those that the session has left,
/// if it has ended.
fn answer_once(options: &Options, state: &StateDir, id: &str, input: Guarded) {
    let host = MemoryHost::new(options.free_kib);
    let ended = outcome::take_up(&options.dir, &host);
    let journal = Journal::of(state).unwrap();
    let place = Place { host: &host, journal: &journal, settling: Settling::HOST.at_once() };
    let mut output = std::io::stdout();
    serve(Ok(place), state, id, &mut BufReader::new(input), &mut output, |_| {}).unwrap();
    if let Some(failure) = ended {
        leave_outcome(&options.dir, &host, failure);
    }
}

/// The source, whose record is at hand. Its domains are in another process: a copy there counts as
/// gone, which changes no answer to a record that is not Leaving.
struct JournalPeer {
    state: StateDir,
}

impl Peer for JournalPeer {
    fn ask(&self, id: &str, question: Question) -> Result<Answer, Unreachable> {
        let failed = |what: &dyn std::fmt::Display| Unreachable(what.to_string());
        let journal = Journal::of(&self.state).map_err(|e| failed(&e))?;
        let host = MemoryHost::new(0);
        let settling = Settling::HOST.at_once();
        let place = Place { host: &host, journal: &journal, settling };
        answer(place, &self.state, id, question, &|_| {}).map_err(|e| failed(&e))
    }
}

/// Puts a relay before the session that flips the lowest bit of one byte, or stops relaying.
fn tamper(options: &Options, mut from: Guarded) -> OwnedFd {
    let (reading, writing) = rxl_core::io::pipe().unwrap();
    let (flip, hang) = (options.flip, options.hang);
    std::thread::spawn(move || {
        let mut to = File::from(writing);
        let mut at = PREAMBLE_LEN as u64;
        let mut buffer = vec![0; 64 << 10];
        while let Ok(got @ 1..) = from.read(&mut buffer) {
            let range = at..at + got as u64;
            if let Some(byte) = flip.filter(|byte| range.contains(byte)) {
                buffer[(byte - at) as usize] ^= 1;
            }
            if hang.is_some_and(|after| range.end > after) {
                std::thread::sleep(Duration::from_secs(60));
            }
            at = range.end;
            if to.write_all(&buffer[..got]).is_err() {
                return;
            }
        }
    });
    reading
}

/// How much sooner the source hears that the connection is lost after READY.
const HEAD_START: Duration = Duration::from_millis(500);

/// Puts relays before the session that lose the connection at a message. READY is delivered when
/// its answer can no longer be read; GO and Done are lost with the connection.
///
/// The session hears of the loss after READY when the source has had [`HEAD_START`]: it asks the
/// source at once, where a question over ssh takes as long.
fn losing(input: OwnedFd, output: OwnedFd, lost_at: String) -> (OwnedFd, OwnedFd) {
    let (to_session, relayed) = rxl_core::io::pipe().unwrap();
    let (from_session, said) = rxl_core::io::pipe().unwrap();
    // The last handles are std's.
    nix::unistd::close(0).unwrap();
    nix::unistd::close(1).unwrap();
    let cancel = Cancel::new().unwrap();
    let mut from = Guarded::new(input, cancel.clone(), None).unwrap();
    let at = lost_at.clone();
    let inward = std::thread::spawn(move || {
        let mut to = File::from(relayed);
        while let Some((name, frame)) = read_message(&mut from) {
            if name == at || to.write_all(&frame).is_err() {
                break;
            }
        }
        drop(from);
        to
    });
    std::thread::spawn(move || {
        let (mut from, mut to) = (File::from(from_session), File::from(output));
        while let Some((name, frame)) = read_message(&mut from) {
            if name == lost_at {
                cancel.pull();
                let to_session = inward.join().unwrap();
                if lost_at == "ready" {
                    to.write_all(&frame).unwrap();
                    drop(to);
                    std::thread::sleep(HEAD_START);
                }
                drop(to_session);
                return;
            }
            to.write_all(&frame).unwrap();
        }
    });
    (to_session, said)
}

/// A control message's name and bytes; none at the end.
fn read_message(from: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let mut frame = vec![0; 4];
    from.read_exact(&mut frame).ok()?;
    let length = u32::from_le_bytes(frame[..4].try_into().unwrap());
    frame.resize(4 + length as usize, 0);
    from.read_exact(&mut frame[4..]).ok()?;
    let message: serde_json::Value = serde_json::from_slice(&frame[4..]).unwrap();
    Some((message["message"].as_str().unwrap().to_owned(), frame))
}
