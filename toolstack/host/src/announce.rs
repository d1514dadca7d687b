//! Tells the network where a guest has moved to, from its new host.
//!
//! Linux's netfront announces itself by a gratuitous ARP when its backend is connected, which comes
//! too early: the bridge takes the backend's interface for up when its carrier has been noticed, a
//! moment later, and drops what comes before. A guest that then waits for others to speak is not
//! found until the bridges on the way forget where it was: Linux's do so after 300 s. The old entry
//! was seen in use 17 s after a move.
//!
//! So as soon as the interface forwards, the host's own bridge is told by its forwarding database,
//! and the rest of the network by reverse ARP requests in the guest's name, repeated as QEMU
//! repeats them (net/announce.c).
//!
//! Until then all that is sent to the guest, or by it, is lost, and each retransmission doubles the
//! wait for the next. So a quiesced MPI job is resumed only then ([`reachable`]).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use pnet_datalink::Channel;

use crate::host::Host;
use rxl_core::deadlines;
use rxl_core::domain::{DomId, Vif};
use rxl_core::io::rest;
use rxl_core::text::one_line;
use rxl_xenstore::{Store, StoreError};

/// Longest time until an interface is looked at again; the kernel's notices come first.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// RTMGRP_LINK (Linux's linux/rtnetlink.h): notices that an interface, or a bridge's port, has
/// changed.
const LINKS: u32 = 1;

/// BR_STATE_FORWARDING (Linux's linux/if_bridge.h).
const FORWARDING: &str = "3";

/// Pauses between requests: QEMU's, for five of them.
const PAUSES: [u64; 5] = [0, 50, 150, 250, 350];

/// Why an interface could not be announced. Each displays as one line.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// Nothing is known of interfaces without a bridge.
    #[error("it is in no Linux bridge")]
    NoBridge,
    /// The kernel gives no notices of its interfaces.
    #[error("link notices: {}", .0.desc())]
    Notices(#[source] Errno),
    /// The bridge drops what is sent to or by the guest.
    #[error("its bridge does not forward to it yet")]
    NotForwarding,
    /// The program `bridge` of iproute2 could not be run.
    #[error("bridge: {0}")]
    NoProgram(#[source] io::Error),
    /// The program `bridge` says why the kernel refused.
    #[error("bridge fdb replace: {0}")]
    Refused(String),
    /// The bridge has vanished meanwhile.
    #[error("its bridge is gone")]
    BridgeGone,
    /// The bridge is no Ethernet interface, or has no room for a frame.
    #[error("{0} takes no frames")]
    NoFrames(String),
    /// A frame could not be sent.
    #[error("{bridge}: {source}")]
    Send {
        /// The bridge's interface.
        bridge: String,
        source: io::Error,
    },
}

/// The interfaces of a domain, by xenstore.
pub fn vifs(store: &Store, domid: u32) -> Result<Vec<Vif>, StoreError> {
    let top = format!("/local/domain/{domid}/device/vif");
    let mut vifs = Vec::new();
    for number in store.list(&top)? {
        let mac = store.read(&format!("{top}/{number}/mac"))?.and_then(|mac| parse_mac(&mac));
        vifs.extend(mac.map(|mac| Vif { device: format!("vif{domid}.{number}"), mac }));
    }
    Ok(vifs)
}

/// Waits until this host's bridges forward to these interfaces, and know them. Interfaces in no
/// Linux bridge are not waited for: nothing is known of them.
pub fn reachable(vifs: &[Vif], deadline: Instant) -> Result<(), AnnounceError> {
    vifs.iter().filter(|vif| bridge_of(vif).is_some()).try_for_each(|vif| learn(vif, deadline))
}

/// Announces a domain that has just been let run here; returns when that is done, or cannot be.
pub fn arrival(host: &dyn Host, domid: DomId, name: &str) {
    match host.vifs(domid) {
        Ok(vifs) => announce(&vifs),
        Err(error) => tracing::warn!("{name}: its interfaces: {error}"),
    }
}

/// Announces these interfaces; returns when that is done, or cannot be.
fn announce(vifs: &[Vif]) {
    let begun = Instant::now();
    for vif in vifs {
        match announce_one(vif, begun + deadlines::ANNOUNCE) {
            Ok(()) => tracing::info!(
                "{} announced {} ms after it runs",
                vif.device,
                begun.elapsed().as_millis()
            ),
            Err(why) => tracing::warn!(
                "{}: {why}: switches learn of it when the guest sends something",
                vif.device
            ),
        }
    }
}

fn announce_one(vif: &Vif, deadline: Instant) -> Result<(), AnnounceError> {
    let bridge = bridge_of(vif).ok_or(AnnounceError::NoBridge)?;
    learn(vif, deadline)?;
    request(&bridge, vif.mac)
}

fn bridge_of(vif: &Vif) -> Option<String> {
    let interfaces = Path::new("/sys/class/net");
    let master = std::fs::read_link(interfaces.join(&vif.device).join("master")).ok()?;
    let bridge = master.file_name()?.to_str()?.to_owned();
    interfaces.join(&bridge).join("bridge").is_dir().then_some(bridge)
}

/// Makes the bridge know the guest as soon as its port forwards.
fn learn(vif: &Vif, deadline: Instant) -> Result<(), AnnounceError> {
    let state = Path::new("/sys/class/net").join(&vif.device).join("brport/state");
    // Before the first look: what changes after it is then noticed.
    let notices = Notices::open().map_err(AnnounceError::Notices)?;
    loop {
        let forwards =
            std::fs::read_to_string(&state).is_ok_and(|state| state.trim() == FORWARDING);
        let taught = if forwards { teach(vif) } else { Err(AnnounceError::NotForwarding) };
        let left = deadline.saturating_duration_since(Instant::now());
        if taught.is_ok() || left.is_zero() {
            return taught;
        }
        notices.wait(left.min(POLL_INTERVAL));
    }
}

/// The kernel's notices that an interface has changed (rtnetlink(7)). To poll would take the
/// processor that the interface waits for.
struct Notices(OwnedFd);

impl Notices {
    fn open() -> nix::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, LINKS))?;
        Ok(Self(socket))
    }

    /// Waits for a notice, or until `longest` is over. Their contents are not read: an overflow of
    /// the socket is a notice, too.
    fn wait(&self, longest: Duration) {
        rest(self.0.as_fd(), longest);
        while recv(self.0.as_raw_fd(), &mut [0; 64], MsgFlags::empty()).is_ok() {}
    }
}

/// Writes the guest's address into the bridge's forwarding database. The kernel refuses while the
/// port does not forward.
fn teach(vif: &Vif) -> Result<(), AnnounceError> {
    let mac = text(vif.mac);
    let mut bridge = Command::new("bridge");
    bridge.args(["fdb", "replace", &mac, "dev", &vif.device, "master", "dynamic"]);
    let output = bridge.stdin(Stdio::null()).output().map_err(AnnounceError::NoProgram)?;
    if output.status.success() {
        return Ok(());
    }
    Err(AnnounceError::Refused(one_line(&String::from_utf8_lossy(&output.stderr))))
}

fn request(bridge: &str, mac: [u8; 6]) -> Result<(), AnnounceError> {
    let interfaces = pnet_datalink::interfaces();
    let interface = interfaces.iter().find(|interface| interface.name == bridge);
    let interface = interface.ok_or(AnnounceError::BridgeGone)?;
    let failed = |source| AnnounceError::Send { bridge: bridge.into(), source };
    let no_frames = || AnnounceError::NoFrames(bridge.into());
    let channel = pnet_datalink::channel(interface, pnet_datalink::Config::default());
    let Channel::Ethernet(mut sender, _) = channel.map_err(failed)? else {
        return Err(no_frames());
    };
    for pause in PAUSES {
        std::thread::sleep(Duration::from_millis(pause));
        match sender.send_to(&frame(mac), None) {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(failed(error)),
            None => return Err(no_frames()),
        }
    }
    Ok(())
}

/// A reverse ARP request (RFC 903) by `mac` about itself, of Ethernet's least length.
fn frame(mac: [u8; 6]) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    // Ethernet type; then hardware 1, protocol IPv4, lengths 6 and 4, operation 3.
    frame[12..22].copy_from_slice(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    frame[22..28].copy_from_slice(&mac);
    frame[32..38].copy_from_slice(&mac);
    frame
}

/// An Ethernet address as people write it.
fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads an Ethernet address as people write it.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0, 0x16, 0x3e, 0x77, 0, 0x13];

    #[test]
    fn addresses_are_read_as_they_are_written() {
        assert_eq!(parse_mac(&text(MAC)), Some(MAC));
        for bad in [
            "",
            "00:16:3e:77:00",
            "00:16:3e:77:00:13:00",
            "0:16:3e:77:00:13",
            "00:16:3e:77:00:zz",
            "00163e770013",
        ] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_request_is_rfc_903s() {
        let frame = frame(MAC);
        assert_eq!(
            frame[..14],
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x16, 0x3e, 0x77, 0, 0x13, 0x80, 0x35]
        );
        assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, 3]);
        assert_eq!((&frame[22..28], &frame[32..38]), (&MAC[..], &MAC[..]));
        assert!(frame[28..32].iter().chain(&frame[38..]).all(|byte| *byte == 0));
    }

    #[test]
    fn what_is_in_no_bridge_is_said() {
        let vif = Vif { device: "lo".into(), mac: MAC };
        let told = announce_one(&vif, Instant::now()).unwrap_err().to_string();
        assert_eq!(told, "it is in no Linux bridge");
    }
}
