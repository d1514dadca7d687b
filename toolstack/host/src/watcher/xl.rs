//! Which domains xl's own processes watch.
//!
//! Such a process has its log as standard output, `/var/log/xen/xl-NAME.log`, and says in it which
//! domain it waits for, again after each reboot (xl_vmcontrol.c: create_domain; xl_utils.c:
//! do_daemonize). The name may be an old one, as a domain can be renamed; the number is right.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use rxl_core::domain::DomId;

/// Where xl's logs are, with the start of their names.
const LOG: &str = "/var/log/xen/xl-";

/// How much of a log's end is read: some hundred lines.
const TAIL: u64 = 64 << 10;

/// Whether one of xl's processes watches the domain.
pub fn watches(domid: DomId) -> bool {
    any_watches(Path::new("/proc"), LOG, domid)
}

fn any_watches(proc: &Path, log: &str, domid: DomId) -> bool {
    let Ok(processes) = std::fs::read_dir(proc) else { return false };
    processes.flatten().any(|entry| {
        let output = entry.path().join("fd/1");
        is_xl(&entry.path())
            && std::fs::read_link(&output).is_ok_and(|path| path.to_string_lossy().starts_with(log))
            && last_domid(&output).is_ok_and(|last| last == Some(domid))
    })
}

fn is_xl(process: &Path) -> bool {
    std::fs::read(process.join("comm")).is_ok_and(|name| name == b"xl\n")
}

/// The number of the domain that this log was last to wait for.
fn last_domid(log: &Path) -> io::Result<Option<DomId>> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let text = String::from_utf8_lossy(&tail);
    Ok(text.lines().rev().find_map(waited_for))
}

/// `Waiting for domain NAME (domid 7) to die [pid 1234]`.
fn waited_for(line: &str) -> Option<DomId> {
    let (before, _) = line.strip_prefix("Waiting for domain ")?.rsplit_once(") to die")?;
    let (_, number) = before.rsplit_once("(domid ")?;
    number.parse().ok().map(DomId)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(proc: &Path, pid: u32, name: &str, log: &Path) {
        let dir = proc.join(pid.to_string());
        std::fs::create_dir_all(dir.join("fd")).unwrap();
        std::fs::write(dir.join("comm"), format!("{name}\n")).unwrap();
        std::os::unix::fs::symlink(log, dir.join("fd/1")).unwrap();
    }

    #[test]
    fn the_last_domain_of_a_log_counts() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path().join("proc");
        let log = dir.path().join("xl-small.log");
        let lines = "Waiting for domain small (domid 3) to die [pid 17]\n\
                     Domain 3 has shut down, reason code 1 0x1\n\
                     Waiting for domain small (domid 12) to die [pid 17]\n";
        std::fs::write(&log, lines).unwrap();
        process(&proc, 17, "xl", &log);
        process(&proc, 18, "cat", &log);
        let prefix = format!("{}/xl-", dir.path().display());
        let watches = |domid| any_watches(&proc, &prefix, DomId(domid));
        assert!(watches(12) && !watches(3) && !watches(1));
        std::fs::remove_dir_all(proc.join("17")).unwrap();
        assert!(!watches(12), "a process of another program reads the log");
    }

    #[test]
    fn a_name_cannot_pass_for_a_number() {
        let line = "Waiting for domain a (domid 9) to die (domid 4) to die [pid 1]";
        assert_eq!(waited_for(line), Some(DomId(4)));
        assert_eq!(waited_for("Waiting for domain a (domid x) to die"), None);
        assert_eq!(waited_for("Domain 4 has been destroyed."), None);
    }
}
