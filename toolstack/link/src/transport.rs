//! Data connections: how they are opened, and how the target knows that they belong to a migration.
//!
//! ```text
//!  rxl migrate                                     target
//!    |- ssh HOST rxl receive   (control) ------->  rxl receive     listens on /run/rxl/receive-ID.sock
//!    |- ssh HOST rxl receive   (data 0)  ------->  rxl receive --- hands its stdin over that socket, and waits
//!    `- TCP                    (data 1)  ------->  the first one's listener, when asked for
//! ```
//! Every connection, the control channel's included, begins with the same 64-byte preamble: role,
//! index, migration id, token. The token is 32 random bytes that the control channel brought;
//! whoever connects without it is dropped. A data connection over ssh is handed over as a
//! descriptor (SCM_RIGHTS), so its bytes take no detour through a second process.
//!
//! Encryption of parallel TCP connections belongs here: [`Connections::open`] and [`Rendezvous`]
//! are the only places that know what a connection is made of.

use rxl_core::deadlines;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use migrate_stream::frame::{MigrationId, PREAMBLE_LEN, Preamble, Purpose, Token};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::control::Accept;
use crate::ssh::{RECEIVER, Remote, Route};
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, Guarded, wait_readable};
use rxl_core::peer::Transport;
use rxl_core::state_dir::StateDir;
use rxl_core::text::one_line;

/// What proves that a connection belongs to a migration.
#[derive(Clone)]
pub struct Ticket {
    /// Names the migration, in logs and paths.
    pub id: MigrationId,
    /// The secret.
    pub token: Token,
}

impl Ticket {
    /// A new one, from the kernel's random numbers.
    pub fn random() -> io::Result<Self> {
        let (mut id, mut token) = ([0; 16], [0; 32]);
        fill_random(&mut id)?;
        fill_random(&mut token)?;
        Ok(Self { id: MigrationId(id), token: Token::new(token) })
    }

    /// The first bytes of a connection.
    pub fn preamble(&self, purpose: Purpose, connection: u16) -> [u8; PREAMBLE_LEN] {
        Preamble { purpose, connection, migration: self.id, token: self.token }.to_bytes()
    }

    fn admits(&self, preamble: &Preamble) -> bool {
        preamble.purpose == Purpose::Data
            && preamble.migration == self.id
            && self.token.matches(&preamble.token)
    }
}

/// getrandom(2) returns so few bytes whole.
fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    let got = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
    if got == bytes.len() { Ok(()) } else { Err(io::Error::other("short random read")) }
}

/// The source's data connections. Dropping them ends the ssh processes behind them.
pub struct Connections {
    /// One writing end each.
    pub streams: Vec<Guarded>,
    /// The processes behind them.
    pub children: Vec<Remote>,
}

/// Where the source's data connections lead.
pub struct Destination<'a> {
    /// How the target is reached.
    pub route: &'a Route,
    /// ssh or TCP.
    pub transport: Transport,
    /// How many.
    pub count: u16,
    /// The address that the user named for TCP.
    pub data_address: Option<&'a str>,
}

impl Connections {
    /// Opens them all and sends their preambles.
    pub fn open(
        to: &Destination<'_>,
        accept: &Accept,
        ticket: &Ticket,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        let mut all = Self { streams: Vec::new(), children: Vec::new() };
        for index in 0..to.count {
            let fd = match to.transport {
                Transport::Ssh => all.open_ssh(to.route)?,
                Transport::Tcp => open_tcp(to, accept)?.into(),
            };
            let stream =
                Guarded::new(fd, cancel.clone(), Some(deadlines::STALL)).and_then(|mut stream| {
                    stream.write_all(&ticket.preamble(Purpose::Data, index))?;
                    Ok(stream)
                });
            let failed = |e| {
                Failure::new(
                    Exit::Unreachable,
                    format!("data connection {index} to {}: {e}", to.route.host()),
                )
            };
            all.streams.push(stream.map_err(failed)?);
        }
        Ok(all)
    }

    fn open_ssh(&mut self, route: &Route) -> Result<OwnedFd, Failure> {
        let (child, pipes) = Remote::start(route, RECEIVER)?;
        self.children.push(child);
        Ok(pipes.to)
    }
}

fn open_tcp(to: &Destination<'_>, accept: &Accept) -> Result<TcpStream, Failure> {
    let host = to.data_address.or(accept.address.as_deref()).or(to.route.address());
    let (Some(host), Some(port)) = (host, accept.port) else {
        let what = format!("{} did not say where it listens", to.route.host());
        return Err(
            Failure::new(Exit::Unreachable, what).next("name its address with --data-address")
        );
    };
    let host = one_line(host);
    let unreachable = |e: io::Error| {
        Failure::new(Exit::Unreachable, format!("cannot connect to {host} port {port}: {e}")).next(
            "check the firewall between the hosts, or name another address with --data-address",
        )
    };
    let address = (host.as_str(), port).to_socket_addrs().map_err(unreachable)?.next();
    let address = address.ok_or_else(|| unreachable(io::Error::other("no address")))?;
    let stream =
        TcpStream::connect_timeout(&address, Duration::from_secs(15)).map_err(unreachable)?;
    tune(&stream).map_err(unreachable)?;
    Ok(stream)
}

/// Makes a dead peer show: by keepalives where nothing is under way, by unacknowledged data where
/// something is. The kernel counts a closed window as the second (tcp_timer.c: tcp_probe_timer),
/// and a busy target closes it for as long as it restores: so that patience is the one with a
/// stall. A dead host is noticed sooner, by the control channel.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &5)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &5)?;
    setsockopt(stream, sockopt::TcpKeepCount, &5)?;
    let timeout = u32::try_from(deadlines::STALL.as_millis()).unwrap_or(u32::MAX);
    setsockopt(stream, sockopt::TcpUserTimeout, &timeout)?;
    Ok(())
}

/// A data connection as the target has it.
pub struct Connection {
    /// Its place among the migration's connections.
    pub index: u16,
    /// Where its frames come from.
    pub fd: OwnedFd,
    /// Over ssh: the process that keeps the ssh session alive waits for this to close.
    pub keeper: Option<UnixStream>,
}

/// Where a target's data connections arrive. Dropping it stops waiting and removes the socket.
pub struct Rendezvous {
    cancel: Cancel,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
    /// The TCP port, when it listens on one.
    pub port: Option<u16>,
}

impl Rendezvous {
    /// Waits for `count` connections on a thread of its own, and gives them to `deliver` when all
    /// are there.
    pub fn open(
        state: &StateDir,
        ticket: &Ticket,
        tcp: Option<IpAddr>,
        count: u16,
        deliver: impl FnOnce(Result<Vec<Connection>, String>) + Send + 'static,
    ) -> Result<Self, Failure> {
        let socket = state.receive_socket(&ticket.id.to_string())?;
        let failed = |e: io::Error| Failure::internal(socket.display(), &e);
        let unix = UnixListener::bind(&socket).map_err(failed)?;
        let listener = tcp.map(|address| TcpListener::bind((address, 0))).transpose();
        let listener =
            listener.map_err(|e| Failure::internal("cannot listen for data connections", &e))?;
        let port =
            listener.as_ref().and_then(|tcp| tcp.local_addr().ok()).map(|address| address.port());
        let cancel = Cancel::new().map_err(failed)?;
        let gathering = Gathering {
            unix,
            tcp: listener,
            ticket: ticket.clone(),
            cancel: cancel.clone(),
            count,
        };
        let run = move || deliver(gathering.run());
        let thread =
            std::thread::Builder::new().name("rendezvous".into()).spawn(run).map_err(failed)?;
        Ok(Self { cancel, thread: Some(thread), socket, port })
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        self.cancel.pull();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // Not there any more only if somebody cleaned up before us.
        let _ = std::fs::remove_file(&self.socket);
    }
}

struct Gathering {
    unix: UnixListener,
    tcp: Option<TcpListener>,
    ticket: Ticket,
    cancel: Cancel,
    count: u16,
}

impl Gathering {
    fn run(self) -> Result<Vec<Connection>, String> {
        let deadline = Instant::now() + deadlines::DATA_CONNECTIONS;
        let mut connections: Vec<Connection> = Vec::new();
        while connections.len() < usize::from(self.count) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!(
                    "only {} of {} data connections came",
                    connections.len(),
                    self.count
                ));
            }
            match self.accept(left) {
                Ok(Some(new))
                    if new.index < self.count
                        && connections.iter().all(|old| old.index != new.index) =>
                {
                    connections.push(new);
                }
                Ok(Some(new)) => {
                    tracing::warn!("a second data connection {} was dropped", new.index)
                }
                Ok(None) => {}
                Err(error) if self.cancel.pulled() => return Err(error.to_string()),
                Err(error) => tracing::warn!("a data connection was dropped: {error}"),
            }
        }
        connections.sort_by_key(|connection| connection.index);
        Ok(connections)
    }

    /// The next connection with the right preamble, from either listener, if one came in time.
    fn accept(&self, patience: Duration) -> io::Result<Option<Connection>> {
        let mut listeners = vec![self.unix.as_fd()];
        listeners.extend(self.tcp.as_ref().map(AsFd::as_fd));
        match (wait_readable(&listeners, &self.cancel, patience)?, &self.tcp) {
            (None, _) => Ok(None),
            (Some(1), Some(tcp)) => {
                let (stream, from) = tcp.accept()?;
                self.accept_tcp(stream, from).map(Some)
            }
            (Some(_), _) => {
                let (keeper, _) = self.unix.accept()?;
                self.accept_handed(keeper).map(Some)
            }
        }
    }

    fn accept_tcp(&self, stream: TcpStream, from: SocketAddr) -> io::Result<Connection> {
        tune(&stream)?;
        let mut greeting =
            Guarded::new(stream.try_clone()?, self.cancel.clone(), Some(deadlines::PREAMBLE))?;
        let preamble = read_preamble(&mut greeting)?;
        if !self.ticket.admits(&preamble) {
            return Err(io::Error::other(format!("{from} has no token of this migration")));
        }
        Ok(Connection { index: preamble.connection, fd: stream.into(), keeper: None })
    }

    fn accept_handed(&self, keeper: UnixStream) -> io::Result<Connection> {
        keeper.set_read_timeout(Some(deadlines::PREAMBLE))?;
        let (preamble, fd) = receive_descriptor(&keeper)?;
        if !self.ticket.admits(&preamble) {
            return Err(io::Error::other("a handed connection has no token of this migration"));
        }
        Ok(Connection { index: preamble.connection, fd, keeper: Some(keeper) })
    }
}

/// Reads the first bytes of a connection.
pub fn read_preamble(from: &mut impl Read) -> io::Result<Preamble> {
    let mut bytes = [0; PREAMBLE_LEN];
    from.read_exact(&mut bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(error.kind(), "it ended before its first 64 bytes")
        }
        _ => error,
    })?;
    Preamble::parse(&bytes).map_err(io::Error::other)
}

/// The part of a data connection's own `rxl receive`: hands its standard input to the session, then
/// keeps the ssh session alive until the session is done with it.
pub fn hand_over(socket: &Path, preamble: &Preamble, input: &impl AsFd) -> io::Result<()> {
    let deadline = Instant::now() + deadlines::CONNECT;
    let mut session = loop {
        match UnixStream::connect(socket) {
            Ok(session) => break session,
            // The control connection may be slower than this one.
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    send_descriptor(&session, preamble, input)?;
    // Ends with the session, however that ends: its deadlines are this one's.
    let mut nothing = [0; 1];
    session.read(&mut nothing).map(|_| ())
}

fn send_descriptor(session: &UnixStream, preamble: &Preamble, input: &impl AsFd) -> io::Result<()> {
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

fn receive_descriptor(keeper: &UnixStream) -> io::Result<(Preamble, OwnedFd)> {
    let mut bytes = [0; PREAMBLE_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let got =
        rustix::net::recvmsg(keeper, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
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

/// The address of this host by which ssh was reached, from SSH_CONNECTION (sshd(8)): client, port,
/// server, port.
pub fn ssh_server_address() -> Option<IpAddr> {
    std::env::var("SSH_CONNECTION").ok()?.split(' ').nth(2)?.parse().ok()
}

/// Where to listen for TCP data: the address the source will use, else ssh's, else everywhere.
pub fn listen_address(named: Option<&str>) -> IpAddr {
    named
        .and_then(|name| name.parse().ok())
        .or_else(ssh_server_address)
        .unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED))
}
