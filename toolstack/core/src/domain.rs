//! Domains as their host lists them, and what of them travels between hosts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A domain's number on its host. It changes with every migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomId(pub u32);

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How Xen runs the guest (libxl's `libxl_domain_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestType {
    /// Paravirtualised. Its log-dirty mode needs shadow paging in Xen.
    Pv,
    /// Hardware-virtualised without a device model.
    Pvh,
    /// Hardware-virtualised with QEMU as the device model.
    Hvm,
}

/// The state of a domain, from libxl's `libxl_dominfo` flags. Where several are set, the first one
/// here counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// The domain is being destroyed.
    Dying,
    /// The guest has suspended: its memory does not change, and `resume` would let it run on.
    Suspended,
    /// The guest has shut down for another reason: power off, reboot or crash.
    Shutdown,
    /// The toolstack has paused the domain.
    Paused,
    /// The domain runs, or its vCPUs wait for work.
    Running,
}

/// A domain as its host lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    pub domid: DomId,
    /// The name, unique on this host.
    pub name: String,
    pub guest_type: GuestType,
    pub state: RunState,
    /// The memory that it may have, in KiB.
    pub max_memory_kib: u64,
    /// Number of vCPUs, online and offline.
    pub vcpus: u32,
}

/// Facts about a host that decide whether a domain may come or go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// `MAJOR.MINOR` of the running Xen.
    pub xen_version: String,
    /// Memory that Xen can still give to domains, in KiB (free plus scrubbing, less outstanding
    /// claims).
    pub free_memory_kib: u64,
    /// dom0 gives memory back when a domain needs it (xl.conf's `autoballoon`). Free memory is then
    /// no bound.
    pub autoballoon: bool,
    /// Xen has shadow paging: PV guests can be migrated live.
    pub shadow_paging: bool,
    /// Xen has hardware-assisted paging: PVH and HVM guests can be migrated live.
    pub hap: bool,
}

/// The pages through which a PVH guest talks to xenstored and xenconsoled, by their numbers in the
/// guest (gfns). They stay the same across migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialPages {
    /// The page of xenstore's ring.
    pub store: u64,
    /// The page of the console's ring.
    pub console: u64,
}

/// How a restored domain's configuration differs from the one that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreAs {
    /// The name on this host while the domain is being received.
    pub name: String,
    /// Keep this domid, or fail (`xl migrate -D`).
    pub domid: Option<DomId>,
}

/// A guest's network interface on its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vif {
    /// The backend's interface, such as `vif3.0`.
    pub device: String,
    /// The guest's address.
    pub mac: [u8; 6],
}
