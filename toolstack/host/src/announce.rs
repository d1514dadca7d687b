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
//! Where the bridge filters VLANs the requests leave by its other ports, in the guest's VLAN: the
//! bridge's own interface may be in another one. An Open vSwitch is given the request as if the
//! guest had sent it, by which it learns, too. An interface that is in neither is routed: its
//! neighbours keep the old host's address until they ask again, and nothing here can tell them.
//!
//! Until then all that is sent to the guest, or by it, is lost, and each retransmission doubles the
//! wait for the next. So a quiesced MPI job is resumed only then ([`reachable`]).

mod vlans;
mod vswitch;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use pnet_datalink::{Channel, DataLinkSender};

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
    #[error("it is in no bridge of Linux's and no Open vSwitch")]
    NoBridge,
    /// The kernel gives no notices of its interfaces.
    #[error("link notices: {}", .0.desc())]
    Notices(#[source] Errno),
    /// The bridge drops what is sent to or by the guest.
    #[error("its bridge does not forward to it yet")]
    NotForwarding,
    /// A program of iproute2 or Open vSwitch could not be run.
    #[error("{0}: {1}")]
    NoProgram(&'static str, #[source] io::Error),
    /// The program says why it was refused.
    #[error("{0}: {1}")]
    Refused(&'static str, String),
    /// `bridge` of iproute2 writes something else than a list of ports.
    #[error("bridge vlan show: {0}")]
    NoVlans(#[source] serde_json::Error),
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

/// Waits until this host's bridges forward to these interfaces, and know them. Interfaces in none
/// are not waited for: nothing is known of them.
pub fn reachable(vifs: &[Vif], deadline: Instant) -> Result<(), AnnounceError> {
    vifs.iter().try_for_each(|vif| match Bridge::of(vif) {
        Some(bridge) => bridge.learn(vif, deadline),
        None => Ok(()),
    })
}

/// What an interface is a port of.
enum Bridge {
    /// A bridge of Linux's, by its interface.
    Linux(String),
    /// An Open vSwitch, by its name.
    Vswitch(String),
}

impl Bridge {
    fn of(vif: &Vif) -> Option<Self> {
        let linux = bridge_of(vif).map(Self::Linux);
        linux.or_else(|| vswitch::of(&vif.device).map(Self::Vswitch))
    }

    /// Makes it know the guest as soon as it forwards to it.
    fn learn(&self, vif: &Vif, deadline: Instant) -> Result<(), AnnounceError> {
        wait_until(deadline, || match self {
            Self::Linux(_) if !forwards(&vif.device) => Err(AnnounceError::NotForwarding),
            Self::Linux(_) => teach(vif),
            Self::Vswitch(_) if !has_carrier(&vif.device) => Err(AnnounceError::NotForwarding),
            Self::Vswitch(name) => vswitch::receive(name, &vif.device, &frame(vif.mac)),
        })
    }

    /// Tells all else, by what the guest could have sent.
    fn request(&self, vif: &Vif) -> Result<(), AnnounceError> {
        let request = frame(vif.mac);
        match self {
            Self::Linux(name) if vlans::are_filtered(name) => {
                let ports = vlans::ports(name, &vif.device)?;
                let frames = ports.iter().map(|port| (&*port.device, port.tagged(&request)));
                repeat(frames)
            }
            Self::Linux(name) => repeat([(&**name, request.to_vec())].into_iter()),
            Self::Vswitch(name) => PAUSES.into_iter().try_for_each(|pause| {
                std::thread::sleep(Duration::from_millis(pause));
                vswitch::receive(name, &vif.device, &request)
            }),
        }
    }
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
    let bridge = Bridge::of(vif).ok_or(AnnounceError::NoBridge)?;
    bridge.learn(vif, deadline)?;
    bridge.request(vif)
}

fn bridge_of(vif: &Vif) -> Option<String> {
    let interfaces = Path::new("/sys/class/net");
    let master = std::fs::read_link(interfaces.join(&vif.device).join("master")).ok()?;
    let bridge = master.file_name()?.to_str()?.to_owned();
    interfaces.join(&bridge).join("bridge").is_dir().then_some(bridge)
}

/// Whether an interface's bridge forwards to it.
fn forwards(device: &str) -> bool {
    let state = Path::new("/sys/class/net").join(device).join("brport/state");
    std::fs::read_to_string(state).is_ok_and(|state| state.trim() == FORWARDING)
}

/// Whether an interface's backend is connected to its frontend.
fn has_carrier(device: &str) -> bool {
    let carrier = Path::new("/sys/class/net").join(device).join("carrier");
    std::fs::read_to_string(carrier).is_ok_and(|carrier| carrier.trim() == "1")
}

/// Tries again until the deadline, whenever an interface has changed.
fn wait_until(
    deadline: Instant,
    mut attempt: impl FnMut() -> Result<(), AnnounceError>,
) -> Result<(), AnnounceError> {
    // Before the first look: what changes after it is then noticed.
    let notices = Notices::open().map_err(AnnounceError::Notices)?;
    loop {
        let done = attempt();
        let left = deadline.saturating_duration_since(Instant::now());
        if done.is_ok() || left.is_zero() {
            return done;
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
    let arguments = ["fdb", "replace", &mac, "dev", &vif.device, "master", "dynamic"];
    run("bridge", &arguments).map(drop)
}

/// What a program prints.
fn run(program: &'static str, arguments: &[&str]) -> Result<Vec<u8>, AnnounceError> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| AnnounceError::NoProgram(program, error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(AnnounceError::Refused(program, one_line(&String::from_utf8_lossy(&output.stderr))))
}

/// Sends frames by one interface.
struct Sender {
    device: String,
    channel: Box<dyn DataLinkSender>,
}

impl Sender {
    fn on(device: &str) -> Result<Self, AnnounceError> {
        let interfaces = pnet_datalink::interfaces();
        let interface = interfaces.iter().find(|interface| interface.name == device);
        let interface = interface.ok_or(AnnounceError::BridgeGone)?;
        let failed = |source| AnnounceError::Send { bridge: device.into(), source };
        let channel = pnet_datalink::channel(interface, pnet_datalink::Config::default());
        match channel.map_err(failed)? {
            Channel::Ethernet(channel, _) => Ok(Self { device: device.into(), channel }),
            _ => Err(AnnounceError::NoFrames(device.into())),
        }
    }

    fn send(&mut self, frame: &[u8]) -> Result<(), AnnounceError> {
        match self.channel.send_to(frame, None) {
            Some(Ok(())) => Ok(()),
            Some(Err(source)) => Err(AnnounceError::Send { bridge: self.device.clone(), source }),
            None => Err(AnnounceError::NoFrames(self.device.clone())),
        }
    }
}

/// Sends a frame by each of these interfaces, as often as QEMU does.
fn repeat<'a>(frames: impl Iterator<Item = (&'a str, Vec<u8>)>) -> Result<(), AnnounceError> {
    let opened = frames.map(|(device, frame)| Ok((Sender::on(device)?, frame)));
    let mut senders = opened.collect::<Result<Vec<_>, _>>()?;
    PAUSES.into_iter().try_for_each(|pause| {
        std::thread::sleep(Duration::from_millis(pause));
        senders.iter_mut().try_for_each(|(sender, frame)| sender.send(frame))
    })
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
mod tests;
