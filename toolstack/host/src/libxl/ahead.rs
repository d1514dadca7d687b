//! A restore that libxl believes finished while its memory still comes: see
//! [`rxl_precopy::load_memory`].

use std::io;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use migrate_stream::writer;

use crate::save_helper::socket::{RestoreHelper, SaveHelperListener};
use rxl_core::domain::SpecialPages;
use rxl_core::domain_config::{Disk, DomainConfig};
use rxl_core::io::{Cancel, Guarded};
use rxl_core::notes::{Note, NoteKind, Notes};
use rxl_datapath::broken::Broken;
use rxl_datapath::sink::StreamSink;
use rxl_precopy::Cause;
use rxl_precopy::load_memory::MemoryRestore;
use rxl_xen::{BuiltGuest, Canceller, ClaimError, Library, Room};

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

/// A restore that libxl makes, as the threads beside it know it.
#[derive(Default)]
pub(super) struct Restoring {
    /// rxl fills the domain's memory, and goes on when libxl has ended.
    pub(super) ahead: bool,
    /// It has ended.
    pub(super) ended: AtomicBool,
    pub(super) canceller: Canceller,
    pub(super) room: Room,
    /// Why rxl has aborted it.
    refusal: Mutex<Option<ClaimError>>,
}

impl Restoring {
    pub(super) fn ahead() -> Self {
        Self { ahead: true, ..Self::default() }
    }

    pub(super) fn take_refusal(&self) -> Option<ClaimError> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn refuse(&self, why: ClaimError) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.canceller.pull();
    }
}

/// Has libxl make the domain, from a stream's head that is always the same, and claims its memory.
pub(super) struct Begin {
    pub(super) library: Library,
    pub(super) listener: SaveHelperListener,
    pub(super) special: SpecialPages,
    pub(super) to_libxl: Guarded,
    pub(super) restoring: Arc<Restoring>,
    pub(super) cancel: Cancel,
    pub(super) notes: Notes,
}

impl Begin {
    /// Gives libxl the head of the stream, waits for its helper, which tells the domain's number,
    /// and claims. Whoever made room under xl's lock need not keep it then.
    fn run(self) -> Result<MemoryRestore<BuiltGuest>, Broken> {
        let Self { library, listener, special, mut to_libxl, restoring, cancel, notes } = self;
        let gone = || Broken::libxl("libxl has given the restore up");
        write(&mut to_libxl, &head())?;
        let ended = || restoring.ended.load(Ordering::SeqCst) || cancel.pulled();
        let helper = listener.restoring(&ended).map_err(Broken::libxl)?.ok_or_else(gone)?;
        let guest = BuiltGuest::open(library, helper.domid, helper.rings);
        let guest = guest.map_err(Broken::here)?;
        if let Err(why) = guest.claim() {
            let broken = Broken::libxl(why.to_string());
            restoring.refuse(why);
            return Err(broken);
        }
        restoring.room.release();
        // The session may be gone.
        let _ = notes.send(Note { at: Instant::now(), what: NoteKind::MemoryClaimed });
        Ok(MemoryRestore::new(guest, special, go_on(helper, to_libxl, special)))
    }
}

/// What libxl reads before it starts its helper: its stream's header and LIBXC_CONTEXT's.
fn head() -> Vec<u8> {
    let mut head = Vec::new();
    writer::libxl_header(&mut head);
    writer::libxc_context(&mut head);
    head
}

/// Takes the stream of a domain whose memory rxl fills, and tells libxl when it may go on.
pub(super) struct Ahead {
    /// Yields the restorer once.
    begun: mpsc::Receiver<Result<MemoryRestore<BuiltGuest>, Broken>>,
    restorer: Option<MemoryRestore<BuiltGuest>>,
}

impl Ahead {
    /// Begins on a thread of its own, which ends with the restore.
    pub(super) fn start(begin: Begin) -> io::Result<Self> {
        let (tell, begun) = mpsc::channel();
        std::thread::Builder::new().name("claim".into()).spawn(move || {
            // The data path may be gone.
            let _ = tell.send(begin.run());
        })?;
        Ok(Self { begun, restorer: None })
    }

    fn restorer(&mut self) -> Result<&mut MemoryRestore<BuiltGuest>, Broken> {
        let begun = match self.restorer.take() {
            Some(restorer) => restorer,
            None => self.begun.recv().map_err(Broken::libxl)??,
        };
        Ok(self.restorer.insert(begun))
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

impl StreamSink for Ahead {
    fn put(&mut self, raw: &[u8]) -> Result<(), Broken> {
        self.restorer()?.take(raw).map_err(Broken::libxl)
    }

    fn finish(&mut self) -> Result<(), Broken> {
        let Some(restorer) = &mut self.restorer else {
            return Err(Broken::libxl("the stream ended at its beginning"));
        };
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
