//! What is done to a domain, once a record says what becomes of it.

use std::time::{Duration, Instant};

use rxl_core::deadlines;
use rxl_core::domain::{DomId, Domain, RunState};
use rxl_core::host_error::HostError;
use rxl_core::names::{INCOMING, MIGRATED_AWAY};
use rxl_handover::Header;
use rxl_host::announce::arrival;
use rxl_host::host::Host;
use rxl_host::watch;

/// How long things may still change by themselves after a session's death.
#[derive(Clone, Copy, Debug)]
pub struct Settling {
    /// After this time a suspended domain is run on: a save helper that outlives its session may do
    /// so first.
    pub suspended: Duration,
    /// A domain counts as running, or as gone, when it was seen so for this long.
    pub settled: Duration,
    /// The same where the guest may have been asked to suspend: it may still do so.
    pub asked: Duration,
    /// After this time it is given up, and tried again later.
    pub limit: Duration,
    /// Pause between two looks at the domain.
    pub interval: Duration,
}

impl Settling {
    /// On a real host.
    pub const HOST: Self = Self {
        suspended: Duration::from_secs(2),
        settled: Duration::from_secs(4),
        asked: deadlines::ABANDONED_SUSPEND,
        limit: deadlines::RECOVER_LIMIT,
        interval: Duration::from_millis(250),
    };

    /// Where nothing was asked of the guest.
    #[must_use]
    pub fn not_asked(self) -> Self {
        Self { asked: self.settled, ..self }
    }

    /// For a session that settles its own record: its save has ended, and with it all that could
    /// change the domain by itself.
    #[must_use]
    pub fn at_once(self) -> Self {
        Self { suspended: Duration::ZERO, settled: Duration::ZERO, asked: Duration::ZERO, ..self }
    }
}

/// Runs a domain on under its own name. True where it had been suspended.
pub(crate) fn run_on(
    host: &dyn Host,
    settling: Settling,
    domid: DomId,
    name: &str,
) -> Result<bool, HostError> {
    let domain = host.domain(domid)?;
    let away = format!("{name}{MIGRATED_AWAY}");
    if domain.name == away {
        host.rename(domid, &away, name)?;
    }
    // What the guest has not seen yet it will not do. What it has seen it may do any moment.
    let withdrawn = host.withdraw_suspend(domid).unwrap_or_else(|error| {
        tracing::warn!("{name}: a request to suspend may be pending: {error}");
        false
    });
    let settled = if withdrawn { settling.settled } else { settling.asked };
    let mut resumed = false;
    poll(Settling { settled, ..settling }, |since| {
        let state = host.domain(domid)?.state;
        if state == RunState::Suspended && since >= settling.suspended {
            host.resume(domid)?;
            resumed = true;
            return Ok(host.domain(domid)?.state != RunState::Suspended);
        }
        Ok(state != RunState::Suspended)
    })?;
    // A save that died may have left it on. It is needed until the save has ended.
    if let Err(error) = host.logdirty_off(domid) {
        tracing::warn!("{name} runs on with log-dirty mode on: {error}");
    }
    watch::again(host, domid);
    Ok(resumed)
}

/// Gives a complete copy its name and lets it run.
pub(crate) fn start(host: &dyn Host, header: &Header, domid: DomId) -> Result<(), HostError> {
    let incoming = format!("{}{INCOMING}", header.name);
    if host.domain(domid)?.name == incoming {
        host.rename(domid, &incoming, &header.name)?;
    }
    if !header.leave_paused && host.domain(domid)?.state == RunState::Paused {
        host.unpause(domid)?;
        arrival(host, domid, &header.name);
    }
    if !header.no_monitor {
        watch::start(host, domid);
    }
    Ok(())
}

/// Destroys what is being, or was, built under this name, where it is ours.
pub(crate) fn discard_named(
    host: &dyn Host,
    settling: Settling,
    name: &str,
    is_ours: impl Fn(&Domain) -> Result<bool, HostError>,
) -> Result<bool, HostError> {
    let mut destroyed = false;
    poll(settling, |_| match host.find(name) {
        Ok(domain) if !is_ours(&domain)? => Ok(true),
        Ok(domain) => {
            destroy(host, domain.domid)?;
            destroyed = true;
            Ok(false)
        }
        Err(HostError::NoSuchDomain(_)) => Ok(true),
        Err(error) => Err(error),
    })?;
    Ok(destroyed)
}

/// Destroys a domain that may be gone already.
pub(crate) fn destroy(host: &dyn Host, domid: DomId) -> Result<(), HostError> {
    match host.destroy(domid) {
        Ok(()) | Err(HostError::NoSuchDomain(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Polls until `right` has been true without a break for `settled`. `right` is told for how long it
/// has been false. Errors are taken for passing ones until the limit.
fn poll(
    settling: Settling,
    mut right: impl FnMut(Duration) -> Result<bool, HostError>,
) -> Result<(), HostError> {
    let begun = Instant::now();
    let (mut right_since, mut wrong_since) = (None, begun);
    loop {
        let looked = right(wrong_since.elapsed());
        let now = Instant::now();
        match &looked {
            Ok(true) => {
                wrong_since = now;
                if now - *right_since.get_or_insert(now) >= settling.settled {
                    return Ok(());
                }
            }
            Ok(false) | Err(_) => right_since = None,
        }
        if matches!(looked, Err(HostError::NoSuchDomain(_))) || begun.elapsed() >= settling.limit {
            return looked.map(drop);
        }
        std::thread::sleep(settling.interval);
    }
}
