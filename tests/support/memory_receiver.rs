//! `rxl receive` over the in-memory host: the far end of the session tests, in a process of its
//! own, with faults.
//!
//! memory-receiver DIR [free-kib=N] [taken=NAME] [fault=restore|restore-end|rename|unpause|destroy]
//! [flip=BYTE] [hang=BYTES]
//!
//! The session leaves what it ended with in DIR/outcome.json.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use migrate_stream::frame::{PREAMBLE_LEN, Purpose};

use rxl_core::domain::GuestType;
use rxl_core::io::{Cancel, Guarded};
use rxl_core::state_dir::StateDir;
use rxl_link::transport::{Ticket, hand_over, read_preamble};
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
    };
    for word in words {
        match word.split_once('=').expect("key=value") {
            ("free-kib", n) => options.free_kib = n.parse().expect("KiB"),
            ("taken", name) => options.taken = Some(name.into()),
            ("fault", "restore") => options.faults.restore_after = Some(1 << 20),
            ("fault", "restore-end") => options.faults.restore_at_end = true,
            ("fault", "rename") => options.faults.rename = true,
            ("fault", "unpause") => options.faults.unpause = true,
            ("fault", "destroy") => {
                options.faults = Faults { unpause: true, destroy: true, ..options.faults }
            }
            ("flip", n) => options.flip = Some(n.parse().expect("byte")),
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
    match preamble.purpose {
        Purpose::Control => session(
            &options,
            &state,
            input,
            Ticket { id: preamble.migration, token: preamble.token },
        ),
        Purpose::Data => {
            let socket = state.receive_socket(&preamble.migration.to_string()).unwrap();
            let input = if options.flip.is_some() || options.hang.is_some() {
                tamper(&options, greeting)
            } else {
                input
            };
            hand_over(&socket, &preamble, &input).unwrap();
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
    let endpoint = target::Endpoint { input, output, ticket, patience: Duration::from_secs(5) };
    let result = target::receive(Ok(Arc::new(host.clone())), state, endpoint, Events::default());
    leave_outcome(&options.dir, &host, result.err().map(|failure| failure.to_string()));
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
