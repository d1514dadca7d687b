//! A disk that is full: the domain runs on, and no part of a file is left.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::commands::Setting;
use crate::files::{PACKING, names};
use rxl_core::error::Exit;
use rxl_core::level::Level;
use rxl_core::save_format::Format;
use rxl_session::savefile::save::{After, SaveRequest};

/// A file system of 1 MiB, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None: only root may mount one.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(at)
            .status()
            .unwrap();
        mounted.success().then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_leaves_the_domain_running_and_no_file() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not root: a limit on files is tested in file_size_limit.rs, a full disk is not");
        return;
    }
    for format in [Format::Rxl, Format::Plain] {
        let setting = Setting::new();
        let disk =
            SmallDisk::mount(&setting.directory.path().join("state")).expect("root may mount");
        let path = disk.0.join("dom3.save");
        std::fs::write(&path, b"of yesterday").unwrap();
        let request = SaveRequest {
            quiesce: Level::Off,
            domain: "dom3".into(),
            path,
            format,
            after: After::Destroy,
            packing: PACKING,
        };
        let failure = setting.save_as(&request).unwrap_err();
        assert_eq!(failure.exit, Exit::FailedSourceRuns, "{failure}");
        assert!(failure.to_string().contains("No space left on device"), "{failure}");
        assert!(failure.to_string().contains("dom3 runs on here"), "{failure}");
        let left: Vec<String> = names(&disk.0)
            .into_iter()
            .filter(|name| name.ends_with(".save") || name.ends_with(".part"))
            .collect();
        assert_eq!(left, ["dom3.save"]);
        assert_eq!(std::fs::read(&request.path).unwrap(), b"of yesterday");
        setting.assert_untouched(None);
    }
}
