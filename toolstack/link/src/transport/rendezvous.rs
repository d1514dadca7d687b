//! Where a target's data connections arrive.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use migrate_stream::frame::{PREAMBLE_LEN, Preamble};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::hand_over::receive_descriptor;
use super::{Ticket, tune};
use crate::runtime::runtime;
use rxl_core::deadlines;
use rxl_core::error::Failure;
use rxl_core::state_dir::StateDir;

/// Connections that may be saying who they are at the same time. One more ends the oldest: a
/// stranger who opens many cannot keep those out that belong here.
const MOST_HANDSHAKES: usize = 128;

/// Pause after a failed accept, which may be for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A data connection as the target has it.
#[derive(Debug)]
pub struct Connection {
    /// Its place among the migration's connections.
    pub index: u16,
    /// Where its frames come from: a blocking descriptor.
    pub fd: OwnedFd,
    /// Over ssh: the process that keeps the ssh session alive waits for this to close.
    pub keeper: Option<UnixStream>,
}

/// The connections that a target waits for.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Number of connections.
    pub count: u16,
    /// The address to listen on, where they come over TCP.
    pub tcp: Option<IpAddr>,
    /// All are there in this time, or none is taken.
    pub deadline: Duration,
    /// Longest time in which no byte may move on one.
    pub stall: Duration,
}

impl Expected {
    /// So many connections, within the time that a member of a gang may take to open them.
    pub fn new(count: u16, tcp: Option<IpAddr>) -> Self {
        let deadline = deadlines::DATA_CONNECTIONS;
        Self { count, tcp, deadline, stall: deadlines::STALL }
    }
}

/// Why a target has not got its data connections.
#[derive(Debug, thiserror::Error)]
pub enum RendezvousError {
    /// The deadline has passed.
    #[error("only {came} of {expected} data connections came in {} s", deadline.as_secs())]
    Missing {
        /// Connections that belong to the migration and are there.
        came: usize,
        /// Connections that were expected.
        expected: u16,
        /// The deadline that has passed.
        deadline: Duration,
    },
}

/// Why one connection is dropped.
#[derive(Debug, thiserror::Error)]
enum Dropped {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("its first 64 bytes did not come in {} s", deadlines::PREAMBLE.as_secs())]
    Late,
    #[error("{0} has no token of this migration")]
    Stranger(SocketAddr),
    #[error("a handed connection has no token of this migration")]
    HandedStranger,
    #[error("connection {0} is there already, or was not asked for")]
    NotExpected(u16),
    #[error("{MOST_HANDSHAKES} others came before it said who it is: {0}")]
    Ended(#[source] JoinError),
}

/// Where a target's data connections arrive. Dropping it stops waiting and removes the socket.
pub struct Rendezvous {
    task: JoinHandle<()>,
    runtime: Handle,
    socket: PathBuf,
    /// The address and port, when it listens for TCP.
    pub tcp: Option<SocketAddr>,
}

impl Rendezvous {
    /// Waits for connections on the runtime, and gives them to `deliver`, in the order of their
    /// indices, when all are there.
    pub fn open(
        state: &StateDir,
        ticket: &Ticket,
        expected: Expected,
        deliver: impl FnOnce(Result<Vec<Connection>, RendezvousError>) + Send + 'static,
    ) -> Result<Self, Failure> {
        let socket = state.receive_socket(&ticket.id.to_string())?;
        let failed = |e: io::Error| Failure::internal(socket.display(), &e);
        let runtime = runtime().map_err(failed)?;
        let _inside = runtime.enter();
        let unix = UnixListener::bind(&socket).map_err(failed)?;
        let listener = expected.tcp.map(listen).transpose();
        let tcp = listener.map_err(|e| {
            let _ = std::fs::remove_file(&socket);
            Failure::internal("cannot listen for data connections", &e)
        })?;
        let address = tcp.as_ref().and_then(|listener| listener.local_addr().ok());
        let gathering = Gathering { unix, tcp, ticket: ticket.clone(), expected, came: Vec::new() };
        let task = runtime.spawn(async move { deliver(gathering.run().await) });
        Ok(Self { task, runtime: runtime.clone(), socket, tcp: address })
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        self.task.abort();
        let task = &mut self.task;
        // A panic in it has been printed.
        let _ = self.runtime.block_on(task);
        // Not there any more only if somebody cleaned up before us.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// A listener on any port of one address. Called on the runtime.
fn listen(address: IpAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind((address, 0))?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

struct Gathering {
    unix: UnixListener,
    tcp: Option<TcpListener>,
    ticket: Ticket,
    expected: Expected,
    came: Vec<Connection>,
}

impl Gathering {
    async fn run(mut self) -> Result<Vec<Connection>, RendezvousError> {
        let Expected { count, deadline, .. } = self.expected;
        if timeout(deadline, self.gather()).await.is_err() {
            let came = self.came.len();
            return Err(RendezvousError::Missing { came, expected: count, deadline });
        }
        self.came.sort_by_key(|connection| connection.index);
        Ok(self.came)
    }

    /// Takes connections from both listeners until all are there. Each says who it is on a task of
    /// its own, so that a slow one holds no other up.
    async fn gather(&mut self) {
        let mut handshakes = Handshakes::default();
        while self.came.len() < usize::from(self.expected.count) {
            let ticket = self.ticket.clone();
            tokio::select! {
                accepted = self.unix.accept() => match accepted {
                    Ok((stream, _)) => handshakes.begin(take_handed(stream, ticket)),
                    Err(error) => accept_failed(&error).await,
                },
                accepted = accept_tcp(self.tcp.as_ref()) => match accepted {
                    Ok((stream, from)) => {
                        handshakes.begin(take_tcp(stream, from, ticket, self.expected.stall));
                    }
                    Err(error) => accept_failed(&error).await,
                },
                Some(ended) = handshakes.all.join_next() => {
                    let ended = ended.unwrap_or_else(|ended| Err(Dropped::Ended(ended)));
                    if let Err(error) = ended.and_then(|connection| self.admit(connection)) {
                        tracing::warn!("a data connection was dropped: {error}");
                    }
                }
            }
        }
    }

    fn admit(&mut self, new: Connection) -> Result<(), Dropped> {
        let is_there = self.came.iter().any(|old| old.index == new.index);
        if new.index >= self.expected.count || is_there {
            return Err(Dropped::NotExpected(new.index));
        }
        self.came.push(new);
        Ok(())
    }
}

/// Connections that are saying who they are.
#[derive(Default)]
struct Handshakes {
    all: JoinSet<Result<Connection, Dropped>>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Handshakes {
    fn begin(&mut self, shake: impl Future<Output = Result<Connection, Dropped>> + Send + 'static) {
        self.oldest_first.retain(|handshake| !handshake.is_finished());
        if self.oldest_first.len() >= MOST_HANDSHAKES
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            oldest.abort();
        }
        let in_time =
            async { timeout(deadlines::PREAMBLE, shake).await.unwrap_or(Err(Dropped::Late)) };
        self.oldest_first.push_back(self.all.spawn(in_time));
    }
}

async fn accept_failed(error: &io::Error) {
    tracing::warn!("a data connection was not accepted: {error}");
    sleep(ACCEPT_PAUSE).await;
}

/// Never ready where there is no listener.
async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn take_tcp(
    mut stream: TcpStream,
    from: SocketAddr,
    ticket: Ticket,
    stall: Duration,
) -> Result<Connection, Dropped> {
    tune(&stream, stall)?;
    let mut bytes = [0; PREAMBLE_LEN];
    stream.read_exact(&mut bytes).await?;
    let preamble = Preamble::parse(&bytes).map_err(io::Error::other)?;
    if !ticket.admits(&preamble) {
        return Err(Dropped::Stranger(from));
    }
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(Connection { index: preamble.connection, fd: stream.into(), keeper: None })
}

async fn take_handed(
    keeper: tokio::net::UnixStream,
    ticket: Ticket,
) -> Result<Connection, Dropped> {
    let receive = || receive_descriptor(&keeper);
    let (preamble, fd) = keeper.async_io(Interest::READABLE, receive).await?;
    if !ticket.admits(&preamble) {
        return Err(Dropped::HandedStranger);
    }
    rustix::io::ioctl_fionbio(&fd, false).map_err(io::Error::from)?;
    let keeper = keeper.into_std()?;
    keeper.set_nonblocking(false)?;
    Ok(Connection { index: preamble.connection, fd, keeper: Some(keeper) })
}

#[cfg(test)]
mod tests;
