//! Memory for a domain that is about to arrive, taken from dom0 where xl would take it.
//!
//! xl balloons dom0 down before it creates or restores a domain, unless xl.conf says
//! `autoballoon="off"` or dom0's memory was fixed with `dom0_mem=` on Xen's command line (xl.c:
//! parse_global_config, auto_autoballoon; xl_vmcontrol.c: freemem). While the domain is being made
//! xl holds a lock that is common to the whole host, so that nobody else takes that memory. Both
//! are done here in the same way, with the same lock. With a fixed dom0, as a migration host should
//! have, nothing is done and receptions run side by side.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::canceller::Canceller;
use crate::config::LibxlConfig;
use crate::context::Context;
use crate::failure::Failure;
use rxl_core::deadlines;
use rxl_core::domain_config::DomainConfig;

const XL_CONF: &str = "/etc/xen/xl.conf";

/// xl's default for `lockfile` (xl.h: `XL_LOCK_FILE`).
const DEFAULT_LOCK: &str = "/var/lock/xl";

/// How often a lock that another holds is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(200);

/// Seconds without progress after which libxl gives one wait up.
const STALLED_SECS: i32 = 10;

/// Holds the `MemoryRoom` of a restore, which may be given up before the restore's end: as soon
/// as Xen itself keeps the memory for the domain.
#[derive(Default)]
pub struct Room(Mutex<Option<MemoryRoom>>);

impl Room {
    pub(super) fn hold(&self, room: MemoryRoom) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(room);
    }

    /// Lets others take memory again.
    pub fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Memory that nobody else takes until this is dropped, or nothing where xl would not have made
/// room either.
pub(super) struct MemoryRoom {
    _lock: Option<File>,
}

impl MemoryRoom {
    /// Makes room for `config`'s domain. Waits for xl's lock until the context's operation is
    /// cancelled.
    pub(super) fn make(context: &Context, config: &mut LibxlConfig) -> Result<Self, Failure> {
        let settings = Settings::of_this_host();
        if !settings.balloons(context)? {
            return Ok(Self { _lock: None });
        }
        let lock = acquire(&settings.lockfile, context.canceller())?;
        context.free_memory_for(config)?;
        Ok(Self { _lock: Some(lock) })
    }
}

impl Context {
    /// Whether dom0 gives memory back to make room for domains.
    pub fn autoballoon(&self) -> Result<bool, Failure> {
        Settings::of_this_host().balloons(self)
    }

    /// Memory in KiB that a domain of this configuration takes, with everything that libxl adds for
    /// it.
    pub fn memory_needed(&self, config: &DomainConfig) -> Result<u64, Failure> {
        self.needed(&mut LibxlConfig::from_json(self, &config.to_string())?)
    }

    fn free_memory_for(&self, config: &mut LibxlConfig) -> Result<(), Failure> {
        let needed = self.needed(config)?;
        let mut credit = deadlines::BALLOON;
        loop {
            let free = self.free_memory()?;
            if free >= needed {
                return Ok(());
            }
            if credit.is_zero() {
                return Err(Failure::of(format!(
                    "{free} KiB of memory are free, {needed} are needed, dom0 gives no more"
                )));
            }
            let begun = Instant::now();
            self.shrink_dom0(needed - free)?;
            credit = credit.saturating_sub(begun.elapsed());
        }
    }

    fn needed(&self, config: &mut LibxlConfig) -> Result<u64, Failure> {
        let mut needed = 0;
        // SAFETY: the context is live, the configuration initialised and the place for the result
        // valid.
        let rc = unsafe {
            self.functions().libxl_domain_need_memory(
                self.as_ptr(),
                config.as_mut_ptr(),
                u32::MAX,
                &raw mut needed,
            )
        };
        self.check(rc).map(|()| needed)
    }

    /// Memory in KiB that Xen can give to a domain now. libxl_get_free_memory counts what other
    /// domains have claimed.
    fn free_memory(&self) -> Result<u64, Failure> {
        self.physinfo().map(|info| info.free_memory_kib())
    }

    /// Lowers dom0's target by `kib` and waits for it as long as it gets nearer.
    fn shrink_dom0(&self, kib: u64) -> Result<(), Failure> {
        let change = i64::try_from(kib).map_or(i64::MIN, |kib| -kib);
        // SAFETY: the context is live. The change is relative (1) and not enforced (0).
        let rc =
            unsafe { self.functions().libxl_set_memory_target(self.as_ptr(), 0, change, 1, 0) };
        self.check(rc)?;
        // SAFETY: the context is live.
        let rc = unsafe {
            self.functions().libxl_wait_for_memory_target(self.as_ptr(), 0, STALLED_SECS)
        };
        self.check(rc)
    }
}

/// What xl.conf says about ballooning. No `autoballoon` means "auto".
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    autoballoon: Option<bool>,
    lockfile: String,
}

impl Settings {
    fn of_this_host() -> Self {
        Self::of(&std::fs::read_to_string(XL_CONF).unwrap_or_default())
    }

    fn balloons(&self, context: &Context) -> Result<bool, Failure> {
        match self.autoballoon {
            Some(autoballoon) => Ok(autoballoon),
            None => Ok(!fixes_dom0_memory(&context.xen_command_line()?)),
        }
    }

    fn of(xl_conf: &str) -> Self {
        let mut settings = Self { autoballoon: None, lockfile: DEFAULT_LOCK.into() };
        for (key, value) in xl_conf.lines().filter_map(assignment) {
            match key {
                "autoballoon" => settings.autoballoon = switch(value),
                "lockfile" => settings.lockfile = value.to_owned(),
                _ => {}
            }
        }
        settings
    }
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "on" | "1" => Some(true),
        "off" | "0" => Some(false),
        _ => None,
    }
}

/// `key = "value"`, without quotes and without a comment behind.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split('#').next()?.split_once('=')?;
    Some((key.trim(), value.trim().trim_matches(['"', '\''])))
}

/// Whether Xen's command line fixes dom0's memory: an operator who did that does not want it
/// changed.
fn fixes_dom0_memory(xen_command_line: &str) -> bool {
    xen_command_line
        .split(' ')
        .any(|word| word.strip_prefix("dom0_mem=").is_some_and(|amount| !amount.is_empty()))
}

fn acquire(path: &str, canceller: &Canceller) -> Result<File, Failure> {
    let told = |e: &dyn std::fmt::Display| Failure::of(format!("xl's lock {path}: {e}"));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o200)
        .open(path)
        .map_err(|e| told(&e))?;
    let whole_file =
        libc::flock { l_type: WRITE_LOCK, l_whence: FROM_START, l_start: 0, l_len: 0, l_pid: 0 };
    while !canceller.is_pulled() {
        match fcntl(&file, FcntlArg::F_SETLK(&whole_file)) {
            Ok(_) => return Ok(file),
            Err(Errno::EACCES | Errno::EAGAIN | Errno::EINTR) => std::thread::sleep(LOCK_RETRY),
            Err(e) => return Err(told(&e)),
        }
    }
    Err(Failure::aborted())
}

// In the type that `struct flock` has for them.
const WRITE_LOCK: libc::c_short = libc::F_WRLCK as libc::c_short;
const FROM_START: libc::c_short = libc::SEEK_SET as libc::c_short;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xl_conf_is_read_as_xl_reads_it() {
        let settings = |text| Settings::of(text);
        assert_eq!(settings("#autoballoon=\"off\"\n").autoballoon, None);
        assert_eq!(settings("autoballoon=\"auto\"").autoballoon, None);
        assert_eq!(settings("autoballoon = \"off\" # fixed").autoballoon, Some(false));
        assert_eq!(settings("autoballoon='1'").autoballoon, Some(true));
        assert_eq!(settings("").lockfile, DEFAULT_LOCK);
        assert_eq!(settings("lockfile=\"/run/lock/xl\"").lockfile, "/run/lock/xl");
    }

    #[test]
    fn a_fixed_dom0_is_left_alone() {
        assert!(fixes_dom0_memory("console=com1 dom0_mem=1024M,max:1024M"));
        assert!(!fixes_dom0_memory("console=com1 nodom0_mem=1 dom0_mem="));
    }

    #[test]
    fn the_lock_is_taken_unless_cancelled() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("xl");
        let path = path.to_str().unwrap();
        let canceller = Canceller::default();
        assert!(acquire(path, &canceller).is_ok());
        canceller.pull();
        assert!(acquire(path, &canceller).unwrap_err() == Failure::aborted());
    }
}
