//! Configurations in memory, and domains that are booted from them.

use serde_json::{Map, Value, json};

use super::{MemoryHost, failed};
use rxl_core::domain::{DomId, GuestType, RunState};
use rxl_core::domain_config::DomainConfig;
use rxl_core::host_error::HostError;

impl MemoryHost {
    /// Lets a guest have up to `kib`, by a balloon that it does not shrink.
    pub fn raise_maximum(&self, domid: DomId, kib: u64) {
        if let Some(kept) = self.lock().domains.get_mut(&domid) {
            kept.domain.max_memory_kib = kib;
        }
    }

    /// A domain's configuration as libxl would write it.
    pub(super) fn configuration(&self, domid: DomId) -> Result<String, HostError> {
        let state = self.lock();
        let gone = || HostError::NoSuchDomain(domid.to_string());
        let kept = state.domains.get(&domid).ok_or_else(gone)?;
        let mut config = kept.config.clone();
        part(&mut config, "c_info").insert("name".into(), kept.domain.name.as_str().into());
        part(&mut config, "c_info").insert("domid".into(), domid.0.into());
        let kib = kept.domain.max_memory_kib;
        part(&mut config, "b_info").insert("max_memkb".into(), kib.into());
        part(&mut config, "b_info").insert("target_memkb".into(), kept.target_kib.into());
        Ok(Value::Object(config).to_string())
    }

    /// A new domain without a memory of its own: it can run and end, but not be saved.
    pub(super) fn boot_paused(&self, config: &DomainConfig) -> Result<DomId, HostError> {
        if self.faults().boot {
            return Err(failed("boot", "as asked"));
        }
        let name = config.name().unwrap_or_default();
        let json = serde_json::from_str(&config.to_string()).map_err(|e| failed("boot", e))?;
        let mut state = self.lock();
        if state.domains.values().any(|kept| kept.domain.name == name) {
            return Err(HostError::NameTaken(name.into()));
        }
        let kib = config.target_memory_kib().or(config.max_memory_kib()).unwrap_or(0);
        let domid = state.add(name, GuestType::Pvh, RunState::Paused, kib, None);
        if let Some(kept) = state.domains.get_mut(&domid) {
            kept.config = json;
            kept.paused = true;
        }
        Ok(domid)
    }
}

/// libxl's rule for a PVH guest, in KiB (libxl_mem.c: libxl__domain_need_memory_calculate): the
/// target, a paging pool of 8 KiB for each MiB of the maximum and 1 MiB for each vCPU, and 2 MiB
/// more, in whole 2 MiB.
pub(super) fn needed(config: &DomainConfig) -> u64 {
    let most = config.max_memory_kib().unwrap_or(0);
    let target = config.target_memory_kib().unwrap_or(most);
    let vcpus = config.summary().max_vcpus.unwrap_or(1);
    let pool = 4 * (256 * vcpus + 2 * (most / 1024));
    (target + pool + 2048).next_multiple_of(2048)
}

/// The object at `key`, which is made where it is missing.
fn part<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let part = config.entry(key).or_insert_with(|| json!({}));
    if !part.is_object() {
        *part = json!({});
    }
    match part {
        Value::Object(part) => part,
        _ => unreachable!("it was made an object"),
    }
}
