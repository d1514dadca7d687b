//! A domain that is about to leave: found, checked and locked.

use crate::check::{at_source, may_be_saved, may_leave};
use crate::outgoing::ledger::{Described, Ledger};
use rxl_core::domain::Domain;
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_core::names::MIGRATED_AWAY;
use rxl_core::state_dir::{DomainLock, StateDir};
use rxl_handover::Journal;
use rxl_host::host::Host;

/// A domain that is about to leave, locked against any other migration of it.
pub struct Leaving<'a> {
    pub host: &'a dyn Host,
    pub domain: Domain,
    /// Its configuration, as libxl's JSON.
    pub config_json: String,
    /// `MAJOR.MINOR` of the Xen here.
    pub xen_version: String,
    pub lock: DomainLock,
    /// This host's records.
    pub journal: Journal,
}

impl<'a> Leaving<'a> {
    /// Finds, checks and locks a domain that is to move to another host, by name or number.
    pub fn to_host(
        host: &'a dyn Host,
        state: &StateDir,
        domain: &str,
        live: bool,
    ) -> Result<Self, Failure> {
        let leaving = Self::lock(host, state, domain, live)?;
        may_leave(&leaving.domain.name, &leaving.config_json)?;
        check_no_leftover(host, &leaving.domain.name)?;
        Ok(leaving)
    }

    /// Finds, checks and locks a domain that is to be saved into a file, by name or number. It is
    /// suspended for all of it.
    pub fn to_file(host: &'a dyn Host, state: &StateDir, domain: &str) -> Result<Self, Failure> {
        let leaving = Self::lock(host, state, domain, false)?;
        may_be_saved(&leaving.domain.name, &leaving.config_json)?;
        Ok(leaving)
    }

    /// Begins its record.
    pub fn record(&self, described: Described) -> Result<Ledger, Failure> {
        Ledger::begin(self.journal.clone(), &self.domain, &self.config_json, described)
    }

    fn lock(
        host: &'a dyn Host,
        state: &StateDir,
        domain: &str,
        live: bool,
    ) -> Result<Self, Failure> {
        let domain = host.find(domain).map_err(Failure::from)?;
        let facts = host.facts().map_err(Failure::from)?;
        at_source(&domain, &facts, live)?;
        let lock = state.lock(&format!("domain-{}", domain.domid), &domain.name)?;
        let journal = Journal::of(state)?;
        let config_json = host
            .config_json(domain.domid)
            .map_err(|e| Failure::from(e).with_exit(Exit::Internal))?;
        Ok(Self { host, domain, config_json, xen_version: facts.xen_version, lock, journal })
    }
}

/// The name that the domain gets at Commit must be free: there the guest already stands still.
fn check_no_leftover(host: &dyn Host, name: &str) -> Result<(), Failure> {
    let away = format!("{name}{MIGRATED_AWAY}");
    match host.find(&away) {
        Err(HostError::NoSuchDomain(_)) => Ok(()),
        Err(error) => Err(Failure::from(error)),
        Ok(left) => {
            let what = format!(
                "{away} is left here by an earlier migration (number {}), and {name} would get \
                 that name",
                left.domid
            );
            Err(Failure::new(Exit::DomainState, what).next(format!(
                "`rxl recover {name}` decides about what rxl left; if it is xl's, and {name} is \
                 the one that counts, `xl destroy {away}`"
            )))
        }
    }
}
