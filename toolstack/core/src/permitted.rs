//! What a domain's configuration may name on the host that it comes to.
//!
//! libxl runs a configuration's scripts, device model and bootloader as root, and passes other
//! texts on in QEMU's options, where a comma begins the next option. Whoever sends a domain could
//! so run any program here. Each text of the configuration that libxl takes as a path, or as a part
//! of an option, is therefore held against a list, which this host's administrator may widen. What
//! this module does not know may hold neither a slash nor a comma, so that a field of a later libxl
//! is refused, not passed through.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::domain_config::{DomainConfig, Text};
use crate::text::one_line;

/// Where the host's list is.
pub const PERMITTED_FILE: &str = "/etc/rxl/receive.toml";

/// libxl's directory of hotplug scripts (`XEN_SCRIPT_DIR`).
const SCRIPTS: &str = "/etc/xen/scripts";

/// Where Xen's own programs are: a directory or file there whose name begins with `xen`. Debian
/// has `/usr/lib/xen-4.17` and `/usr/libexec/xen-qemu-system-i386`.
const PROGRAMS_BELOW: [&str; 4] =
    ["/usr/lib", "/usr/libexec", "/usr/local/lib", "/usr/local/libexec"];

/// QEMU as distributions install it.
const QEMU: &str = "/usr/bin/qemu-system-";

/// Where libxl looks for a bootloader that is named without a directory, beside Xen's.
const PLAIN_BOOTLOADERS: [&str; 2] = ["pygrub", "pvgrub"];

/// `S_IWOTH`: everybody may write.
const WORLD_WRITABLE: u32 = 0o002;

/// What this host permits beside what every host does. The lists hold directories.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Permitted {
    /// Hotplug scripts, beside those in `/etc/xen/scripts`.
    pub scripts: Vec<PathBuf>,
    /// Device models and bootloaders, beside Xen's and the distribution's.
    pub programs: Vec<PathBuf>,
    /// Where disks, kernels and other files have to be; anywhere where it is empty.
    pub files: Vec<PathBuf>,
    /// Arguments of device models and bootloaders, and where serial ports lead.
    pub arguments: bool,
}

/// A configuration names what it may not. Displays as one line that begins with the field.
#[derive(Debug, thiserror::Error)]
#[error("{field} is '{}', {why}", one_line(value))]
pub struct NotPermitted {
    /// Where in the configuration.
    pub field: String,
    /// What it says there.
    pub value: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

/// What libxl does with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Runs it as a hotplug script.
    Script,
    /// Runs it as the domain's device model.
    Program,
    /// Runs it, and looks for it among its own where it has no directory.
    Bootloader,
    /// Opens it, or has QEMU open it.
    File,
    /// Opens it, or hands it to the disk's own script.
    Disk,
    /// Adds it to the arguments of a program.
    Argument,
    /// Connects a serial port to it.
    Serial,
    /// Gives it to the guest, or keeps it to itself.
    Free,
    /// Writes it into xenstore: addresses with their masks.
    Addresses,
    /// Writes it into xenstore, or into an option of QEMU's.
    Word,
}

impl Use {
    /// The keys are those of libxl_types.idl.
    fn of(text: &Text<'_>) -> Self {
        match (text.section, text.key) {
            (_, "script" | "colo_proxy_script") => Self::Script,
            ("b_info", "device_model") => Self::Program,
            ("b_info", "bootloader") => Self::Bootloader,
            ("b_info", "extra" | "extra_pv" | "extra_hvm" | "bootloader_args") => Self::Argument,
            ("b_info", "serial" | "serial_list") => Self::Serial,
            ("b_info", "cmdline" | "stubdomain_cmdline" | "pvshim_cmdline" | "pvshim_extra")
            | ("b_info" | "vfbs", "passwd")
            | ("c_info", "name" | "xsdata" | "platformdata") => Self::Free,
            ("virtios", "type") => Self::Free,
            ("disks", "pdev_path") => Self::Disk,
            ("nics", "ip") => Self::Addresses,
            (
                "b_info",
                "kernel" | "ramdisk" | "stubdomain_kernel" | "stubdomain_ramdisk" | "device_tree"
                | "system_firmware" | "smbios_firmware" | "acpi_firmware" | "pvshim_path",
            )
            | (_, "xauthority" | "path") => Self::File,
            _ => Self::Word,
        }
    }
}

impl Permitted {
    /// Whether a domain of this configuration may come here.
    pub fn check(&self, config: &DomainConfig) -> Result<(), NotPermitted> {
        let scripted = |text: &Text<'_>| {
            let disk = text.index.and_then(|index| config.disks().get(index));
            disk.is_some_and(|disk| disk.script.as_ref().is_some_and(|script| !script.is_empty()))
        };
        config.each_text(&mut |text| {
            let rule = Use::of(text);
            let kept = match rule {
                _ if text.value.is_empty() => Ok(()),
                // A script of the disk's own knows what its target means (block-iscsi).
                Use::Disk if scripted(text) => plain(text.value),
                rule => self.keeps(rule, text.value),
            };
            kept.map_err(|why| NotPermitted { field: text.field(), value: text.value.into(), why })
        })
    }

    fn keeps(&self, rule: Use, value: &str) -> Result<(), &'static str> {
        match rule {
            Use::Free => Ok(()),
            Use::Word => word(value),
            Use::Addresses => addresses(value),
            Use::Argument if self.arguments => Ok(()),
            Use::Argument => Err("and arguments of programs are not taken from another host"),
            Use::Serial if self.arguments => Ok(()),
            Use::Serial => serial(value),
            Use::Script => self.script(value),
            Use::Program => self.program(value),
            Use::Bootloader if PLAIN_BOOTLOADERS.contains(&value) => Ok(()),
            Use::Bootloader => self.program(value),
            Use::File | Use::Disk => self.file(value),
        }
    }

    /// A name alone is one of Xen's own scripts (libxl__abs_path).
    fn script(&self, value: &str) -> Result<(), &'static str> {
        let path = if value.contains('/') { value.into() } else { Path::new(SCRIPTS).join(value) };
        path_is_plain(&path)?;
        let parents =
            [Path::new(SCRIPTS)].into_iter().chain(self.scripts.iter().map(PathBuf::as_path));
        if !parents.into_iter().any(|parent| path.parent() == Some(parent)) {
            return Err("which is not in /etc/xen/scripts");
        }
        roots_own(&path)
    }

    fn program(&self, value: &str) -> Result<(), &'static str> {
        let path = Path::new(value);
        path_is_plain(path)?;
        let xens = PROGRAMS_BELOW.iter().any(|below| {
            let rest = path.strip_prefix(below).ok().and_then(|rest| rest.to_str());
            rest.is_some_and(|rest| rest.starts_with("xen"))
        });
        if !xens && !value.starts_with(QEMU) && !is_below(path, &self.programs) {
            return Err("which is no program of Xen's or QEMU's where distributions put those");
        }
        roots_own(path)
    }

    fn file(&self, value: &str) -> Result<(), &'static str> {
        let path = Path::new(value);
        path_is_plain(path)?;
        if !self.files.is_empty() && !is_below(path, &self.files) {
            return Err("which is in none of the directories for files");
        }
        Ok(())
    }
}

fn is_below(path: &Path, directories: &[PathBuf]) -> bool {
    directories.iter().any(|directory| path.starts_with(directory))
}

/// An absolute path that leads nowhere else, and ends no option of QEMU's.
fn path_is_plain(path: &Path) -> Result<(), &'static str> {
    plain(&path.to_string_lossy())?;
    let mut components = path.components();
    if !path.is_absolute() || components.any(|part| part == Component::ParentDir) {
        return Err("which is no absolute path without '..'");
    }
    if path.to_string_lossy().contains(',') {
        return Err("and a comma begins another option of QEMU's");
    }
    Ok(())
}

fn plain(value: &str) -> Result<(), &'static str> {
    let control = value.chars().any(char::is_control);
    if control { Err("which holds control characters") } else { Ok(()) }
}

fn word(value: &str) -> Result<(), &'static str> {
    plain(value)?;
    match value.contains(['/', ',']) {
        true => Err("where neither a path nor a comma belongs"),
        false => Ok(()),
    }
}

fn addresses(value: &str) -> Result<(), &'static str> {
    let fits = |byte: u8| byte.is_ascii_hexdigit() || b".:/ ".contains(&byte);
    if value.bytes().all(fits) { Ok(()) } else { Err("which is no list of addresses") }
}

/// QEMU writes a serial port to any file, and starts programs for it.
fn serial(value: &str) -> Result<(), &'static str> {
    let nowhere = ["none", "null", "pty", "vc", "stdio", "mon:stdio"].contains(&value);
    let device = value.starts_with("/dev/tty") && word(value.trim_start_matches("/dev/")).is_ok();
    match nowhere || device {
        true => Ok(()),
        false => Err("and a serial port leads to pty, a terminal or nowhere"),
    }
}

/// A program that root alone could have put there.
fn roots_own(path: &Path) -> Result<(), &'static str> {
    let found = fs::metadata(path).map_err(|_| "which is not there")?;
    let own = found.uid() == 0 || found.uid() == nix::unistd::geteuid().as_raw();
    match found.is_file() && own && found.mode() & WORLD_WRITABLE == 0 {
        true => Ok(()),
        false => Err("which is no file that root alone may write"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn check(permitted: &Permitted, json: &str) -> Result<(), String> {
        let config = DomainConfig::parse(json).unwrap();
        permitted.check(&config).map_err(|error| error.to_string())
    }

    /// As libxl writes it for an HVM guest.
    #[test]
    fn what_domains_have_is_permitted() {
        let json = r#"{"c_info":{"type":"hvm","name":"a/b","uuid":"1-2",
            "run_hotplug_scripts":"True","xsdata":{"a":"b,c/d"}},
            "b_info":{"max_vcpus":2,"kernel":"/boot/vmlinuz","cmdline":"root=/dev/xvda1 a=b,c",
            "bootloader":"pygrub","device_model_version":"qemu_xen",
            "type.hvm":{"bios":"seabios","serial":"pty","boot":"cda","vnc":{"passwd":"a,/b",
            "listen":"127.0.0.1"},"usbdevice_list":["tablet"]}},
            "disks":[{"pdev_path":"/dev/vg0/dom3","vdev":"xvda","script":null},{"pdev_path":null}],
            "nics":[{"mac":"00:16:3e:00:00:01","bridge":"ovsbr0","ip":"10.0.0.1/24 fe80::1"}],
            "channels":[{"name":"org.qemu.guest_agent.0","connection":"pty"}]}"#;
        check(&Permitted::default(), json).unwrap();
    }

    #[test]
    fn what_would_run_or_open_something_else_is_named() {
        for (json, field) in [
            (r#"{"nics":[{},{"script":"/tmp/evil"}]}"#, "nics[1].script is '/tmp/evil'"),
            (r#"{"nics":[{"script":"../evil"}]}"#, "nics[0].script"),
            (r#"{"nics":[{"script":"no-such-script"}]}"#, "which is not there"),
            (r#"{"nics":[{"ifname":"v,script=/tmp/e"}]}"#, "nics[0].ifname"),
            (r#"{"nics":[{"model":"e1000,romfile=x"}]}"#, "nics[0].model"),
            (r#"{"nics":[{"ip":"10.0.0.1; reboot"}]}"#, "nics[0].ip"),
            (r#"{"disks":[{"pdev_path":"a/../../etc"}]}"#, "disks[0].pdev_path"),
            (r#"{"disks":[{"pdev_path":"/a,if=none"}]}"#, "comma"),
            (r#"{"disks":[{"pdev_path":"x","script":"/bin/sh"}]}"#, "disks[0].script"),
            (r#"{"b_info":{"device_model":"/bin/sh"}}"#, "b_info.device_model"),
            (r#"{"b_info":{"device_model":"/usr/lib/xen/../../bin/sh"}}"#, "'..'"),
            (r#"{"b_info":{"bootloader":"sh"}}"#, "b_info.bootloader"),
            (r#"{"b_info":{"bootloader_args":["--output=/x"]}}"#, "b_info.bootloader_args[0]"),
            (r#"{"b_info":{"extra_hvm":["-incoming"]}}"#, "b_info.extra_hvm[0]"),
            (r#"{"b_info":{"kernel":"vmlinuz"}}"#, "b_info.kernel"),
            (
                r#"{"b_info":{"type.hvm":{"serial_list":["pty","file:/etc/cron.d/x"]}}}"#,
                "b_info.type.hvm.serial_list[1]",
            ),
            (r#"{"b_info":{"type.hvm":{"serial":"/dev/tty,x"}}}"#, "serial"),
            (r#"{"channels":[{"connection.socket":{"path":"x/y"}}]}"#, "path"),
            (r#"{"news":[{"of_later":"/bin/sh"}]}"#, "news[0].of_later"),
        ] {
            let told = check(&Permitted::default(), json).unwrap_err();
            assert!(told.contains(field), "{json}: {told}");
        }
    }

    #[test]
    fn a_host_widens_and_narrows() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("vif-own");
        fs::write(&script, "").unwrap();
        let named = |key: &str| format!(r#"{{{key}:"{}"}}"#, script.display());
        let nic = format!(r#"{{"nics":[{}]}}"#, named(r#""script""#));
        let model = format!(r#"{{"b_info":{}}}"#, named(r#""device_model""#));
        let own = vec![dir.path().to_path_buf()];
        let wide =
            Permitted { scripts: own.clone(), programs: own.clone(), ..Permitted::default() };
        for json in [&nic, &model] {
            check(&Permitted::default(), json).unwrap_err();
            check(&wide, json).unwrap();
        }
        fs::set_permissions(&script, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(check(&wide, &nic).unwrap_err().contains("root alone"));
        let serial = r#"{"b_info":{"extra":["-x"],"type.hvm":{"serial":"file:/var/log/a"}}}"#;
        check(&Permitted { arguments: true, ..Permitted::default() }, serial).unwrap();
        let narrow = Permitted { files: vec!["/dev/vg0".into()], ..Permitted::default() };
        check(&narrow, r#"{"disks":[{"pdev_path":"/dev/vg0/a"}]}"#).unwrap();
        check(&narrow, r#"{"disks":[{"pdev_path":"/dev/vg00/a"}]}"#).unwrap_err();
        let iscsi = r#"{"disks":[{"pdev_path":"iqn=a:b,portal=c","script":"x"}]}"#;
        assert!(check(&narrow, iscsi).unwrap_err().contains("disks[0].script"));
    }
}
