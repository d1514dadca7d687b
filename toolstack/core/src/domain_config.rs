//! A domain's configuration in libxl's JSON: the one place that knows its keys.
//!
//! The text comes from libxl, or from another host or a file and is hostile then. It is bounded and
//! parsed once; what rxl does not name travels on unchanged. The keys are those of
//! `libxl_domain_config` in Xen's tools/libs/light/libxl_types.idl. libxl leaves out, or writes as
//! null, what has its default.

mod texts;

use std::fmt;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::{DomId, RestoreAs};
use crate::shutdown::Actions;
use crate::text::one_line;

pub use texts::Text;

/// Most bytes of a configuration. xl's own for a guest with a dozen devices has less than 10 KiB.
pub const MAX_BYTES: usize = 1 << 20;

/// Longest text in a [`DomainSummary`], in characters.
const MOST_TEXT: usize = 256;

/// `LIBXL_MEMKB_DEFAULT`: the configuration leaves the amount to libxl.
const MEMORY_DEFAULT: u64 = u64::MAX;

/// What is wrong with a configuration. Displays as what follows "the configuration".
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// More bytes than [`MAX_BYTES`].
    #[error("has {0} bytes, at most {MAX_BYTES}")]
    TooLong(usize),
    /// No JSON, JSON that is nested too deeply, or a field with another type than libxl gives it.
    #[error("is not libxl's JSON: {}", one_line(&.0.to_string()))]
    NotLibxls(#[source] serde_json::Error),
    /// The part that holds name and number is missing.
    #[error("has no c_info")]
    NoCreateInfo,
}

/// A domain's configuration, parsed.
#[derive(Clone, Debug)]
pub struct DomainConfig {
    /// All of it.
    json: Map<String, Value>,
    /// The parts that rxl reads.
    parts: Parts,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Parts {
    c_info: CreateInfo,
    b_info: BuildInfo,
    disks: Vec<Disk>,
    nics: Vec<Nic>,
    pcidevs: Vec<PciDevice>,
    #[serde(flatten)]
    actions: Actions,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct CreateInfo {
    name: Option<String>,
    #[serde(rename = "type")]
    guest_type: Option<String>,
    uuid: Option<String>,
    domid: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct BuildInfo {
    max_memkb: Option<u64>,
    target_memkb: Option<u64>,
    max_vcpus: Option<u64>,
    vnuma_nodes: Vec<IgnoredAny>,
}

/// A disk (`libxl_device_disk`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// The guest's name for it, such as `xvda`.
    pub vdev: Option<String>,
    /// The file or block device in dom0.
    pub pdev_path: Option<String>,
    /// `phy`, `qdisk`, `tap`, or `unknown` where libxl is to choose.
    pub backend: Option<String>,
    /// `raw`, `qcow2` and so on, or `unknown`.
    pub format: Option<String>,
    /// Its hotplug script, where it is not the usual one.
    pub script: Option<String>,
    readwrite: Option<i64>,
    removable: Option<i64>,
}

impl Disk {
    /// Whether the guest may write to it. Without the key it may not.
    pub fn is_writable(&self) -> bool {
        self.readwrite.unwrap_or(0) != 0
    }

    /// Whether the guest may eject its medium.
    pub fn is_removable(&self) -> bool {
        self.removable.unwrap_or(0) != 0
    }
}

/// A network interface (`libxl_device_nic`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Nic {
    /// Its hotplug script, where it is not the usual one.
    pub script: Option<String>,
}

/// A PCI device that is passed through (`libxl_device_pci`). Displays as `xl pci-detach` takes it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PciDevice {
    domain: u32,
    bus: u8,
    dev: u8,
    func: u8,
}

impl fmt::Display for PciDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.dev, self.func)
    }
}

/// The few fields that tell which domain it is, made fit for a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DomainSummary {
    /// The domain's name.
    pub name: Option<String>,
    /// `pv`, `pvh` or `hvm`.
    #[serde(rename = "type")]
    pub guest_type: Option<String>,
    /// In the usual form of 36 characters.
    pub uuid: Option<String>,
    /// Memory that the domain may have, in KiB.
    pub max_memory_kib: Option<u64>,
    /// Online and offline vCPUs.
    pub max_vcpus: Option<u64>,
}

impl DomainConfig {
    /// Parses libxl's JSON.
    pub fn parse(json: &str) -> Result<Self, ConfigError> {
        if json.len() > MAX_BYTES {
            return Err(ConfigError::TooLong(json.len()));
        }
        // serde_json refuses JSON that is nested deeper than 128 levels.
        let json: Map<String, Value> =
            serde_json::from_str(json).map_err(ConfigError::NotLibxls)?;
        let parts = Parts::deserialize(&json).map_err(ConfigError::NotLibxls)?;
        Ok(Self { json, parts })
    }

    /// The domain's name; none where it is missing or empty.
    pub fn name(&self) -> Option<&str> {
        self.parts.c_info.name.as_deref().filter(|name| !name.is_empty())
    }

    /// The domain's UUID, as libxl writes it.
    pub fn uuid(&self) -> Option<&str> {
        self.parts.c_info.uuid.as_deref()
    }

    /// `pv`, `pvh` or `hvm`.
    pub fn guest_type(&self) -> Option<&str> {
        self.parts.c_info.guest_type.as_deref()
    }

    /// The number that the domain is to have; none where any will do, for which libxl has 0.
    pub fn domid(&self) -> Option<DomId> {
        self.parts.c_info.domid.filter(|domid| *domid != 0).map(DomId)
    }

    /// Memory that the domain may have, in KiB; none where libxl is to choose.
    pub fn max_memory_kib(&self) -> Option<u64> {
        self.parts.b_info.max_memkb.filter(|kib| *kib != MEMORY_DEFAULT)
    }

    /// Memory that the guest's balloon leaves it, in KiB; none where libxl is to choose.
    pub fn target_memory_kib(&self) -> Option<u64> {
        self.parts.b_info.target_memkb.filter(|kib| *kib != MEMORY_DEFAULT)
    }

    /// Whether the guest sees several NUMA nodes.
    pub fn has_vnuma(&self) -> bool {
        !self.parts.b_info.vnuma_nodes.is_empty()
    }

    pub fn disks(&self) -> &[Disk] {
        &self.parts.disks
    }

    /// Its network interfaces.
    pub fn nics(&self) -> &[Nic] {
        &self.parts.nics
    }

    /// The PCI devices that are passed through to it.
    pub fn pci_devices(&self) -> &[PciDevice] {
        &self.parts.pcidevs
    }

    /// The keys of lists of devices that are neither disks nor network interfaces, where the
    /// domain has any.
    pub fn other_devices(&self) -> impl Iterator<Item = &str> {
        let lists = self
            .json
            .iter()
            .filter(|(_, value)| value.as_array().is_some_and(|devices| !devices.is_empty()));
        lists.map(|(key, _)| key.as_str()).filter(|key| !["disks", "nics"].contains(key))
    }

    /// Shows each of its texts, until one is refused.
    pub fn each_text<E>(&self, look: &mut impl FnMut(&Text<'_>) -> Result<(), E>) -> Result<(), E> {
        texts::each(&self.json, look)
    }

    /// What is to be done when its guest ends.
    pub fn actions(&self) -> Actions {
        self.parts.actions
    }

    /// What a report tells of it.
    pub fn summary(&self) -> DomainSummary {
        let text = |text: &Option<String>| {
            text.as_ref().map(|text| one_line(text).chars().take(MOST_TEXT).collect())
        };
        let CreateInfo { name, guest_type, uuid, .. } = &self.parts.c_info;
        DomainSummary {
            name: text(name),
            guest_type: text(guest_type),
            uuid: text(uuid),
            max_memory_kib: self.max_memory_kib(),
            max_vcpus: self.parts.b_info.max_vcpus,
        }
    }

    /// Names the domain, and has it keep a number or be given one by Xen, where it is restored.
    pub fn restore_as(&mut self, restore_as: &RestoreAs) -> Result<(), ConfigError> {
        let create_info = self.create_info().ok_or(ConfigError::NoCreateInfo)?;
        create_info.insert("name".into(), restore_as.name.as_str().into());
        match restore_as.domid {
            Some(DomId(domid)) => create_info.insert("domid".into(), domid.into()),
            // Without the key libxl's default of 0 stands, which lets Xen choose (libxl_create.c:
            // libxl__domain_make).
            None => create_info.remove("domid"),
        };
        self.parts.c_info.name = Some(restore_as.name.clone());
        self.parts.c_info.domid = restore_as.domid.map(|DomId(domid)| domid);
        Ok(())
    }

    /// Leaves the domain's number to Xen where it is restored.
    pub fn forget_domid(&mut self) {
        if let Some(create_info) = self.create_info() {
            create_info.remove("domid");
        }
        self.parts.c_info.domid = None;
    }

    fn create_info(&mut self) -> Option<&mut Map<String, Value>> {
        self.json.get_mut("c_info")?.as_object_mut()
    }
}

/// As libxl reads it.
impl fmt::Display for DomainConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Writing a map with string keys fails only where the output does.
        let json = serde_json::to_string(&self.json).map_err(|_| fmt::Error)?;
        f.write_str(&json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(json: &str) -> DomainConfig {
        DomainConfig::parse(json).unwrap()
    }

    fn restored(json: &str, domid: Option<u32>) -> Value {
        let mut config = parsed(json);
        let restore_as = RestoreAs { name: "small--incoming".into(), domid: domid.map(DomId) };
        config.restore_as(&restore_as).unwrap();
        assert_eq!((config.name(), config.domid()), (Some("small--incoming"), restore_as.domid));
        serde_json::from_str(&config.to_string()).unwrap()
    }

    #[test]
    fn a_summary_tells_only_what_is_there() {
        let config = parsed(
            r#"{"c_info":{"type":"pvh","name":"a\u001bb","other":[1]},
                "b_info":{"max_memkb":18446744073709551615},"disks":[{}]}"#,
        );
        let wanted = DomainSummary {
            name: Some("a b".into()),
            guest_type: Some("pvh".into()),
            ..DomainSummary::default()
        };
        assert_eq!(config.summary(), wanted);
    }

    #[test]
    fn what_libxl_leaves_open_is_none() {
        let open = parsed(r#"{"c_info":{"name":"","domid":0,"uuid":null},"b_info":{}}"#);
        assert_eq!((open.name(), open.domid(), open.max_memory_kib()), (None, None, None));
        let set = parsed(r#"{"c_info":{"name":"a","domid":7},"b_info":{"max_memkb":4096}}"#);
        assert_eq!((set.name(), set.domid()), (Some("a"), Some(DomId(7))));
        assert_eq!(set.max_memory_kib(), Some(4096));
    }

    #[test]
    fn devices_are_found() {
        let config = parsed(
            r#"{"disks":[{"vdev":"xvda","readwrite":1},{"backend":"phy"}],"nics":[{"script":"x"}],
                "pcidevs":[{"dev":2,"bus":3,"func":1,"domain":0}],"p9s":[],"vtpms":[{}],
                "b_info":{"vnuma_nodes":[{"memkb":1024}]}}"#,
        );
        let writable: Vec<_> = config.disks().iter().map(Disk::is_writable).collect();
        assert_eq!(writable, [true, false]);
        assert_eq!(config.nics().len(), 1);
        assert_eq!(config.pci_devices().first().unwrap().to_string(), "0000:03:02.1");
        assert_eq!(config.other_devices().collect::<Vec<_>>(), ["pcidevs", "vtpms"]);
        assert!(config.has_vnuma() && !parsed("{}").has_vnuma());
    }

    #[test]
    fn a_restore_changes_the_name_and_nothing_else() {
        let sent = r#"{"c_info":{"type":"pvh","name":"small","domid":7,"uuid":"1-2"},
            "b_info":{"max_memkb":18446744073709551615},"x":[{"y":null}]}"#;
        let received = restored(sent, None);
        let wanted = json!({
            "c_info": {"type": "pvh", "name": "small--incoming", "uuid": "1-2"},
            "b_info": {"max_memkb": u64::MAX},
            "x": [{"y": null}],
        });
        assert_eq!(received, wanted);
        assert_eq!(restored(r#"{"c_info":{}}"#, Some(9))["c_info"]["domid"], json!(9));
    }

    #[test]
    fn a_number_is_forgotten() {
        let mut config = parsed(r#"{"b_info":{},"c_info":{"domid":7,"name":"a"}}"#);
        config.forget_domid();
        assert_eq!(config.domid(), None);
        assert_eq!(config.to_string(), r#"{"b_info":{},"c_info":{"name":"a"}}"#);
        let mut none = parsed("{}");
        none.forget_domid();
        assert_eq!(none.to_string(), "{}");
    }

    #[test]
    fn what_is_not_a_configuration_is_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for bad in ["", "[]", r#"{"c_info":3}"#, "{\"c_info\":{}}\0", &deep] {
            let told = DomainConfig::parse(bad).unwrap_err().to_string();
            assert!(told.starts_with("is not libxl's JSON"), "{told}");
        }
        for bad in [r#"{"c_info":{"name":3}}"#, r#"{"b_info":{"max_memkb":"x"}}"#] {
            assert!(DomainConfig::parse(bad).is_err(), "{bad}");
        }
        let long = format!(r#"{{"c_info":{{}},"x":"{}"}}"#, "y".repeat(MAX_BYTES));
        assert!(DomainConfig::parse(&long).unwrap_err().to_string().contains("at most"));
        let anyone = RestoreAs { name: "x".into(), domid: None };
        let nameless = parsed("{}").restore_as(&anyone).unwrap_err();
        assert_eq!(nameless.to_string(), "has no c_info");
    }
}
