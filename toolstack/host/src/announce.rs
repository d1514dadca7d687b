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
//! wait for the next. So an MPI job that stands still is not let go before ([`reachable`]).

use rxl_core::deadlines;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use pnet_datalink::Channel;

use crate::host::Host;
use rxl_core::domain::{DomId, Vif};
use rxl_core::io::rest;
use rxl_xenstore::{Store, StoreError};

/// Longest pause between two looks at an interface, which the kernel's notices shorten.
const GLANCE: Duration = Duration::from_millis(500);

/// RTMGRP_LINK (Linux's linux/rtnetlink.h): an interface, or a bridge's port, has changed.
const LINKS: u32 = 1;

/// BR_STATE_FORWARDING (Linux's linux/if_bridge.h).
const FORWARDING: &str = "3";

/// Pauses between requests: QEMU's, for five of them.
const PAUSES: [u64; 5] = [0, 50, 150, 250, 350];

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

/// Waits until this host's bridges forward to these interfaces, and know them. Those that are in no
/// Linux bridge are not waited for: nothing is known of them.
pub fn reachable(vifs: &[Vif], deadline: Instant) -> Result<(), String> {
    vifs.iter().filter(|vif| bridge_of(vif).is_some()).try_for_each(|vif| learn(vif, deadline))
}

/// Announces a domain that has just been let run here; returns when that is done, or cannot be.
pub fn arrival(host: &dyn Host, domid: DomId, name: &str) {
    match host.vifs(domid) {
        Ok(vifs) => announce(&vifs),
        Err(error) => tracing::warn!("{name}: its interfaces: {error}"),
    }
}

/// Announces all of them; returns when that is done, or cannot be.
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

fn announce_one(vif: &Vif, deadline: Instant) -> Result<(), String> {
    let bridge = bridge_of(vif).ok_or("it is in no Linux bridge")?;
    learn(vif, deadline)?;
    request(&bridge, vif.mac)
}

fn bridge_of(vif: &Vif) -> Option<String> {
    let interfaces = Path::new("/sys/class/net");
    let master = std::fs::read_link(interfaces.join(&vif.device).join("master")).ok()?;
    let bridge = master.file_name()?.to_str()?.to_owned();
    interfaces.join(&bridge).join("bridge").is_dir().then_some(bridge)
}

/// Has the bridge know the guest as soon as its port forwards.
fn learn(vif: &Vif, deadline: Instant) -> Result<(), String> {
    let state = Path::new("/sys/class/net").join(&vif.device).join("brport/state");
    // Before the first look: what changes after it is then noticed.
    let notices = Notices::open().map_err(|errno| format!("link notices: {}", errno.desc()))?;
    loop {
        let forwards =
            std::fs::read_to_string(&state).is_ok_and(|state| state.trim() == FORWARDING);
        let taught =
            if forwards { teach(vif) } else { Err("its bridge does not forward to it yet".into()) };
        let left = deadline.saturating_duration_since(Instant::now());
        if taught.is_ok() || left.is_zero() {
            return taught;
        }
        notices.wait(left.min(GLANCE));
    }
}

/// The kernel's word that an interface has changed (rtnetlink(7)). Looking again and again would
/// take the processor that the interface waits for.
struct Notices(OwnedFd);

impl Notices {
    fn open() -> nix::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, LINKS))?;
        Ok(Self(socket))
    }

    /// Waits for one, or until `patience` is over. What they say is not read: too many for the
    /// socket are a notice, too.
    fn wait(&self, patience: Duration) {
        rest(self.0.as_fd(), patience);
        while recv(self.0.as_raw_fd(), &mut [0; 64], MsgFlags::empty()).is_ok() {}
    }
}

/// Writes the guest's address into the bridge's forwarding database. The kernel refuses while the
/// port does not forward.
fn teach(vif: &Vif) -> Result<(), String> {
    let mac = text(vif.mac);
    let mut bridge = Command::new("bridge");
    bridge.args(["fdb", "replace", &mac, "dev", &vif.device, "master", "dynamic"]);
    let output =
        bridge.stdin(Stdio::null()).output().map_err(|error| format!("bridge: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(rxl_core::text::one_line(&format!(
        "bridge fdb replace: {}",
        String::from_utf8_lossy(&output.stderr)
    )))
}

fn request(bridge: &str, mac: [u8; 6]) -> Result<(), String> {
    let interfaces = pnet_datalink::interfaces();
    let interface =
        interfaces.iter().find(|interface| interface.name == bridge).ok_or("its bridge is gone")?;
    let channel = pnet_datalink::channel(interface, pnet_datalink::Config::default());
    let Channel::Ethernet(mut sender, _) = channel.map_err(|error| format!("{bridge}: {error}"))?
    else {
        return Err(format!("{bridge} takes no frames"));
    };
    for pause in PAUSES {
        std::thread::sleep(Duration::from_millis(pause));
        match sender.send_to(&frame(mac), None) {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(format!("{bridge}: {error}")),
            None => return Err(format!("{bridge} takes no frames")),
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

/// As people write it.
fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads it as people write it.
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
        assert_eq!(announce_one(&vif, Instant::now()), Err("it is in no Linux bridge".into()));
    }
}
