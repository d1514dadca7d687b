//! Room in the receive queues of ranks that stand still, so that what is in flight to them can
//! arrive.
//!
//! A receive buffer limits memory, a window limits bytes of data. Many small segments need more
//! memory than the window foresaw: the kernel then drops what its own window has allowed. A reader
//! would soon make room. A frozen one never does, and the bytes stay in flight until it is thawed:
//!
//! ```text
//!   sender's kernel                     receiver's kernel                 receiver's agent
//!     | data, within the window ------------> | queue is full: dropped           |
//!     |                                       | <----- SO_RCVBUFFORCE: room -----|
//!     |                                       | <----- recv(1 byte, MSG_PEEK) ---|
//!     | <---------- ACK with a new window --- |                                  |
//!     | (its timer ends)                      |                                  |
//!     | data, once more --------------------> | queued                           |
//!     | <------------------------------- ACK  |                                  |
//!     |                       ... cut, move, thaw ...                            |
//!     |                                       | <-- size and locks as before ----|
//! ```
//! A read, even if it takes nothing, makes the kernel look whether its window has grown, and tell
//! the peer if it has (tcp_cleanup_rbuf in Linux's net/ipv4/tcp.c). Without a read, a peer that
//! knows the window to be closed would go on with its next probe, after the cut. Setting a size
//! also ends the buffer's autotuning; SO_BUF_LOCK (Linux 5.14) brings it back.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::libc::{IPPROTO_TCP, SOL_SOCKET};
use nix::sys::socket::sockopt::{GetStruct, RcvBuf, RcvBufForce, SetStruct};
use nix::sys::socket::{MsgFlags, getsockopt, recv, setsockopt};
use nix::{getsockopt_impl, libc, setsockopt_impl};

use super::sockets::Socket;
use crate::deadlines::{LONGEST_REST, SHORTEST_REST};
use crate::guest::Buffer;

/// Most bytes that one buffer is raised by: four times what a sender queues by default (4 MiB,
/// net.ipv4.tcp_wmem), as a segment may take four times its data's memory.
const MOST: u64 = 16 << 20;

/// Most bytes that all buffers of one flush are raised by.
const MOST_OF_ALL: u64 = 256 << 20;

/// Round trips for which a raised buffer must have been still to be at rest.
const ROUND_TRIPS: u32 = 4;

/// SO_BUF_LOCK: which buffers a program has set (SOCK_SNDBUF_LOCK 1, SOCK_RCVBUF_LOCK 2).
/// Autotuning leaves those alone.
#[derive(Clone, Copy)]
struct BufLock;
getsockopt_impl!(BufLock, SOL_SOCKET, libc::SO_BUF_LOCK, u32, GetStruct<u32>);
setsockopt_impl!(BufLock, SOL_SOCKET, libc::SO_BUF_LOCK, u32, SetStruct<u32>);

/// TCP_WINDOW_CLAMP, in bytes. Later kernels than 6.1 change it along with the buffer's size.
#[derive(Clone, Copy)]
struct WindowClamp;
getsockopt_impl!(WindowClamp, IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, u32, GetStruct<u32>);
setsockopt_impl!(WindowClamp, IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, u32, SetStruct<u32>);

/// Whether what is in flight to this socket may find no room: half of its buffer is taken.
pub fn is_scarce(socket: &Socket) -> bool {
    socket.queued > 0 && u64::from(socket.queued) * 2 >= u64::from(socket.buffer)
}

/// Notes the buffer as it is. None where it could not be put back as it was.
pub fn note(inode: u64, handle: &OwnedFd) -> Option<Buffer> {
    Some(Buffer {
        inode,
        size: getsockopt(handle, RcvBuf).ok()?,
        locks: getsockopt(handle, BufLock).ok()?,
        clamp: getsockopt(handle, WindowClamp).ok()?,
    })
}

/// Raises the buffer by so many bytes and has the peer told. Without CAP_NET_ADMIN nothing changes.
pub fn raise(buffer: &Buffer, handle: &OwnedFd, bytes: u64) {
    let size = buffer.size.saturating_add(usize::try_from(bytes).unwrap_or_default());
    if set_size(handle, size).is_ok() {
        // The queue is not empty. If it were, there would be no new window to tell of.
        let _ = recv(handle.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    }
}

/// Makes the buffer what it was, less a byte if its size was odd.
pub fn put_back(buffer: &Buffer, handle: &OwnedFd) -> nix::Result<()> {
    set_size(handle, buffer.size)?;
    if getsockopt(handle, WindowClamp)? != buffer.clamp {
        setsockopt(handle, WindowClamp, &buffer.clamp)?;
    }
    setsockopt(handle, BufLock, &buffer.locks)
}

/// Sets a size as getsockopt(SO_RCVBUF) tells it: the kernel doubles what it is told.
fn set_size(handle: &OwnedFd, size: usize) -> nix::Result<()> {
    setsockopt(handle, RcvBufForce, &(size / 2))
}

/// Bytes that each of so many buffers may be raised by: a part of half of what TCP may still take
/// before the kernel calls it memory pressure (net.ipv4.tcp_mem). Only the first network namespace
/// is told that; elsewhere they share [`MOST`].
pub fn share(buffers: usize) -> u64 {
    let all = free_of_pressure().map_or(MOST, |free| MOST_OF_ALL.min(free / 2));
    (all / (buffers.max(1) as u64)).min(MOST)
}

/// Bytes that TCP may still take before the kernel calls it memory pressure.
fn free_of_pressure() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").ok()?;
    let pressure: u64 = limits.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let taken = pages_taken(&std::fs::read_to_string("/proc/net/sockstat").ok()?)?;
    Some(pressure.saturating_sub(taken).saturating_mul(procfs::page_size()))
}

/// Pages that TCP takes, from the line `TCP: inuse 5 orphan 0 tw 0 alloc 6 mem 1`.
fn pages_taken(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP: "))?;
    line.split(' ').skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

/// How long sockets with raised buffers must have been still to be at rest: what their peers send
/// when they hear of the room is on its way for that long.
pub fn rest<'a>(sockets: impl Iterator<Item = &'a Socket>) -> Duration {
    let longest = sockets.map(|socket| socket.round_trip).max().unwrap_or_default();
    (longest * ROUND_TRIPS).clamp(SHORTEST_REST, LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_raised_buffer_is_put_back_with_its_lock() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let handle = OwnedFd::from(
            TcpStream::connect(listener.local_addr().expect("address")).expect("connect"),
        );
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        for locks in [0, 2] {
            setsockopt(&handle, BufLock, &locks).expect("Linux 5.14");
            let before = note(1, &handle).expect("options");
            assert_eq!(before.locks, locks);
            raise(&before, &handle, MOST);
            let raised = note(1, &handle).expect("options");
            assert_eq!((raised.size, raised.locks), (before.size + MOST as usize, 2));
            put_back(&before, &handle).expect("options");
            assert_eq!(note(1, &handle), Some(before));
        }
    }

    #[test]
    fn the_shares_of_many_are_bounded_together() {
        // Not told in every network namespace.
        let free = free_of_pressure().unwrap_or(MOST);
        for buffers in [1, 7, 1000] {
            assert!(
                share(buffers) <= MOST && share(buffers) * buffers as u64 <= MOST_OF_ALL.min(free)
            );
        }
        assert_eq!(
            pages_taken("sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 alloc 6 mem 17\nUDP: mem 4\n"),
            Some(17)
        );
        assert_eq!(pages_taken("TCP: inuse 5\n"), None);
    }
}
