//! [`WatchHost`] over libxl.

use std::path::Path;
use std::sync::Arc;

use super::{LibxlHost, failed_on};
use crate::watch::{DomainEvents, WatchHost};
use crate::watcher;
use rxl_core::domain::DomId;
use rxl_core::domain_config::DomainConfig;
use rxl_core::host_error::HostError;
use rxl_core::shutdown::DomainEvent;
use rxl_xen as xen;
use rxl_xen::Context;

/// libxl's events of one domain.
struct LibxlEvents {
    events: xen::DomainEvents,
    domid: DomId,
}

impl DomainEvents for LibxlEvents {
    fn wait(&mut self) -> Result<DomainEvent, HostError> {
        let told = self.events.wait();
        told.map_err(|failure| failed_on(self.domid, "libxl_event_wait", failure))
    }
}

impl WatchHost for LibxlHost {
    fn events(
        &self,
        domid: DomId,
        config: &DomainConfig,
    ) -> Result<Box<dyn DomainEvents>, HostError> {
        let disks = config.disks().iter().filter(|disk| disk.is_removable());
        let removable: Vec<&str> = disks.filter_map(|disk| disk.vdev.as_deref()).collect();
        let events = xen::DomainEvents::listen(self.library, domid.0, &removable);
        match events {
            Ok(events) => Ok(Box::new(LibxlEvents { events, domid })),
            Err(failure) => Err(failed_on(domid, "libxl_evenable_domain_death", failure)),
        }
    }

    fn xl_watches(&self, domid: DomId) -> bool {
        watcher::xl_watches(domid)
    }

    fn soft_reset(&self, domid: DomId, config: &DomainConfig) -> Result<(), HostError> {
        let reset = Arc::new(self.context()?).soft_reset(domid.0, config);
        reset.map_err(|failure| failed_on(domid, "libxl_domain_soft_reset", failure))
    }

    fn dump_core(&self, domid: DomId, file: &Path) -> Result<(), HostError> {
        self.on(domid, "libxl_domain_core_dump", |context, domid| context.dump_core(domid, file))
    }

    fn preserve(&self, domid: DomId, config: &DomainConfig, suffix: &str) -> Result<(), HostError> {
        self.on(domid, "libxl_domain_preserve", |context, domid| {
            context.preserve(domid, config, suffix)
        })
    }

    fn take_xl_config(&self, domid: DomId) -> Result<Option<Vec<u8>>, HostError> {
        self.on(domid, "libxl_userdata_retrieve", Context::take_xl_config)
    }
}
