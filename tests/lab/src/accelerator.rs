//! Whether Xen runs under KVM on this machine. `/dev/kvm` may be there and yet not able to run a
//! hypervisor in a guest, so it is tried, once.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::process::Reaped;
use crate::qemu::{self, DOM0_ARGUMENTS, XEN_ARGUMENTS};

/// Overrides the probe: `kvm` or `tcg`.
const VARIABLE: &str = "RXL_LAB_ACCEL";

/// Long enough for Xen to start dom0's kernel under KVM; far too short for anything emulated.
const PROBE_LIMIT: Duration = Duration::from_secs(15);

/// What executes the hosts' code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// Hardware virtualisation, with nesting.
    Kvm,
    /// QEMU's translator, which runs everywhere and 20 to 50 times slower.
    Tcg,
}

impl Accelerator {
    /// The name QEMU gives it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// QEMU's `-cpu`. Under TCG `max` is of no use: SMAP and SMEP fault dom0 at its start, XSAVE
    /// loses FPU state now and then, RDTSCP crashes guests.
    pub(crate) fn cpu_model(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => {
                "qemu64,+svm,+npt,+nrip-save,+ssse3,+sse4.1,+sse4.2,+popcnt,+pclmulqdq,+cx16,\
                 +rdrand"
            }
        }
    }

    /// The best one that works here; remembered in the cache for this kernel.
    pub(crate) fn choose(cache: &Cache, dom0: &Path) -> Result<Self> {
        match std::env::var(VARIABLE).as_deref() {
            Ok("kvm") => return Ok(Self::Kvm),
            Ok("tcg") => return Ok(Self::Tcg),
            Ok(other) => bail!("{VARIABLE}={other}: expected kvm or tcg"),
            Err(_) => {}
        }
        if !Path::new("/dev/kvm").exists() {
            return Ok(Self::Tcg);
        }
        let kernel =
            fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
        let answer = cache.root().join(format!("accelerator-{}", kernel.trim()));
        if let Ok(known) = fs::read_to_string(&answer) {
            return Ok(if known == "kvm" { Self::Kvm } else { Self::Tcg });
        }
        let found = if xen_boots_under_kvm(cache, dom0)? { Self::Kvm } else { Self::Tcg };
        fs::write(&answer, found.name())
            .with_context(|| format!("writing {}", answer.display()))?;
        Ok(found)
    }
}

fn xen_boots_under_kvm(cache: &Cache, dom0: &Path) -> Result<bool> {
    let console = cache.root().join(format!("kvm-probe-{}.console", std::process::id()));
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", qemu::PROGRAM])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-machine",
            "pc",
            "-accel",
            "kvm",
            "-cpu",
            "host",
        ])
        .args(["-smp", "1", "-m", "2048", "-append", XEN_ARGUMENTS, "-kernel"])
        .arg(dom0.join("xen"))
        .args([
            "-initrd",
            &format!("{} {DOM0_ARGUMENTS}", dom0.join("vmlinuz").display()),
            "-serial",
        ])
        .arg(format!("file:{}", console.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut process = Reaped::spawn(&mut command)?;
    let deadline = Instant::now() + PROBE_LIMIT;
    let mut booted = false;
    while !booted && Instant::now() < deadline {
        let ended = process.wait_until(Instant::now() + Duration::from_millis(200))?.is_some();
        booted = fs::read(&console)
            .is_ok_and(|text| String::from_utf8_lossy(&text).contains("Linux version"));
        if ended {
            break;
        }
    }
    // The file is missing where QEMU ended before it opened it.
    let _ = fs::remove_file(&console);
    Ok(booted)
}
