//! Watchers in memory: what they hear, and what they are asked to do.

use std::path::Path;
use std::time::Duration;

use super::{MemoryHost, failed};
use rxl_core::domain::{DomId, RunState};
use rxl_core::domain_config::DomainConfig;
use rxl_core::host_error::HostError;
use rxl_core::shutdown::{DomainEvent, ShutdownReason};
use rxl_host::host::Host;
use rxl_host::watch::{DomainEvents, WatchHost};

/// How often a domain is looked at.
const INTERVAL: Duration = Duration::from_millis(1);

/// What a host has seen of watchers.
#[derive(Debug, Default)]
pub(super) struct Watching {
    /// For which domains a watcher was started, in this order.
    pub(super) started: Vec<DomId>,
    /// Which of the domains that left were watched.
    pub(super) noted: Vec<DomId>,
    /// Whom a process of xl's watches.
    xl: Option<DomId>,
    xl_config: Option<Vec<u8>>,
    /// What watchers did beside calls that change domains.
    acts: Vec<String>,
}

impl Watching {
    pub(super) fn is_watched(&self, domid: DomId) -> bool {
        self.xl == Some(domid) || self.started.contains(&domid)
    }
}

impl MemoryHost {
    /// The domains for which a watcher was started, in this order.
    pub fn watchers(&self) -> Vec<DomId> {
        self.lock().watching.started.clone()
    }

    /// All watchers of rxl's are killed.
    pub fn end_watchers(&self) {
        self.lock().watching.started.clear();
    }

    /// A guest ends.
    pub fn end_guest(&self, domid: DomId, reason: ShutdownReason) {
        let state = match reason {
            ShutdownReason::Suspend => RunState::Suspended,
            _ => RunState::Shutdown,
        };
        let _ = self.change(domid, |kept| {
            kept.domain.state = state;
            kept.ended = Some(reason);
        });
    }

    /// A process of xl's watches this domain, or none.
    pub fn set_xl_watches(&self, domid: Option<DomId>) {
        self.lock().watching.xl = domid;
    }

    /// `xl config-update` leaves this.
    pub fn set_xl_config(&self, text: &str) {
        self.lock().watching.xl_config = Some(text.into());
    }

    /// Dumps and resets that watchers have made.
    pub fn acts(&self) -> Vec<String> {
        self.lock().watching.acts.clone()
    }
}

struct MemoryEvents {
    host: MemoryHost,
    domid: DomId,
    /// A guest that stands still has been told of.
    told: bool,
}

impl MemoryEvents {
    fn look(&mut self) -> Option<DomainEvent> {
        let state = self.host.lock();
        let Some(kept) = state.domains.get(&self.domid) else { return Some(DomainEvent::Death) };
        let ended = match kept.domain.state {
            RunState::Dying => return Some(DomainEvent::Death),
            RunState::Suspended => ShutdownReason::Suspend,
            RunState::Shutdown => kept.ended.unwrap_or(ShutdownReason::Crash),
            RunState::Paused | RunState::Running => {
                self.told = false;
                return None;
            }
        };
        let again = ended == ShutdownReason::Suspend && std::mem::replace(&mut self.told, true);
        (!again).then_some(DomainEvent::Shutdown(ended))
    }
}

impl DomainEvents for MemoryEvents {
    fn wait(&mut self) -> Result<DomainEvent, HostError> {
        loop {
            if let Some(event) = self.look() {
                return Ok(event);
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

impl WatchHost for MemoryHost {
    fn events(&self, domid: DomId, _: &DomainConfig) -> Result<Box<dyn DomainEvents>, HostError> {
        Ok(Box::new(MemoryEvents { host: self.clone(), domid, told: false }))
    }

    fn xl_watches(&self, domid: DomId) -> bool {
        self.lock().watching.xl == Some(domid)
    }

    fn soft_reset(&self, domid: DomId, _: &DomainConfig) -> Result<(), HostError> {
        if self.faults().boot {
            return Err(failed("soft reset", "as asked"));
        }
        self.lock().watching.acts.push(format!("reset {domid}"));
        self.change(domid, |kept| {
            kept.domain.state = RunState::Paused;
            kept.paused = true;
        })
    }

    fn dump_core(&self, domid: DomId, file: &Path) -> Result<(), HostError> {
        let domain = self.domain(domid)?;
        let act = format!("dump {} {}", domain.name, file.display());
        self.lock().watching.acts.push(act);
        Ok(())
    }

    fn preserve(&self, domid: DomId, config: &DomainConfig, suffix: &str) -> Result<(), HostError> {
        let name = config.name().unwrap_or_default();
        self.rename(domid, name, &format!("{name}{suffix}"))
    }

    fn take_xl_config(&self, _: DomId) -> Result<Option<Vec<u8>>, HostError> {
        Ok(self.lock().watching.xl_config.take())
    }
}
