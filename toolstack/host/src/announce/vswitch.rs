//! Ports of an Open vSwitch. Linux shows at most that they have its datapath for a master.

use super::{AnnounceError, run};

/// How long a program of Open vSwitch waits for its daemons.
const TIMEOUT: &str = "--timeout=5";

/// The bridge whose port an interface is; none where it is none, or there is no Open vSwitch.
pub(super) fn of(device: &str) -> Option<String> {
    let printed = run("ovs-vsctl", &[TIMEOUT, "port-to-br", device]).ok()?;
    let name = String::from_utf8(printed).ok()?.trim().to_owned();
    (!name.is_empty()).then_some(name)
}

/// Has the bridge take a frame as if it came from the interface, by its flow table: a plain bridge
/// learns the sender's address from it and sends it on in the port's VLAN, one with a controller
/// does as that says.
pub(super) fn receive(bridge: &str, device: &str, frame: &[u8]) -> Result<(), AnnounceError> {
    let packet: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let packet_out = format!("in_port={device} packet={packet} actions=TABLE");
    run("ovs-ofctl", &[TIMEOUT, "packet-out", bridge, &packet_out]).map(drop)
}
