//! Boots a domain from its disk after a loss of power: once, whoever is killed meanwhile.
//!
//! The domain has its own name only when it is complete, and this migration's mark before that. So
//! who comes after a killed recovery can tell what that has left: what is not complete is
//! destroyed, and what was not let run yet is let run.

use rxl_core::domain::{DomId, Domain, RestoreAs, RunState};
use rxl_core::domain_config::DomainConfig;
use rxl_core::host_error::HostError;
use rxl_core::names::BOOTING;
use rxl_handover::Header;
use rxl_host::host::Host;
use rxl_host::watch;

use crate::effects::destroy;

/// Boots a domain where none of its name is here; its number. `paused`: it is not to run yet.
pub(crate) fn boot(host: &dyn Host, header: &Header, paused: bool) -> Result<DomId, HostError> {
    let domid = match host.find(&header.name) {
        Ok(domain) if is_unfinished(host, header, &domain)? => domain.domid,
        // Somebody else has started it.
        Ok(domain) => return Ok(domain.domid),
        Err(HostError::NoSuchDomain(_)) => create(host, header)?,
        Err(error) => return Err(error),
    };
    if !paused {
        host.unpause(domid)?;
    }
    if !header.no_monitor {
        watch::start(host, domid);
    }
    Ok(domid)
}

/// Whether a recovery has made it and was killed before it ran.
fn is_unfinished(host: &dyn Host, header: &Header, domain: &Domain) -> Result<bool, HostError> {
    let is_ours = host.mark_of(domain.domid)?.is_some_and(|mark| mark == header.id);
    Ok(is_ours && domain.state == RunState::Paused)
}

/// A complete domain under its own name, paused.
fn create(host: &dyn Host, header: &Header) -> Result<DomId, HostError> {
    let booting = format!("{}{BOOTING}", header.name);
    match host.find(&booting) {
        Ok(left) => destroy(host, left.domid)?,
        Err(HostError::NoSuchDomain(_)) => {}
        Err(error) => return Err(error),
    }
    let domid = host.boot(&configuration(header, booting.clone())?)?;
    host.mark(domid, &header.id)?;
    host.rename(domid, &booting, &header.name)?;
    Ok(domid)
}

/// The recorded configuration. Its number may have been given to another since.
fn configuration(header: &Header, name: String) -> Result<DomainConfig, HostError> {
    let wrong = |error: &dyn std::fmt::Display| {
        HostError::failed("boot", format!("the recorded configuration {error}"))
    };
    let mut config = DomainConfig::parse(&header.config_json).map_err(|error| wrong(&error))?;
    let restore_as = RestoreAs { name, domid: None };
    config.restore_as(&restore_as).map_err(|error| wrong(&error))?;
    config.forget_domid();
    Ok(config)
}
