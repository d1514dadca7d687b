//! Data connections: how they are opened, and how the target knows that they belong to a migration.
//!
//! ```text
//!  rxl migrate                                     target
//!    |- ssh HOST rxl receive   (control) ----->  rxl receive   listens on /run/rxl/receive-ID.sock
//!    |- ssh HOST rxl receive   (data 0)  ----->  rxl receive - hands its stdin over there, waits
//!    `- TCP                    (data 1)  ----->  the first one's listener, when asked for
//! ```
//! Every connection, the control channel's included, begins with the same 64-byte preamble: role,
//! index, migration id, token. Over ssh `rxl receive` answers it with a greeting, on a data
//! connection once the session has got that: what a login shell prints before is left out, and a
//! connection that sshd turned away (`MaxStartups`) is told from one that is slow. The token is 32
//! random bytes that the control channel brought; whoever connects without it is dropped. A data
//! connection over ssh is handed over as a descriptor (SCM_RIGHTS), so its bytes take no detour
//! through a second process.
//!
//! Connections are opened and recognized on the runtime ([`crate::runtime`]): over TCP all at once,
//! over ssh a few at a time. The data path then gets them as blocking descriptors.
//!
//! Encryption of parallel TCP connections belongs here: [`Connections::open`] and [`Rendezvous`]
//! are the only places that know what a connection is made of.

mod hand_over;
mod outgoing;
mod rendezvous;

use std::io::{self, Read};
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::Duration;

use migrate_stream::frame::{MigrationId, PREAMBLE_LEN, Preamble, Purpose, Token};
use nix::sys::socket::{setsockopt, sockopt};

use rxl_core::error::{Exit, Failure};
use rxl_core::text::one_line;

pub use hand_over::{greet, hand_over};
pub use outgoing::{Connections, Destination};
pub use rendezvous::{Connection, Expected, Rendezvous, RendezvousError};

/// What proves that a connection belongs to a migration.
#[derive(Clone)]
pub struct Ticket {
    /// Names the migration, in logs and paths.
    pub id: MigrationId,
    /// The secret that both sides have.
    pub token: Token,
}

impl Ticket {
    /// A new ticket, from the kernel's random numbers.
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

/// Makes a dead peer show: by keepalives where nothing is under way, by unacknowledged data where
/// something is. The kernel counts a closed window as the second (tcp_timer.c: tcp_probe_timer),
/// and a busy target closes it for as long as it restores: so that deadline is the one for a stall.
/// A dead host is noticed sooner, by the control channel.
fn tune(stream: &impl AsFd, stall: Duration) -> io::Result<()> {
    setsockopt(stream, sockopt::TcpNoDelay, &true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &5)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &5)?;
    setsockopt(stream, sockopt::TcpKeepCount, &5)?;
    let timeout = u32::try_from(stall.as_millis()).unwrap_or(u32::MAX);
    setsockopt(stream, sockopt::TcpUserTimeout, &timeout)?;
    Ok(())
}

/// The IP address behind the target's name for data, as the source knows it. The target cannot
/// look it up: Debian has a host's own name stand for 127.0.1.1 there.
pub fn resolve(name: &str) -> Result<IpAddr, Failure> {
    let found = match name.parse() {
        Ok(address) => Ok(Some(address)),
        Err(_) => (name, 0).to_socket_addrs().map(|mut all| all.next().map(|found| found.ip())),
    };
    let unknown = |why: String| {
        let what = format!("no address of '{}'{why}", one_line(name));
        Failure::new(Exit::Unreachable, what).next("check --data-address")
    };
    found.map_err(|error| unknown(format!(": {error}")))?.ok_or_else(|| unknown(String::new()))
}

/// The address of this host by which ssh was reached, from SSH_CONNECTION (sshd(8)): client, port,
/// server, port.
fn ssh_server_address() -> Option<IpAddr> {
    std::env::var("SSH_CONNECTION").ok()?.split(' ').nth(2)?.parse().ok()
}

/// The address that ssh came from, from SSH_CONNECTION.
pub fn ssh_client_address() -> Option<IpAddr> {
    std::env::var("SSH_CONNECTION").ok()?.split(' ').next()?.parse().ok()
}

/// Where to listen for TCP data: the address that the source has named, else the one by which ssh
/// came. None where neither is known: to listen on all addresses would let strangers try, too.
pub fn listen_address(named: Option<&str>) -> Option<IpAddr> {
    match named {
        Some(address) => address.parse().ok(),
        None => ssh_server_address(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_address_is_the_one_to_listen_on() {
        assert_eq!(listen_address(Some("127.0.0.1")), Some([127, 0, 0, 1].into()));
        assert_eq!(listen_address(Some("nodeB")), None, "no look-up at the target");
    }

    #[test]
    fn a_name_without_an_address_is_told() {
        assert_eq!(resolve("::1").unwrap(), IpAddr::from(std::net::Ipv6Addr::LOCALHOST));
        assert_eq!(resolve("no such host").unwrap_err().exit, Exit::Unreachable);
    }
}
