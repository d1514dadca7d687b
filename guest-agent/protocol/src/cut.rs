//! The state of every connection at the cut, and whether the two ends of each agree.
//!
//! With all ranks of a job frozen and flushed, a connection's sender says how many bytes its peer
//! has acknowledged, and the peer how many it has received. Where both say the same, no byte of it
//! is on the wire: what was sent stands in the receiver's queue or beyond, what was not stands in
//! the sender's. Both are guest memory and move with it.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::fields::{Fields, MAX_VALUE, Malformed};

/// Most nodes `data/rxl/cut/N`. xenstored allows a guest 1000 nodes in all.
pub const MAX_CUT_CHUNKS: usize = 256;

/// One end of a rank's TCP connection, as the rank's kernel sees it:
/// `LOCAL REMOTE ACKED RECEIVED UNACKED NOTSENT UNREAD RETRANSMITS WINDOW`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Address of this end. An IPv4 address mapped into IPv6 is written as IPv4, so that both ends
    /// use the same name.
    pub local: SocketAddr,
    /// Address of the other end.
    pub remote: SocketAddr,
    /// Bytes that the peer has acknowledged (`tcpi_bytes_acked`). Linux counts the SYN of the end
    /// that opened the connection.
    pub acked: u64,
    /// Bytes received in order (`tcpi_bytes_received`).
    pub received: u64,
    /// Bytes sent and not acknowledged.
    pub unacked: u32,
    /// Bytes in the send queue, not yet sent (`tcpi_notsent_bytes`).
    pub notsent: u32,
    /// Bytes received and not read (`idiag_rqueue`).
    pub unread: u32,
    /// Segments retransmitted since the connection was opened (`tcpi_total_retrans`).
    pub retransmits: u32,
    /// The window that the peer has last offered, in bytes (`tcpi_snd_wnd`). None on kernels that
    /// do not tell (before 5.16).
    pub window: Option<u32>,
}

impl Connection {
    fn take(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self {
            local: address(fields, "local address")?,
            remote: address(fields, "remote address")?,
            acked: fields.number("acked")?,
            received: fields.number("received")?,
            unacked: fields.number("unacked")?,
            notsent: fields.number("notsent")?,
            unread: fields.number("unread")?,
            retransmits: fields.number("retransmits")?,
            window: match fields.word("window")? {
                "-" => None,
                bytes => Some(bytes.parse().map_err(|_| Malformed::Bad("window"))?),
            },
        })
    }

    /// Whether all that this end has sent has arrived at `peer`, this connection's other end, and
    /// nothing more.
    ///
    /// The count of the end that opened the connection is one higher, for its SYN.
    pub fn arrived_at(&self, peer: &Self) -> bool {
        self.unacked == 0 && matches!(self.acked.checked_sub(peer.received), Some(0 | 1))
    }
}

fn address(fields: &mut Fields, what: &'static str) -> Result<SocketAddr, Malformed> {
    fields.word(what)?.parse().map_err(|_| Malformed::Bad(what))
}

impl FromStr for Connection {
    type Err = Malformed;

    fn from_str(line: &str) -> Result<Self, Malformed> {
        let mut fields = Fields::of(line)?;
        let connection = Self::take(&mut fields)?;
        fields.end()?;
        Ok(connection)
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { local, remote, acked, received, unacked, notsent, unread, retransmits, window } =
            self;
        write!(
            f,
            "{local} {remote} {acked} {received} {unacked} {notsent} {unread} {retransmits} "
        )?;
        match window {
            Some(window) => write!(f, "{window}"),
            None => f.write_str("-"),
        }
    }
}

/// Values for the nodes `data/rxl/cut/N`, and how many connections found no room in them.
pub fn pack(connections: &[Connection]) -> (Vec<String>, usize) {
    let mut chunks: Vec<String> = Vec::new();
    for (done, line) in connections.iter().map(Connection::to_string).enumerate() {
        let count = chunks.len();
        match chunks.last_mut() {
            Some(chunk) if chunk.len() + 1 + line.len() <= MAX_VALUE => {
                chunk.push('\n');
                chunk.push_str(&line);
            }
            _ if count == MAX_CUT_CHUNKS => return (chunks, connections.len() - done),
            _ => chunks.push(line),
        }
    }
    (chunks, 0)
}

/// The connections in one node `data/rxl/cut/N`.
pub fn unpack(chunk: &str) -> Result<Vec<Connection>, Malformed> {
    if chunk.len() > MAX_VALUE {
        return Err(Malformed::TooLong);
    }
    chunk.split('\n').map(str::parse).collect()
}

/// What comes of comparing the two ends of all connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Connections of which both ends are known and agree in both directions.
    pub agreed: usize,
    /// Local and remote address of those whose ends do not agree, as seen from one end.
    pub disagreed: Vec<(SocketAddr, SocketAddr)>,
    /// Local and remote address of those of which only one end is known: the other is outside the
    /// domains that were frozen.
    pub one_ended: Vec<(SocketAddr, SocketAddr)>,
}

/// Pairs the ends of all connections in the cuts of all domains of a job.
///
/// A domain that has sent all it could writes its rows while another may still send to it. So ends
/// that disagree prove nothing until all domains have been flushed once more after all were
/// flushed: then nothing moves.
pub fn audit<'a>(cuts: impl IntoIterator<Item = &'a Connection>) -> Audit {
    let mut result = Audit::default();
    let mut waiting: HashMap<(SocketAddr, SocketAddr), &Connection> = HashMap::new();
    for end in cuts {
        match waiting.remove(&(end.remote, end.local)) {
            Some(peer) if end.arrived_at(peer) && peer.arrived_at(end) => result.agreed += 1,
            Some(_) => result.disagreed.push((end.local, end.remote)),
            // Two domains claim the same end: one of them lies.
            None if waiting.insert((end.local, end.remote), end).is_some() => {
                result.disagreed.push((end.local, end.remote));
            }
            None => {}
        }
    }
    result.one_ended.extend(waiting.into_keys());
    result.one_ended.sort_unstable();
    result
}
