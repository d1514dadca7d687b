//! The TCP sockets of processes: which are theirs (/proc/PID/fd), and how they stand (sock_diag).

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN, TCP_SYN_SENT,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, Timer,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use procfs::process::{FDTarget, Process};
use rxl_agent_protocol::Connection;

use crate::deadlines::SOCK_DIAG_SECONDS;

/// For each socket, by inode, one process that holds it: pid and descriptor number.
pub type Holders = HashMap<u64, (i32, i32)>;

/// Finds the sockets that these processes hold. Processes that end and sockets that close meanwhile
/// are left out.
pub fn held_by(processes: &[i32]) -> Holders {
    let mut holders = Holders::new();
    for &pid in processes {
        let fds = Process::new(pid).and_then(|process| process.fd());
        for fd in fds.into_iter().flatten().flatten() {
            if let FDTarget::Socket(inode) = fd.target {
                holders.entry(inode).or_insert((pid, fd.fd));
            }
        }
    }
    holders
}

/// A TCP socket that is open or on its way to be opened or closed.
#[derive(Clone, Debug)]
pub struct Socket {
    /// The inode that names the socket. Zero while no process has accepted the connection.
    pub inode: u64,
    /// Whether the connection is still being opened from this end.
    pub connecting: bool,
    /// Whether the peer's closed window is being probed.
    probing: bool,
    /// Memory that the receive queue takes, in bytes.
    pub queued: u32,
    /// Memory that the receive queue may take, in bytes.
    pub buffer: u32,
    /// The round-trip time, as the kernel has smoothed it (`tcpi_rtt`).
    pub round_trip: Duration,
    /// Time until the kernel's timer ends. Then it sends again what is not acknowledged, or probes
    /// the peer.
    timer: Option<Duration>,
    /// The connection as dom0 is told of it.
    pub connection: Connection,
}

impl Socket {
    /// Whether nothing is in flight, nor will be: all that was sent is acknowledged, and what was
    /// not sent waits for the peer to read.
    pub fn settled(&self) -> bool {
        self.connection.unacked == 0 && (self.connection.notsent == 0 || self.is_shut())
    }

    /// Whether the peer's window has no room at all. A window with room for less than a segment is
    /// not shut: nothing is sent before the probe, but the probe takes along what fits
    /// (tcp_write_wakeup in Linux's net/ipv4/tcp_output.c), and that is lost if nobody is there.
    fn is_shut(&self) -> bool {
        self.connection.window.map_or(self.probing, |window| window == 0)
    }

    /// Time until the kernel sends again what is in flight, or sends what a probe takes along. None
    /// if the socket is settled, or waits for no timer.
    pub fn resend(&self) -> Option<Duration> {
        self.timer.filter(|_| self.connection.unacked > 0 || self.probing && !self.settled())
    }
}

/// Lists the connections of the holders, and those that wait to be accepted by them. Leaves out
/// those over the loopback.
pub fn connections(holders: &Holders) -> io::Result<Vec<Socket>> {
    let responses = [
        dump(AF_INET, Ipv4Addr::UNSPECIFIED.into())?,
        dump(AF_INET6, Ipv6Addr::UNSPECIFIED.into())?,
    ]
    .concat();
    let theirs = |response: &&InetResponse| holders.contains_key(&u64::from(response.header.inode));
    let listening: HashSet<u16> = responses
        .iter()
        .filter(theirs)
        .filter(|response| response.header.state == TCP_LISTEN)
        .map(|response| response.header.socket_id.source_port)
        .collect();
    let waiting = |response: &InetResponse| {
        response.header.inode == 0 && listening.contains(&response.header.socket_id.source_port)
    };
    Ok(responses
        .iter()
        .filter(|response| response.header.state != TCP_LISTEN)
        .filter(|response| theirs(response) || waiting(response))
        .map(to_socket)
        .filter(|socket| !socket.connection.remote.ip().is_loopback())
        .collect())
}

fn to_socket(response: &InetResponse) -> Socket {
    let header = &response.header;
    let info = response.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(info) => Some(TcpInfo(info)),
        _ => None,
    });
    let info = info.unwrap_or(TcpInfo(&[]));
    let memory = response.nlas.iter().find_map(|nla| match nla {
        Nla::MemInfo(memory) => Some((memory.receive_queue, memory.receive_queue_max)),
        _ => None,
    });
    let (queued, buffer) = memory.unwrap_or_default();
    let notsent = info.u32_at(144).unwrap_or(0);
    let id = &header.socket_id;
    let connection = Connection {
        local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        remote: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
        acked: info.u64_at(120).unwrap_or(0),
        received: info.u64_at(128).unwrap_or(0),
        // idiag_wqueue is all that is not acknowledged, sent or not.
        unacked: header.send_queue.saturating_sub(notsent),
        notsent,
        unread: header.recv_queue,
        retransmits: info.u32_at(100).unwrap_or(0),
        window: info.u32_at(228),
    };
    Socket {
        inode: header.inode.into(),
        connecting: header.state == TCP_SYN_SENT,
        probing: matches!(header.timer, Some(Timer::Probe(_))),
        timer: match header.timer {
            Some(Timer::Retransmit(after, _) | Timer::Probe(after)) => Some(after),
            _ => None,
        },
        queued,
        buffer,
        round_trip: Duration::from_micros(info.u32_at(68).unwrap_or(0).into()),
        connection,
    }
}

/// The kernel's `struct tcp_info` (linux/tcp.h). It has grown with time: what an older kernel does
/// not tell is missing at the end.
struct TcpInfo<'a>(&'a [u8]);

impl TcpInfo<'_> {
    fn u32_at(&self, at: usize) -> Option<u32> {
        self.0.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
    }

    fn u64_at(&self, at: usize) -> Option<u64> {
        self.0.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
    }
}

/// Lists all TCP sockets of this network namespace, of one address family.
fn dump(family: u8, any: IpAddr) -> io::Result<Vec<InetResponse>> {
    let socket = open()?;
    send(socket.as_raw_fd(), &request(family, any), MsgFlags::empty())?;
    let mut sockets = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if !take_all(buffer.get(..length).unwrap_or_default(), &mut sockets)? {
            return Ok(sockets);
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(SOCK_DIAG_SECONDS))?;
    connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

fn request(family: u8, any: IpAddr) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut socket_id = if any.is_ipv4() { SocketId::new_v4() } else { SocketId::new_v6() };
    (socket_id.source_address, socket_id.destination_address) = (any, any);
    let unconnected = StateFlags::CLOSE | StateFlags::TIME_WAIT | StateFlags::SYN_RECV;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::INFO | ExtensionFlags::SKMEMINFO,
        states: StateFlags::all() - unconnected,
        socket_id,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.header.length as usize];
    message.serialize(&mut bytes);
    bytes
}

/// Adds the sockets of one datagram. Tells whether more datagrams will come.
fn take_all(mut datagram: &[u8], sockets: &mut Vec<InetResponse>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message =
            NetlinkMessage::<SockDiagMessage>::deserialize(datagram).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                sockets.push(*response)
            }
            NetlinkPayload::Done(_) => return Ok(false),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            _ => {}
        }
        // Messages stand at multiples of 4 bytes.
        let length = (message.header.length as usize).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn own() -> Holders {
        held_by(&[std::process::id() as i32])
    }

    /// Over the loopback, which `connections` leaves out.
    fn all(family: u8, any: IpAddr) -> Vec<Socket> {
        let holders = own();
        let responses = dump(family, any).expect("sock_diag");
        responses
            .iter()
            .map(to_socket)
            .filter(|socket| holders.contains_key(&socket.inode))
            .collect()
    }

    #[test]
    fn bytes_are_counted_at_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut client =
            TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (server, _) = listener.accept().expect("accept");
        client.write_all(&[7; 1000]).expect("write");
        std::thread::sleep(std::time::Duration::from_millis(100));
        let sockets = all(AF_INET, Ipv4Addr::UNSPECIFIED.into());
        let find = |stream: &TcpStream| {
            let ends =
                (stream.local_addr().expect("address"), stream.peer_addr().expect("address"));
            let same =
                |socket: &&Socket| (socket.connection.local, socket.connection.remote) == ends;
            sockets.iter().find(same).expect("listed").clone()
        };
        let (sender, receiver) = (find(&client), find(&server));
        assert_eq!(receiver.connection.unread, 1000);
        assert_eq!(receiver.connection.received, 1000);
        assert!(
            sender.settled() && sender.connection.arrived_at(&receiver.connection),
            "{sender:?}"
        );
    }

    /// What is settled stays so: over the loopback a segment is nearly as long as the window, so
    /// that most of it is open when the sender first finds no room for another, and only a probe,
    /// 0.2 s later, fills it.
    #[test]
    fn a_full_receiver_is_settled_though_not_all_is_sent() {
        let listener = TcpListener::bind("[::1]:0").expect("bind");
        let mut client =
            TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (_server, _) = listener.accept().expect("accept");
        client.set_nonblocking(true).expect("flag");
        while client.write(&[7; 65536]).is_ok() {}
        let local = client.local_addr().expect("address");
        let look = || {
            let sockets = all(AF_INET6, Ipv6Addr::UNSPECIFIED.into());
            sockets.into_iter().find(|socket| socket.connection.local == local).expect("listed")
        };
        let until = std::time::Instant::now() + Duration::from_secs(10);
        let mut socket = look();
        while !socket.settled() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
            socket = look();
        }
        assert!(socket.settled() && socket.connection.notsent > 0, "{socket:?}");
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(look().connection.acked, socket.connection.acked, "{socket:?}");
    }

    #[test]
    fn loopback_is_left_out() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let _client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        assert!(
            connections(&own()).expect("sock_diag").iter().all(|socket| !socket
                .connection
                .remote
                .ip()
                .is_loopback())
        );
    }
}
