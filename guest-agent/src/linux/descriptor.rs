//! What needs a descriptor of a rank's socket: a duplicate of the rank's (pidfd_getfd(2), Linux
//! 5.6). It is closed again at once: as long as it is open, the connection outlives its rank.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::sys::stat::fstat;
use rustix::net::sockopt as options;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::deadlines::TCP_RTO_MIN;

/// Duplicates another process's descriptor. None where the kernel refuses.
pub fn duplicate(pid: i32, fd: i32) -> Option<OwnedFd> {
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    pidfd_getfd(process, fd, PidfdGetfdFlags::empty()).ok()
}

/// Duplicates another process's descriptor, if it is still the socket of that inode: a process that
/// runs may have closed it and opened another.
pub fn duplicate_of(pid: i32, fd: i32, inode: u64) -> Option<OwnedFd> {
    let handle = duplicate(pid, fd)?;
    (fstat(&handle).ok()?.st_ino == inode).then_some(handle)
}

/// Makes the peer's kernel acknowledge at once what it has received.
///
/// A kernel holds an acknowledgement back for 40 ms in the hope of data to go along, or of a
/// reader; a frozen rank brings neither. A segment from before the window makes the kernel answer
/// at once (RFC 9293, 3.10.7.4; Linux does so twice a second at most). Linux sends such a segment,
/// a window probe, when it is told to leave TCP's repair mode, whether the socket was in it or not.
/// Leaving it also takes SO_REUSEADDR away, which is put back.
pub fn ask_for_acknowledgement(socket: &OwnedFd) {
    let reuse = getsockopt(socket, sockopt::ReuseAddr);
    // This fails if the connection is closed by now, or the agent lacks CAP_NET_ADMIN. Then the
    // flush takes as long as the peer does.
    if setsockopt(socket, sockopt::TcpRepair, &0).is_ok() && reuse == Ok(true) {
        let _ = setsockopt(socket, sockopt::ReuseAddr, &true);
    }
}

/// The time after which a socket gives up a silent peer by its own options: TCP_USER_TIMEOUT, else
/// keepalive.
pub fn give_up_time_of(socket: &OwnedFd) -> Option<Duration> {
    match options::tcp_user_timeout(socket) {
        Ok(ms) if ms > 0 => return Some(Duration::from_millis(ms.into())),
        _ => {}
    }
    if !options::socket_keepalive(socket).unwrap_or(false) {
        return None;
    }
    let (idle, interval) =
        (options::tcp_keepidle(socket).ok()?, options::tcp_keepintvl(socket).ok()?);
    Some(idle + interval * options::tcp_keepcnt(socket).ok()?)
}

/// The time after which any connection gives up a peer that does not acknowledge its data, by
/// net.ipv4.tcp_retries2.
pub fn give_up_time_of_system() -> Option<Duration> {
    let retries = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_retries2").ok()?;
    Some(retransmission_span(retries.trim().parse().ok()?))
}

/// The span of so many retransmissions as Linux computes it (tcp_model_timeout in
/// net/ipv4/tcp_timer.c): the time between them doubles from 200 ms and stays at 120 s.
fn retransmission_span(retries: u32) -> Duration {
    const LONGEST: Duration = Duration::from_secs(120);
    /// Doublings from the first to the longest: log2(120 s / 200 ms), rounded down.
    const DOUBLINGS: u32 = 9;
    let doubled = TCP_RTO_MIN * ((2 << retries.min(DOUBLINGS)) - 1);
    doubled + LONGEST * retries.saturating_sub(DOUBLINGS).min(1000)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_default_of_15_retries_is_what_the_kernel_documents() {
        assert_eq!(retransmission_span(15).as_millis(), 924_600);
        assert_eq!(retransmission_span(0).as_millis(), 200);
    }

    #[test]
    fn a_sockets_own_timeouts() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let stream = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let twin = duplicate(std::process::id() as i32, stream.as_raw_fd()).expect("Linux 5.6");
        assert_eq!(give_up_time_of(&twin), None);
        options::set_socket_keepalive(&stream, true).expect("option");
        options::set_tcp_keepidle(&stream, Duration::from_secs(5)).expect("option");
        options::set_tcp_keepintvl(&stream, Duration::from_secs(2)).expect("option");
        options::set_tcp_keepcnt(&stream, 3).expect("option");
        assert_eq!(give_up_time_of(&twin), Some(Duration::from_secs(11)));
        options::set_tcp_user_timeout(&stream, 1500).expect("option");
        assert_eq!(give_up_time_of(&twin), Some(Duration::from_millis(1500)));
    }
}
