//! The watcher: the process that does what a domain's configuration wants when its guest ends.
//!
//! xl leaves one for each domain that it creates, restores or receives. The crate `rxl-watch` has
//! rxl's; here stands when it is started, and what it needs of a host. [`crate::watcher`] starts
//! the process. docs/decisions/0033-watcher.md tells what kind of process it is.
//!
//! A domain that leaves may be watched by xl's process, which ends when the guest is suspended
//! (xl_vmcontrol.c of Xen 4.17 to 4.19: handle_domain_death). A domain that is run on after that
//! gets a watcher of rxl's, if it was watched before: [`leaving`] remembers it, [`again`] acts on
//! it.

use std::path::Path;

use crate::host::Host;
use rxl_core::domain::{DomId, Domain};
use rxl_core::domain_config::DomainConfig;
use rxl_core::host_error::HostError;
use rxl_core::shutdown::DomainEvent;

/// Starts the watcher of a domain that is here to stay, unless it has one. The domain runs whether
/// that succeeds or not.
pub fn start(host: &dyn Host, domid: DomId) {
    if let Err(error) = host.watch(domid) {
        warn(domid, &error);
    }
}

/// Remembers whether this domain, which is about to leave, is watched.
pub fn leaving(host: &dyn Host, domain: &Domain) {
    if let Err(error) = host.note_watched(domain.domid) {
        let name = &domain.name;
        tracing::warn!("{name}: whether anybody watches it is not known: {error}");
    }
}

/// Starts the watcher of a domain that was to leave and runs on, if it was watched before.
pub fn again(host: &dyn Host, domid: DomId) {
    if let Err(error) = host.watch_again(domid) {
        warn(domid, &error);
    }
}

fn warn(domid: DomId, error: &dyn std::error::Error) {
    tracing::warn!(
        "domain {domid} is not watched, so it is not started again when it reboots: {error}; `rxl \
         watch {domid}` tries again"
    );
}

/// The events of one domain.
pub trait DomainEvents {
    /// Waits until something happens to the domain, for as long as that takes. What happened before
    /// is told, too.
    fn wait(&mut self) -> Result<DomainEvent, HostError>;
}

/// What a watcher needs of a host.
pub trait WatchHost: Host {
    /// Begins to listen to a domain with these disks.
    fn events(
        &self,
        domid: DomId,
        config: &DomainConfig,
    ) -> Result<Box<dyn DomainEvents>, HostError>;

    /// Whether a process of xl's watches the domain.
    fn xl_watches(&self, domid: DomId) -> bool;

    /// Starts the kernel that the guest has loaded, in the same domain, which stays paused
    /// (`libxl_domain_soft_reset`).
    fn soft_reset(&self, domid: DomId, config: &DomainConfig) -> Result<(), HostError>;

    /// Writes the domain's memory and processor state to a file (`libxl_domain_core_dump`).
    fn dump_core(&self, domid: DomId, file: &Path) -> Result<(), HostError>;

    /// Gives the domain another uuid, and `suffix` behind its name, so that another can be made of
    /// its configuration (`libxl_domain_preserve`).
    fn preserve(&self, domid: DomId, config: &DomainConfig, suffix: &str) -> Result<(), HostError>;

    /// The configuration in xl's syntax that `xl config-update` has left for the next boot. It is
    /// forgotten then.
    fn take_xl_config(&self, domid: DomId) -> Result<Option<Vec<u8>>, HostError>;
}
