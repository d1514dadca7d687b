//! A domain from its configuration alone, as `xl create` makes it.

use std::ptr::null;
use std::sync::Arc;

use crate::balloon::MemoryRoom;
use crate::config::LibxlConfig;
use crate::context::Context;
use crate::failure::Failure;
use rxl_core::domain_config::DomainConfig;

impl Context {
    /// Boots a new domain of this configuration. It stays paused until it is unpaused. When that
    /// fails nothing of it is left.
    pub fn boot(self: &Arc<Self>, config: &DomainConfig) -> Result<u32, Failure> {
        let name = config.name().unwrap_or_default();
        let mut config = LibxlConfig::from_json(self, &config.to_string())?;
        let _room = MemoryRoom::make(self, &mut config)?;
        let (context, at) = (self.as_ptr(), config.as_mut_ptr());
        self.complete(name, |domid| {
            let place = std::ptr::from_mut(domid);
            self.run(|how| {
                // SAFETY: the context is live; configuration and the place for the domid are
                // borrowed for longer than the operation, which `run` waits for. No console is to
                // be connected.
                unsafe { self.functions().libxl_domain_create_new(context, at, place, how, null()) }
            })
        })
    }
}
