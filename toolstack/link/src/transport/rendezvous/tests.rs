//! Connections that come, do not come, come late, or do not belong here.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use migrate_stream::frame::Purpose;
use tempfile::TempDir;

use super::*;
use crate::transport::hand_over::send_descriptor;

type Delivered = Receiver<Result<Vec<Connection>, RendezvousError>>;

struct Target {
    rendezvous: Rendezvous,
    delivered: Delivered,
    ticket: Ticket,
    dir: TempDir,
}

impl Target {
    fn new(expected: Expected) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ticket, (tx, delivered)) = (Ticket::random().unwrap(), channel());
        let deliver = move |result| drop(tx.send(result));
        let state = StateDir::at(dir.path());
        let rendezvous = Rendezvous::open(&state, &ticket, expected, deliver).unwrap();
        Self { rendezvous, delivered, ticket, dir }
    }

    /// `count` connections over TCP on this host.
    fn over_tcp(count: u16) -> Self {
        Self::new(Expected::new(count, Some([127, 0, 0, 1].into())))
    }

    fn stranger(&self) -> TcpStream {
        TcpStream::connect(self.rendezvous.tcp.unwrap()).unwrap()
    }

    fn connect(&self, index: u16) -> TcpStream {
        let mut stream = self.stranger();
        stream.write_all(&self.ticket.preamble(Purpose::Data, index)).unwrap();
        stream
    }

    fn hand_over(&self, index: u16, input: &OwnedFd) -> UnixStream {
        let stream = UnixStream::connect(&self.rendezvous.socket).unwrap();
        let bytes = self.ticket.preamble(Purpose::Data, index);
        send_descriptor(&stream, &Preamble::parse(&bytes).unwrap(), input).unwrap();
        stream
    }

    fn result(&self) -> Result<Vec<Connection>, RendezvousError> {
        self.delivered.recv_timeout(Duration::from_secs(10)).unwrap()
    }
}

#[test]
fn connections_come_in_any_order_and_are_blocking() {
    let target = Target::over_tcp(3);
    let (reading, _writing) = rxl_core::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&reading, true).unwrap();
    let _keeper = target.hand_over(1, &reading);
    // What is expected last comes last: afterwards nobody listens any more.
    let _others = [2, 2, 7, 0].map(|index| target.connect(index));
    let all = target.result().unwrap();
    assert_eq!(all.iter().map(|one| one.index).collect::<Vec<_>>(), [0, 1, 2]);
    for one in &all {
        let flags = rustix::fs::fcntl_getfl(&one.fd).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "{one:?}");
    }
    assert!(all[1].keeper.is_some());
}

/// Who sends a byte now and then, or nothing, neither blocks the others nor stays.
#[test]
fn a_client_that_drips_holds_nobody_up() {
    let target = Target::over_tcp(1);
    let mut dripping = target.stranger();
    let _silent: Vec<_> = (0..10).map(|_| target.stranger()).collect();
    let bytes = target.ticket.preamble(Purpose::Data, 0);
    dripping.write_all(&bytes[..1]).unwrap();
    let begun = Instant::now();
    let _honest = target.connect(0);
    assert_eq!(target.result().unwrap().len(), 1);
    assert!(begun.elapsed() < deadlines::PREAMBLE, "{:?}", begun.elapsed());
}

#[test]
fn a_byte_does_not_renew_the_deadline_of_a_preamble() {
    let target = Target::over_tcp(1);
    let mut dripping = target.stranger();
    let begun = Instant::now();
    while dripping.write_all(&[0]).is_ok() {
        assert!(begun.elapsed() < 2 * deadlines::PREAMBLE, "it is still there");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(begun.elapsed() >= deadlines::PREAMBLE);
}

#[test]
fn many_strangers_keep_nobody_out() {
    let target = Target::over_tcp(1);
    let _strangers: Vec<_> = (0..2 * MOST_HANDSHAKES).map(|_| target.stranger()).collect();
    let _honest = target.connect(0);
    assert_eq!(target.result().unwrap().len(), 1);
}

#[test]
fn a_connection_without_the_token_is_dropped() {
    let target = Target::over_tcp(1);
    let other = Ticket { token: Ticket::random().unwrap().token, id: target.ticket.id };
    let mut stranger = target.stranger();
    stranger.write_all(&other.preamble(Purpose::Data, 0)).unwrap();
    let mut end = [0; 1];
    assert!(matches!(stranger.read(&mut end), Ok(0) | Err(_)), "it was closed");
    let mut control = target.stranger();
    control.write_all(&target.ticket.preamble(Purpose::Control, 0)).unwrap();
    assert!(matches!(control.read(&mut end), Ok(0) | Err(_)), "no data connection");
    let _honest = target.connect(0);
    assert_eq!(target.result().unwrap().len(), 1);
}

/// Time runs 200 times as fast as in a migration.
#[test]
fn the_last_member_of_a_gang_still_finds_its_target() {
    const FASTER: u32 = 200;
    let mut expected = Expected::new(1, Some([127, 0, 0, 1].into()));
    expected.deadline /= FASTER;
    let target = Target::new(expected);
    std::thread::sleep((deadlines::BEGIN + deadlines::CONNECT) / FASTER);
    let _late = target.connect(0);
    assert_eq!(target.result().unwrap().len(), 1);
}

#[test]
fn what_does_not_come_is_told() {
    let deadline = Duration::from_millis(100);
    let target = Target::new(Expected { deadline, ..Expected::new(2, None) });
    let (reading, _writing) = rxl_core::io::pipe().unwrap();
    let _keeper = target.hand_over(1, &reading);
    let error = target.result().unwrap_err();
    assert!(matches!(error, RendezvousError::Missing { came: 1, expected: 2, .. }), "{error}");
}

#[test]
fn dropped_it_leaves_no_socket() {
    let Target { rendezvous, delivered, dir, .. } = Target::new(Expected::new(1, None));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    drop(rendezvous);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(delivered.recv().is_err(), "nothing is delivered any more");
}
