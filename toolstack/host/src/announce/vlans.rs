//! Bridges of Linux's that filter VLANs.

use std::path::Path;

use serde::Deserialize;

use super::{AnnounceError, forwards, run};

/// A port and its VLANs, as `bridge -j vlan show` writes them.
#[derive(Debug, Deserialize)]
struct Listed {
    ifname: String,
    #[serde(default)]
    vlans: Vec<Vlan>,
}

#[derive(Debug, Deserialize)]
struct Vlan {
    vlan: u16,
    /// The last of a range.
    #[serde(rename = "vlanEnd")]
    end: Option<u16>,
    #[serde(default)]
    flags: Vec<String>,
}

impl Vlan {
    fn has(&self, vlan: u16) -> bool {
        (self.vlan..=self.end.unwrap_or(self.vlan)).contains(&vlan)
    }

    fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|set| set == flag)
    }
}

/// A port by which the guest's VLAN leaves.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub device: String,
    /// The VLAN whose tag frames have there; none where they leave without.
    tag: Option<u16>,
}

impl Port {
    /// A frame as it leaves there.
    pub fn tagged(&self, frame: &[u8]) -> Vec<u8> {
        let Some((addresses, rest)) = self.tag.and_then(|_| frame.split_at_checked(12)) else {
            return frame.to_vec();
        };
        let tag = self.tag.unwrap_or_default().to_be_bytes();
        [addresses, &[0x81, 0], &tag, rest].concat()
    }
}

pub(super) fn are_filtered(bridge: &str) -> bool {
    let filters = Path::new("/sys/class/net").join(bridge).join("bridge/vlan_filtering");
    std::fs::read_to_string(filters).is_ok_and(|filters| filters.trim() == "1")
}

/// The bridge's other ports that forward the VLAN of what the guest sends.
pub(super) fn ports(bridge: &str, device: &str) -> Result<Vec<Port>, AnnounceError> {
    let printed = run("bridge", &["-j", "vlan", "show"])?;
    let listed: Vec<Listed> = serde_json::from_slice(&printed).map_err(AnnounceError::NoVlans)?;
    let of_bridge = Path::new("/sys/class/net").join(bridge).join("brif");
    let is_port = |port: &Port| of_bridge.join(&port.device).exists() && forwards(&port.device);
    Ok(others(&listed, device).into_iter().filter(is_port).collect())
}

fn others(listed: &[Listed], device: &str) -> Vec<Port> {
    let own = listed.iter().find(|port| port.ifname == device);
    let Some(pvid) = own.and_then(|own| own.vlans.iter().find(|vlan| vlan.is("PVID"))) else {
        return Vec::new();
    };
    let port = |port: &Listed| {
        let vlan = port.vlans.iter().find(|vlan| vlan.has(pvid.vlan))?;
        let tag = (!vlan.is("Egress Untagged")).then_some(pvid.vlan);
        Some(Port { device: port.ifname.clone(), tag })
    };
    listed.iter().filter(|port| port.ifname != device).filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `bridge` of iproute2 6.1 writes it.
    const LISTED: &str = r#"[{"ifname":"vif9.0","vlans":[{"vlan":100,
        "flags":["PVID","Egress Untagged"]}]},
        {"ifname":"up","vlans":[{"vlan":1,"flags":["PVID","Egress Untagged"]},
        {"vlan":90,"vlanEnd":110}]},
        {"ifname":"vif8.0","vlans":[{"vlan":100,"flags":["PVID","Egress Untagged"]}]},
        {"ifname":"br0","vlans":[{"vlan":1,"flags":["PVID","Egress Untagged"]}]}]"#;

    #[test]
    fn it_leaves_by_the_ports_of_its_vlan() {
        let listed: Vec<Listed> = serde_json::from_str(LISTED).unwrap();
        let (tagged, plain) = (Some(100), None);
        let expected = [("up", tagged), ("vif8.0", plain)];
        let expected = expected.map(|(device, tag)| Port { device: device.into(), tag });
        assert_eq!(others(&listed, "vif9.0"), expected);
        assert_eq!(expected[0].tagged(&[7; 14])[10..], [7, 7, 0x81, 0, 0, 100, 7, 7]);
        assert_eq!(expected[1].tagged(&[7; 14]), [7; 14]);
        assert_eq!(others(&listed, "vif7.0"), []);
    }
}
