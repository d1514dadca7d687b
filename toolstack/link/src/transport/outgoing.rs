//! The source's data connections.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use futures::future::join_all;
use migrate_stream::frame::Purpose;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Ticket, resolve, tune};
use crate::control::Accept;
use crate::runtime::runtime;
use crate::ssh::{RECEIVER, Remote, Route, end_all};
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, Guarded};
use rxl_core::peer::Transport;

/// The source's data connections. Dropping them closes those that were not taken, and ends the ssh
/// processes behind them, all at once.
pub struct Connections {
    /// Their writing ends, in the order of their indices.
    pub streams: Vec<Guarded>,
    /// The ssh processes behind them; none over TCP.
    pub children: Vec<Remote>,
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.streams.clear();
        end_all(std::mem::take(&mut self.children));
    }
}

/// Where the source's data connections lead.
pub struct Destination<'a> {
    /// How the target is reached.
    pub route: &'a Route,
    /// What carries the data.
    pub transport: Transport,
    /// Number of connections.
    pub count: u16,
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
        let fds = match to.transport {
            Transport::Ssh => {
                (0..to.count).map(|_| all.open_ssh(to.route)).collect::<Result<_, _>>()?
            }
            Transport::Tcp => open_tcp(to, accept)?,
        };
        for (index, fd) in (0..to.count).zip(fds) {
            let greeted = greet(fd, &ticket.preamble(Purpose::Data, index), cancel);
            all.streams.push(greeted.map_err(|e| {
                let what = format!("data connection {index} to {}: {e}", to.route.host());
                Failure::new(Exit::Unreachable, what)
            })?);
        }
        Ok(all)
    }

    fn open_ssh(&mut self, route: &Route) -> Result<OwnedFd, Failure> {
        let (child, pipes) = Remote::start(route, RECEIVER)?;
        self.children.push(child);
        Ok(pipes.to)
    }
}

fn greet(fd: OwnedFd, preamble: &[u8], cancel: &Cancel) -> io::Result<Guarded> {
    let mut stream = Guarded::new(fd, cancel.clone(), Some(deadlines::STALL))?;
    stream.write_all(preamble)?;
    Ok(stream)
}

fn open_tcp(to: &Destination<'_>, accept: &Accept) -> Result<Vec<OwnedFd>, Failure> {
    let (Some(host), Some(port)) = (&accept.address, accept.port) else {
        let what = format!("{} did not say where it listens", to.route.host());
        let failure = Failure::new(Exit::Unreachable, what);
        return Err(failure.next("name its address with --data-address"));
    };
    let address = SocketAddr::new(resolve(host)?, port);
    let unreachable = |e: io::Error| {
        Failure::new(Exit::Unreachable, format!("cannot connect to {address}: {e}")).next(
            "check the firewall between the hosts, or name another address with --data-address",
        )
    };
    let runtime = runtime().map_err(unreachable)?;
    let connections = runtime.block_on(join_all((0..to.count).map(|_| connect(address))));
    connections.into_iter().map(|connected| connected.map_err(unreachable)).collect()
}

/// One connection, as a blocking descriptor.
async fn connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let stream = timeout(deadlines::TCP_CONNECT, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    tune(&stream)?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream.into())
}
