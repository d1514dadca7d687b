//! The source's data connections.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::stream::{StreamExt, TryStreamExt, iter};
use migrate_stream::frame::{PREAMBLE_LEN, Purpose};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{Ticket, resolve, tune};
use crate::control::Accept;
use crate::runtime::runtime;
use crate::ssh::{RECEIVER, Remote, Retries, Route, end_all};
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, Guarded};
use rxl_core::peer::Transport;

/// Connections over ssh that may be waiting for their authentication at the same time. sshd admits
/// ten unless it is told otherwise (`MaxStartups`), and this migration is not alone there.
const AT_ONCE: usize = 4;

/// Pause between two looks whether the user has given up meanwhile.
const STOP_PAUSE: Duration = Duration::from_millis(50);

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
    /// Longest time in which no byte may move on one.
    pub stall: Duration,
}

impl Connections {
    /// Opens them all and sends their preambles, within [`deadlines::CONNECT`]. Gives up when
    /// `stop` says why.
    pub fn open(
        to: &Destination<'_>,
        accept: &Accept,
        ticket: &Ticket,
        cancel: &Cancel,
        stop: impl FnMut() -> Option<Failure>,
    ) -> Result<Self, Failure> {
        let runtime = runtime().map_err(|e| Failure::internal("runtime", &e))?;
        let opened = runtime.block_on(async {
            tokio::select! {
                opened = open(to, accept, ticket) => opened,
                why = stopped(stop) => Err(why),
            }
        })?;
        let mut all = Self { streams: Vec::new(), children: Vec::new() };
        for Opened { fd, child } in opened {
            all.children.extend(child);
            let stream = Guarded::new(fd, cancel.clone(), Some(to.stall));
            all.streams.push(stream.map_err(|e| Failure::internal("data connection", &e))?);
        }
        Ok(all)
    }

    /// The last words of those ssh processes that have said any, each once.
    pub fn heard(&self) -> String {
        let mut words: Vec<String> = self.children.iter().map(Remote::heard).collect();
        words.sort_unstable();
        words.dedup();
        words.concat()
    }
}

/// Comes when somebody wants to stop, with the reason.
async fn stopped(mut stop: impl FnMut() -> Option<Failure>) -> Failure {
    loop {
        if let Some(why) = stop() {
            return why;
        }
        sleep(STOP_PAUSE).await;
    }
}

/// A connection whose preamble has been sent.
struct Opened {
    fd: OwnedFd,
    child: Option<Remote>,
}

async fn open(
    to: &Destination<'_>,
    accept: &Accept,
    ticket: &Ticket,
) -> Result<Vec<Opened>, Failure> {
    match to.transport {
        Transport::Ssh => {
            let deadline = Instant::now() + deadlines::CONNECT;
            let opening = (0..to.count).map(|index| open_ssh(to, ticket, index, deadline));
            iter(opening).buffered(AT_ONCE).try_collect().await
        }
        Transport::Tcp => open_tcp(to, accept, ticket).await,
    }
}

/// Opens a connection until the session there has got it. A host that turns it away is tried again.
async fn open_ssh(
    to: &Destination<'_>,
    ticket: &Ticket,
    index: u16,
    deadline: Instant,
) -> Result<Opened, Failure> {
    let mut retries = Retries::until(deadline);
    loop {
        let (mut child, pipes) = Remote::start_for(to.route, RECEIVER, to.stall)?;
        let mut input = File::from(pipes.to);
        // So little goes into a new pipe at once.
        let greeted = input.write_all(&ticket.preamble(Purpose::Data, index)).is_ok();
        let left = deadline.saturating_duration_since(Instant::now());
        if greeted && timeout(left, child.answered()).await.unwrap_or(false) {
            return Ok(Opened { fd: input.into(), child: Some(child) });
        }
        let failure = child.post_mortem_on_runtime().await;
        match retries.after(&failure, child.was_turned_away()) {
            Some(pause) => {
                tracing::info!("data connection {index}: {}; it is tried again", failure.what);
                sleep(pause).await;
            }
            None => return Err(failure.context(format_args!("data connection {index}"))),
        }
    }
}

async fn open_tcp(
    to: &Destination<'_>,
    accept: &Accept,
    ticket: &Ticket,
) -> Result<Vec<Opened>, Failure> {
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
    let preambles = (0..to.count).map(|index| ticket.preamble(Purpose::Data, index));
    let connections =
        join_all(preambles.map(|preamble| connect(address, preamble, to.stall))).await;
    let opened = connections.into_iter().map(|fd| fd.map(|fd| Opened { fd, child: None }));
    opened.collect::<io::Result<_>>().map_err(unreachable)
}

/// One connection that has said who it is, as a blocking descriptor.
async fn connect(
    address: SocketAddr,
    preamble: [u8; PREAMBLE_LEN],
    stall: Duration,
) -> io::Result<OwnedFd> {
    let connected = async {
        let mut stream = TcpStream::connect(address).await?;
        tune(&stream, stall)?;
        stream.write_all(&preamble).await?;
        io::Result::Ok(stream)
    };
    let in_time = timeout(deadlines::TCP_CONNECT, connected).await;
    let stream = in_time.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream.into())
}
