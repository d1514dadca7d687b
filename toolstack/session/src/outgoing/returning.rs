//! A domain that stays: taken back under its own name, and run on here.

use rxl_core::domain::{DomId, Domain, RunState};
use rxl_core::error::Failure;
use rxl_core::host_error::HostError;
use rxl_core::names::MIGRATED_AWAY;
use rxl_host::host::Host;
use rxl_host::watch;

/// Why a domain that stays does not run here.
#[derive(Debug, thiserror::Error)]
pub enum NotRunning {
    #[error("it could not be resumed: {0}")]
    Resume(#[source] HostError),
    #[error("it cannot be looked at: {0}")]
    Look(#[source] HostError),
    #[error("it is {}", describe(*.0))]
    State(RunState),
}

impl NotRunning {
    /// Whether nothing that anybody does will run it on: a guard has nothing to do.
    fn is_final(&self) -> bool {
        match self {
            Self::State(state) => *state != RunState::Suspended,
            Self::Look(error) => matches!(error, HostError::NoSuchDomain(_)),
            Self::Resume(_) => false,
        }
    }
}

fn describe(state: RunState) -> &'static str {
    match state {
        RunState::Dying => "being destroyed",
        RunState::Suspended => "still suspended",
        RunState::Shutdown => "shut down, or has crashed",
        RunState::Paused => "paused, by somebody else",
        RunState::Running => "running",
    }
}

/// How a domain came back.
pub struct Returned {
    /// Why it kept the name that it got at Commit.
    name: Result<(), HostError>,
    pub running: Result<(), NotRunning>,
}

impl Returned {
    /// Runs the domain on here. `renamed`: it has the name that it gets at Commit. An error in one
    /// step does not keep the next from being tried: a domain that stands still is the worst end.
    pub fn bring(host: &dyn Host, domain: &Domain, renamed: bool) -> Self {
        let away = format!("{}{MIGRATED_AWAY}", domain.name);
        let name = if renamed { host.rename(domain.domid, &away, &domain.name) } else { Ok(()) };
        if let Err(error) = host.logdirty_off(domain.domid) {
            tracing::warn!("{}: log-dirty mode: {error}", domain.name);
        }
        let running = run(host, domain.domid);
        if !matches!(running, Err(NotRunning::Look(_))) {
            watch::again(host, domain.domid);
        }
        Self { name, running }
    }

    /// Whether a guard or a recovery can do nothing more for it.
    pub fn is_settled(&self) -> bool {
        match &self.running {
            Err(NotRunning::Look(HostError::NoSuchDomain(_))) => true,
            Ok(()) => self.name.is_ok(),
            Err(why) => self.name.is_ok() && why.is_final(),
        }
    }

    /// The failure that brought it back, with where the domain is now.
    pub fn tell(&self, failure: Failure, domain: &Domain) -> Failure {
        let Domain { name, .. } = domain;
        let away = format!("{name}{MIGRATED_AWAY}");
        let called = if self.name.is_ok() { name } else { &away };
        let what = match &self.running {
            Ok(()) => format!("{}; {called} runs on here", failure.what),
            Err(why) => format!("{}; and {called} does not run here: {why}", failure.what),
        };
        let told = Failure { what, ..failure };
        match (&self.name, &self.running) {
            (Ok(()), Ok(())) => told,
            (Ok(()), Err(_)) => {
                told.next(format!("`xl list` shows its state; `xl resume {name}` tries again"))
            }
            (Err(error), Ok(())) => Failure {
                what: format!("{}, as it could not be renamed: {error}", told.what),
                ..told
            }
            .next(format!("`xl rename {away} {name}`")),
            (Err(_), Err(_)) => told
                .next(format!("`xl list`, then `xl rename {away} {name}` and `xl resume {name}`")),
        }
    }
}

/// Runs a domain that is suspended, or runs already, and looks whether it does.
fn run(host: &dyn Host, domid: DomId) -> Result<(), NotRunning> {
    let look = || host.domain(domid).map(|domain| domain.state).map_err(NotRunning::Look);
    if look()? == RunState::Suspended {
        host.resume(domid).map_err(NotRunning::Resume)?;
    }
    match look()? {
        RunState::Running => Ok(()),
        state => Err(NotRunning::State(state)),
    }
}
