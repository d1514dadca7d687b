//! A data connection over ssh passes from the process that sshd started to the session.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use migrate_stream::frame::{PREAMBLE_LEN, Preamble};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::ssh::GREETING;
use rxl_core::deadlines;

/// Pause between two attempts to reach the session.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// The part of a data connection's own `rxl receive`: hands its standard input to the session, says
/// so on its output, then keeps the ssh session alive until the session is done with it.
pub fn hand_over(
    socket: &Path,
    preamble: &Preamble,
    input: &impl AsFd,
    output: &mut impl Write,
) -> io::Result<()> {
    let deadline = Instant::now() + deadlines::CONNECT;
    let mut session = loop {
        match UnixStream::connect(socket) {
            Ok(session) => break session,
            // The control connection may be slower than this one.
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(RETRY_PAUSE),
        }
    };
    send_descriptor(&session, preamble, input)?;
    greet(output)?;
    // Ends with the session, however that ends: its deadlines are this one's.
    let mut nothing = [0; 1];
    session.read(&mut nothing).map(|_| ())
}

/// Says on standard output that what follows is `rxl receive`'s.
pub fn greet(output: &mut impl Write) -> io::Result<()> {
    output.write_all(GREETING)?;
    output.flush()
}

pub(super) fn send_descriptor(
    session: &UnixStream,
    preamble: &Preamble,
    input: &impl AsFd,
) -> io::Result<()> {
    let bytes = preamble.to_bytes();
    let fds = [input.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let sent = rustix::net::sendmsg(
        session,
        &[IoSlice::new(&bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("short write of a preamble")) }
}

/// Receives what [`send_descriptor`] has sent. The socket is non-blocking:
/// [`io::ErrorKind::WouldBlock`] where nothing is there yet.
pub(super) fn receive_descriptor(from: &impl AsFd) -> io::Result<(Preamble, OwnedFd)> {
    let mut bytes = [0; PREAMBLE_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(
        from,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    // It was sent in one piece, and the kernel keeps such a piece whole (unix(7)).
    if got.bytes != bytes.len() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let fd = fd.ok_or_else(|| io::Error::other("a handed connection without a descriptor"))?;
    Ok((Preamble::parse(&bytes).map_err(io::Error::other)?, fd))
}
