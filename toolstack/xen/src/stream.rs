//! The start of a stream, looked at before libxl gets it: see the module's documentation for why.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};

use crate::canceller::Canceller;
use crate::failure::Failure;

/// The stream's header and the header of its first record (libxl-migration-stream.pandoc).
const START: usize = 16 + 8;

/// The first field of the header: "LibxlFmt", big-endian.
const IDENT: [u8; 8] = 0x4c69_6278_6c46_6d74_u64.to_be_bytes();

/// The version of the format, big-endian.
const VERSION: [u8; 4] = 2_u32.to_be_bytes();

/// Bytes of the options, big-endian.
const OPTIONS: usize = 4;

/// Bit 0 of the options says that the records are big-endian; then libxl refuses them.
const OPTION_BIG_ENDIAN: u8 = 1;

/// Type 1, LIBXC_CONTEXT, and a length of 0, little-endian: what starts the helper.
const LIBXC_CONTEXT: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

/// How often a wait for the first bytes looks for a cancel, in ms.
const POLL_INTERVAL_MS: u8 = 100;

/// Pause while a start is incomplete: poll cannot wait for more than one byte.
const INCOMPLETE_PAUSE: Duration = Duration::from_millis(2);

/// Waits until the start of the stream has come, without taking it out of the pipe. Ends early when
/// `canceller` is pulled.
pub(super) fn check_start(stream: BorrowedFd<'_>, canceller: &Canceller) -> Result<(), Failure> {
    while !canceller.is_pulled() {
        let closed = match wait_readable(stream)? {
            None => continue,
            Some(events) => events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR),
        };
        let start = peek(stream)?;
        if start.len() == START {
            return check(&start);
        }
        if closed {
            return Err(Failure::of(format!("the stream ended after {} bytes", start.len())));
        }
        std::thread::sleep(INCOMPLETE_PAUSE);
    }
    Err(Failure::aborted())
}

fn wait_readable(stream: BorrowedFd<'_>) -> Result<Option<PollFlags>, Failure> {
    let mut fds = [PollFd::new(stream, PollFlags::POLLIN)];
    match poll(&mut fds, POLL_INTERVAL_MS) {
        Ok(0) | Err(Errno::EINTR) => Ok(None),
        Ok(_) => Ok(fds.first().and_then(|fd| fd.revents())),
        Err(e) => Err(failed("poll", e)),
    }
}

/// Up to the first [`START`] bytes, which stay in the pipe.
fn peek(stream: BorrowedFd<'_>) -> Result<Vec<u8>, Failure> {
    let (copy, into) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("pipe", e))?;
    let copied = tee(stream, &into)?;
    let mut start = vec![0; copied];
    let read = nix::unistd::read(copy.as_fd(), &mut start).map_err(|e| failed("read", e))?;
    start.truncate(read);
    Ok(start)
}

fn tee(from: BorrowedFd<'_>, into: &OwnedFd) -> Result<usize, Failure> {
    // SAFETY: both descriptors are borrowed for the call, which touches no memory of ours.
    let copied =
        unsafe { libc::tee(from.as_raw_fd(), into.as_raw_fd(), START, libc::SPLICE_F_NONBLOCK) };
    match Errno::result(copied) {
        Ok(copied) => Ok(copied.unsigned_abs()),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
        Err(e) => Err(failed("tee", e)),
    }
}

fn failed(call: &str, e: Errno) -> Failure {
    Failure::of(format!("{call} on the stream's pipe: {}", e.desc()))
}

/// The start as the format has it; fewer bytes than [`START`] are none.
fn check(start: &[u8]) -> Result<(), Failure> {
    let (ident, rest) = start.split_at_checked(IDENT.len()).unwrap_or_default();
    let (version, rest) = rest.split_at_checked(VERSION.len()).unwrap_or_default();
    let (options, record) = rest.split_at_checked(OPTIONS).unwrap_or_default();
    let complaint = if ident != IDENT {
        "this is no libxl stream"
    } else if version != VERSION {
        "the libxl stream has another version than 2"
    } else if options.last().is_none_or(|options| options & OPTION_BIG_ENDIAN != 0) {
        "the libxl stream is big-endian"
    } else if record != LIBXC_CONTEXT {
        "the libxl stream does not begin with the domain's memory"
    } else {
        return Ok(());
    };
    Err(Failure::of(complaint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    fn sound() -> Vec<u8> {
        [&IDENT[..], &VERSION, &[0; 4], &LIBXC_CONTEXT].concat()
    }

    fn pipe_with(bytes: &[u8]) -> (OwnedFd, File) {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        let mut write = File::from(write);
        write.write_all(bytes).unwrap();
        (read, write)
    }

    #[test]
    fn a_sound_start_stays_in_the_pipe() {
        let (read, write) = pipe_with(&[sound(), b"more".to_vec()].concat());
        assert_eq!(check_start(read.as_fd(), &Canceller::default()), Ok(()));
        drop(write);
        let mut left = Vec::new();
        File::from(read).read_to_end(&mut left).unwrap();
        assert_eq!(left, [sound(), b"more".to_vec()].concat());
    }

    #[test]
    fn a_start_in_pieces_is_waited_for() {
        let (read, mut write) = pipe_with(&sound()[..10]);
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            write.write_all(&sound()[10..]).unwrap();
            write
        });
        assert_eq!(check_start(read.as_fd(), &Canceller::default()), Ok(()));
        drop(writer.join().unwrap());
    }

    #[test]
    fn a_start_that_ends_is_told() {
        for len in [0, 1, START - 1] {
            let (read, write) = pipe_with(&sound()[..len]);
            drop(write);
            let told = check_start(read.as_fd(), &Canceller::default()).unwrap_err().to_string();
            assert!(told.contains(&format!("ended after {len} bytes")), "{told}");
        }
    }

    #[test]
    fn every_field_is_checked() {
        for at in [0, 7, 8, 11, 15, 16, 19, 20, 23] {
            let mut start = sound();
            start[at] ^= 1;
            assert!(check(&start).is_err(), "byte {at}");
        }
        assert_eq!(check(&sound()), Ok(()));
    }

    #[test]
    fn a_wait_ends_when_it_is_cancelled() {
        let (read, _write) = pipe_with(&[]);
        let canceller = Canceller::default();
        let puller = canceller.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            puller.pull();
        });
        assert_eq!(check_start(read.as_fd(), &canceller), Err(Failure::aborted()));
        thread.join().unwrap();
    }

    #[test]
    fn only_pipes_can_be_looked_into() {
        let file = tempfile::tempfile().unwrap();
        assert!(check_start(file.as_fd(), &Canceller::default()).is_err());
    }
}
