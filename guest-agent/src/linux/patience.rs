//! How long a rank's connections bear a peer that does not answer, and a nudge for their acknowledgements.
//!
//! sock_diag does not tell a socket's timeouts, so a duplicate of the rank's descriptor is asked for them (pidfd_getfd(2), Linux
//! 5.6). It is closed again at once: as long as it is open, the connection outlives its rank.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// A duplicate of another process's descriptor; none where the kernel will not give it.
pub fn duplicate(pid: i32, fd: i32) -> Option<OwnedFd> {
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    pidfd_getfd(process, fd, PidfdGetfdFlags::empty()).ok()
}

/// Makes the kernel send an acknowledgement that it holds back in the hope of data to go along, which a frozen rank will not
/// write. Without it a flush would wait for the peer's delayed-ACK timer, 40 ms and more.
pub fn acknowledge_now(socket: &OwnedFd) {
    // A socket that is closed by now has nothing to acknowledge.
    let _ = sockopt::set_tcp_quickack(socket, true);
}

/// The time after which this socket gives up by its own options: TCP_USER_TIMEOUT, else keepalive.
pub fn of_socket(socket: &OwnedFd) -> Option<Duration> {
    match sockopt::tcp_user_timeout(socket) {
        Ok(ms) if ms > 0 => return Some(Duration::from_millis(ms.into())),
        _ => {}
    }
    if !sockopt::socket_keepalive(socket).unwrap_or(false) {
        return None;
    }
    let (idle, interval) = (sockopt::tcp_keepidle(socket).ok()?, sockopt::tcp_keepintvl(socket).ok()?);
    Some(idle + interval * sockopt::tcp_keepcnt(socket).ok()?)
}

/// The time after which any connection gives up data that is not acknowledged, by net.ipv4.tcp_retries2.
pub fn of_system() -> Option<Duration> {
    let retries = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_retries2").ok()?;
    Some(retransmission_span(retries.trim().parse().ok()?))
}

/// The span of so many retransmissions as Linux computes it (tcp_model_timeout): the time between them doubles from 200 ms and
/// stays at 120 s.
fn retransmission_span(retries: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(120);
    /// Doublings until the longest: the logarithm of 600, rounded down.
    const DOUBLINGS: u32 = 9;
    let doubled = FIRST * ((2 << retries.min(DOUBLINGS)) - 1);
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
        assert_eq!(of_socket(&twin), None);
        sockopt::set_socket_keepalive(&stream, true).expect("option");
        sockopt::set_tcp_keepidle(&stream, Duration::from_secs(5)).expect("option");
        sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(2)).expect("option");
        sockopt::set_tcp_keepcnt(&stream, 3).expect("option");
        assert_eq!(of_socket(&twin), Some(Duration::from_secs(11)));
        sockopt::set_tcp_user_timeout(&stream, 1500).expect("option");
        assert_eq!(of_socket(&twin), Some(Duration::from_millis(1500)));
    }
}
