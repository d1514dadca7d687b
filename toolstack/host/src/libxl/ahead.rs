//! A restore that libxl believes finished while its memory still comes: see
//! [`rxl_precopy::load_memory`].

use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use migrate_stream::{libxl, writer};

use crate::save_helper::socket::{RestoreHelper, SaveHelperListener};
use rxl_core::domain::SpecialPages;
use rxl_core::domain_config::{Disk, DomainConfig};
use rxl_core::io::Guarded;
use rxl_datapath::broken::Broken;
use rxl_datapath::sink::StreamSink;
use rxl_precopy::Cause;
use rxl_precopy::load_memory::MemoryRestore;
use rxl_xen::{BuiltGuest, Library};

/// What libxl reads before it starts its helper: its stream's header and LIBXC_CONTEXT's.
const HEAD: usize = libxl::HEADER_LEN + libxl::RECORD_HEADER_LEN;

/// Whether a domain's devices may be attached while it still runs at the source.
///
/// - A disk that is written to must be a block device: blkback reads and writes past this host's
///   page cache. An image in a file would be read through it (by udev, looking for partitions in
///   the loop device), and what was read would be stale by the time that the guest runs here.
/// - Hotplug scripts must be Xen's own for plain disks and bridges. Others may take a volume away
///   from the source (block-drbd), or draw the guest's traffic here (vif-route).
/// - Of other devices nothing is known.
pub(super) fn check(config: &DomainConfig) -> Result<(), NotAhead> {
    if config.guest_type() != Some("pvh") {
        return Err(NotAhead::NotPvh);
    }
    if let Some(other) = config.other_devices().next() {
        return Err(NotAhead::OtherDevices(other.into()));
    }
    config.disks().iter().try_for_each(check_disk)?;
    config.nics().iter().try_for_each(|nic| check_script(nic.script.as_deref(), "vif-bridge"))
}

/// Why a domain's devices are attached only when its memory has come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAhead {
    #[error("it is no PVH domain")]
    NotPvh,
    #[error("it has {0}")]
    OtherDevices(String),
    #[error("a device has the hotplug script {0}")]
    Script(String),
    #[error("its disk {vdev} ({path}) is no block device")]
    NoBlockDevice { vdev: String, path: String },
}

fn check_disk(disk: &Disk) -> Result<(), NotAhead> {
    check_script(disk.script.as_deref(), "block")?;
    let path = disk.pdev_path.as_deref().unwrap_or_default();
    if !disk.is_writable() || is_for_blkback(disk) && is_block_device(Path::new(path)) {
        return Ok(());
    }
    let vdev = disk.vdev.clone().unwrap_or_default();
    Err(NotAhead::NoBlockDevice { vdev, path: path.into() })
}

/// A disk that was attached later is as the user wrote it, often without a backend; libxl then
/// tries blkback first, which takes raw block devices (libxl_disk.c: device_disk_add;
/// libxl_device.c: disk_try_backend).
fn is_for_blkback(disk: &Disk) -> bool {
    fn chosen(value: &Option<String>) -> Option<&str> {
        value.as_deref().filter(|value| !["", "unknown"].contains(value))
    }
    match chosen(&disk.backend) {
        Some(backend) => backend == "phy",
        None => chosen(&disk.format).is_none_or(|format| format == "raw"),
    }
}

fn check_script(script: Option<&str>, usual: &str) -> Result<(), NotAhead> {
    let script = script.unwrap_or_default();
    let name = Path::new(script).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if script.is_empty() || name == usual { Ok(()) } else { Err(NotAhead::Script(script.into())) }
}

fn is_block_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// Takes the stream of a domain whose memory rxl fills, and tells libxl when it may go on.
pub(super) struct Ahead<F> {
    library: Library,
    listener: SaveHelperListener,
    special: SpecialPages,
    to_libxl: Option<Guarded>,
    /// Whether libxl's operation has ended, or is to end.
    ended: F,
    head: Vec<u8>,
    restorer: Option<MemoryRestore<BuiltGuest>>,
}

impl<F: Fn() -> bool + Send> Ahead<F> {
    pub(super) fn new(
        library: Library,
        listener: SaveHelperListener,
        special: SpecialPages,
        to_libxl: Guarded,
        ended: F,
    ) -> Self {
        Self {
            library,
            listener,
            special,
            to_libxl: Some(to_libxl),
            ended,
            head: Vec::new(),
            restorer: None,
        }
    }

    /// Gives libxl the head of the stream, from which it makes the domain, and waits for the
    /// helper, which tells the domain's number.
    fn begin(&mut self) -> Result<MemoryRestore<BuiltGuest>, Broken> {
        let gone = || Broken::libxl("libxl has given the restore up");
        let mut to_libxl = self.to_libxl.take().ok_or_else(gone)?;
        write(&mut to_libxl, self.head.get(..HEAD).unwrap_or(&self.head))?;
        let helper = self.listener.restoring(&self.ended);
        let helper = helper.map_err(Broken::libxl)?.ok_or_else(gone)?;
        let guest = BuiltGuest::open(self.library, helper.domid, helper.rings);
        let guest = guest.map_err(Broken::here)?;
        Ok(MemoryRestore::new(guest, self.special, go_on(helper, to_libxl, self.special)))
    }
}

/// Tells libxl that the memory is there, and that its stream has ended.
fn go_on(
    mut helper: RestoreHelper,
    mut to_libxl: Guarded,
    special: SpecialPages,
) -> impl FnMut(u32) -> Result<(), Cause> + Send {
    move |missing| {
        helper.restored(missing, special)?;
        let mut end = Vec::new();
        writer::libxl_end(&mut end);
        Ok(write(&mut to_libxl, &end)?)
    }
}

fn write(to_libxl: &mut Guarded, bytes: &[u8]) -> Result<(), Broken> {
    to_libxl.write_all(bytes).map_err(|error| Broken::LibxlWrite(Arc::new(error)))
}

impl<F: Fn() -> bool + Send> StreamSink for Ahead<F> {
    fn put(&mut self, raw: &[u8]) -> Result<(), Broken> {
        if self.restorer.is_none() {
            self.head.extend_from_slice(raw);
            if self.head.len() < HEAD {
                return Ok(());
            }
            let begun = self.begin()?;
            let head = std::mem::take(&mut self.head);
            return self.restorer.insert(begun).take(&head).map_err(Broken::libxl);
        }
        self.restorer.as_mut().map_or(Ok(()), |restorer| restorer.take(raw)).map_err(Broken::libxl)
    }

    fn finish(&mut self) -> Result<(), Broken> {
        let restorer = self.restorer.as_mut();
        let restorer =
            restorer.ok_or_else(|| Broken::libxl("the stream ended at its beginning"))?;
        restorer.finish().map_err(Broken::libxl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn checked(disks: Value, more: (&str, Value)) -> Result<(), String> {
        let mut config = json!({
            "c_info": {"type": "pvh"}, "b_info": {}, "disks": disks, "nics": [{"mac": "x"}],
        });
        config[more.0] = more.1;
        check(&DomainConfig::parse(&config.to_string()).unwrap()).map_err(|why| why.to_string())
    }

    fn disk(json: Value) -> Disk {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn devices_may_come_early_that_cannot_see_stale_data() {
        let none = || ("x", json!([]));
        assert_eq!(checked(json!([]), none()), Ok(()));
        let disks = |readwrite, backend: &str, path: &str| {
            json!([{
                "pdev_path": path, "vdev": "xvda", "backend": backend, "readwrite": readwrite,
            }])
        };
        assert_eq!(checked(disks(0, "qdisk", "/images/root.img"), none()), Ok(()));
        let refused = checked(disks(1, "phy", "/dev/null"), none()).unwrap_err();
        assert_eq!(refused, "its disk xvda (/dev/null) is no block device");
        assert!(checked(disks(1, "qdisk", "/images/root.img"), none()).is_err());
        assert!(
            is_for_blkback(&disk(json!({"backend": "unknown", "format": "raw"})))
                && is_for_blkback(&disk(json!({})))
        );
        assert!(
            !is_for_blkback(&disk(json!({"format": "qcow2"})))
                && !is_for_blkback(&disk(json!({"backend": "qdisk"})))
        );
        assert_eq!(checked(json!([]), ("p9s", json!([{"tag": "x"}]))).unwrap_err(), "it has p9s");
        let nics = |script: &str| ("nics", json!([{"mac": "x"}, {"mac": "y", "script": script}]));
        assert_eq!(checked(json!([]), nics("/etc/xen/scripts/vif-bridge")), Ok(()));
        let refused = checked(json!([]), nics("/etc/xen/scripts/vif-route")).unwrap_err();
        assert_eq!(refused, "a device has the hotplug script /etc/xen/scripts/vif-route");
        let drbd = json!([{"pdev_path": "/dev/drbd0", "vdev": "xvda", "script": "block-drbd"}]);
        assert!(checked(drbd, none()).is_err());
    }

    #[test]
    fn other_guests_are_restored_as_ever() {
        for guest_type in ["pv", "hvm"] {
            let json = json!({"c_info": {"type": guest_type}}).to_string();
            assert_eq!(check(&DomainConfig::parse(&json).unwrap()), Err(NotAhead::NotPvh));
        }
        assert_eq!(check(&DomainConfig::parse("{}").unwrap()), Err(NotAhead::NotPvh));
    }
}
