//! What is sent, and where it arrives: between network namespaces, which need root.

use std::io::{BufRead, BufReader};
use std::process::Child;

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
    assert_eq!(told, "it is in no bridge of Linux's and no Open vSwitch");
}

/// Runs a test once more, alone, with a network, a /sys and processes of its own. True inside.
fn apart(test: &str) -> bool {
    if std::env::var_os("RXL_APART").is_some() {
        return true;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("{test} needs root");
        return false;
    }
    let script = "mount -t sysfs none /sys && ip link set lo up && exec \"$0\" --exact \"$1\"";
    let inside = Command::new("unshare")
        .args(["-nmpf", "--kill-child", "--mount-proc", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(format!("announce::tests::{test}"))
        .env("RXL_APART", "1")
        .output()
        .unwrap();
    assert!(inside.status.success(), "{}", String::from_utf8_lossy(&inside.stdout));
    false
}

fn sh(script: &str) {
    let done = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A guest's interface and an uplink.
const INTERFACES: &str = "ip link add vif9.0 type veth peer name guest
    ip link add uplink type veth peer name wire
    for device in vif9.0 uplink wire; do ip link set $device up; done";

/// Counts the guest's requests on the wire, in this VLAN, until there are this many. The kernel
/// takes the tag off a frame and tells it apart (packet(7): PACKET_AUXDATA, TP_STATUS_VLAN_VALID).
const SNIFFER: &str = "
import socket, struct, sys
vlan, wanted, request = int(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3])
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(('wire', 0))
wire.setsockopt(263, 8, 1)
wire.settimeout(20)
print('listening', flush=True)
while wanted:
    frame, auxiliary, _, _ = wire.recvmsg(2000, 200)
    status, _, _, _, _, tag, _ = struct.unpack('IIIHHHH', auxiliary[0][2])
    wanted -= frame == request and (tag & 0xfff if status & 16 else 0) == vlan
";

fn vif() -> Vif {
    Vif { device: "vif9.0".into(), mac: MAC }
}

/// Listens for all of the guest's requests in a VLAN; 0 is none.
fn arriving(vlan: u16) -> Child {
    let request: String = frame(MAC).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut sniffer = Command::new("python3");
    sniffer.args(["-c", SNIFFER, &vlan.to_string(), &PAUSES.len().to_string(), &request]);
    let mut sniffer = sniffer.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(sniffer.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "listening\n");
    sniffer
}

/// The guest's frontend connects a moment later.
fn announced() {
    let connect = std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(500));
        sh("ip link set guest up");
    });
    let begun = Instant::now();
    reachable(&[vif()], begun + Duration::from_secs(10)).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(500), "nobody was there yet");
    connect.join().unwrap();
    announce_one(&vif(), Instant::now() + Duration::from_secs(10)).unwrap();
}

#[test]
fn a_bridge_that_filters_vlans_sends_it_in_the_guests() {
    if !apart("a_bridge_that_filters_vlans_sends_it_in_the_guests") {
        return;
    }
    sh(INTERFACES);
    let filtering = ["link", "add", "br0", "type", "bridge", "vlan_filtering", "1"];
    if !Command::new("ip").args(filtering).status().unwrap().success() {
        println!("bridges of this kernel filter no VLANs (CONFIG_BRIDGE_VLAN_FILTERING)");
        return;
    }
    sh("ip link set br0 up
        ip link set vif9.0 master br0
        ip link set uplink master br0
        bridge vlan del dev vif9.0 vid 1
        bridge vlan add dev vif9.0 vid 100 pvid untagged
        bridge vlan add dev uplink vid 90-110");
    let mut arrived = arriving(100);
    announced();
    assert!(arrived.wait().unwrap().success(), "all of them arrived in its VLAN");
    sh("bridge fdb show dev vif9.0 | grep -q '00:16:3e:77:00:13 vlan 100'");
}

#[test]
fn a_plain_bridge_sends_it_as_it_is() {
    if !apart("a_plain_bridge_sends_it_as_it_is") {
        return;
    }
    sh(INTERFACES);
    sh("ip link add br0 type bridge
        for device in vif9.0 uplink; do ip link set $device master br0; done
        ip link set br0 up");
    let mut arrived = arriving(0);
    announced();
    assert!(arrived.wait().unwrap().success(), "all of them arrived in its VLAN");
}

/// In its userspace datapath, which needs no kernel module.
#[test]
fn an_open_vswitch_learns_and_sends_it_in_the_ports_vlan() {
    if !apart("an_open_vswitch_learns_and_sends_it_in_the_ports_vlan") {
        return;
    }
    sh(INTERFACES);
    sh("mkdir -p /var/run/openvswitch
        mount -t tmpfs none /var/run/openvswitch
        cd /var/run/openvswitch
        ovsdb-tool create conf.db /usr/share/openvswitch/vswitch.ovsschema
        ovsdb-server conf.db --remote=punix:/var/run/openvswitch/db.sock --pidfile --detach \\
            --log-file=/dev/null
        ovs-vsctl --no-wait init
        ovs-vswitchd --pidfile --detach --log-file=/dev/null
        ovs-vsctl --timeout=10 add-br br0 -- set bridge br0 datapath_type=netdev
        ovs-vsctl --timeout=10 add-port br0 vif9.0 tag=100 -- add-port br0 uplink");
    let mut arrived = arriving(100);
    announced();
    assert!(arrived.wait().unwrap().success(), "all of them arrived in its VLAN");
    sh("ovs-appctl fdb/show br0 | grep -q '100  00:16:3e:77:00:13'");
}
