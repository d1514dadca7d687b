//! Puts a domain right when the rxl that it belonged to is gone.

use std::time::{Duration, Instant};

use crate::guard_line::Word;
use crate::host::Host;
use rxl_core::domain::{DomId, RunState};
use rxl_core::host_error::HostError;
use rxl_core::names::MIGRATED_AWAY;

/// How long things may still change by themselves after rxl's death.
#[derive(Clone, Copy, Debug)]
pub struct Settling {
    /// After this time a suspended domain is run on: a save helper that outlives its session may do
    /// so first.
    pub suspended: Duration,
    /// A domain counts as running, or as gone, when it was seen so for this long: a suspend may
    /// still be under way.
    pub settled: Duration,
    /// After this time the guard gives up.
    pub limit: Duration,
    /// Pause between two looks at the domain.
    pub interval: Duration,
}

impl Settling {
    /// On a real host: a guest answers a suspend within seconds, if it answers.
    pub const HOST: Self = Self {
        suspended: Duration::from_secs(2),
        settled: Duration::from_secs(4),
        limit: Duration::from_secs(60),
        interval: Duration::from_millis(250),
    };
}

/// Puts a guarded domain right; returns a line for people: what was done, or why it could not be.
pub fn put_right(host: &dyn Host, word: &Word, settling: Settling) -> Option<String> {
    match word {
        Word::Leaving { domid, name } => Some(run_on(host, DomId(*domid), name, settling)),
        Word::Coming { name } => destroy(host, name, settling),
        Word::Taken { domid, incoming, name, paused } => {
            Some(run_here(host, DomId(*domid), incoming, name, *paused))
        }
        Word::Held => {
            Some("rxl was killed while the source decides; the domain is kept, paused".into())
        }
        Word::Done => None,
    }
}

fn run_on(host: &dyn Host, domid: DomId, name: &str, settling: Settling) -> String {
    // rxl may have been killed after the rename and before GO.
    let _ = host.rename(domid, &format!("{name}{MIGRATED_AWAY}"), name);
    let mut resumed = 0;
    let outcome = watch(settling, |since| {
        let state = host.domain(domid)?.state;
        if state == RunState::Suspended && since >= settling.suspended {
            host.resume(domid)?;
            resumed += 1;
        }
        Ok(state != RunState::Suspended)
    });
    // A save that died may have left it on. It is needed until the save has ended.
    let logdirty = host.logdirty_off(domid);
    match (outcome, logdirty) {
        (Err(error), _) => format!(
            "rxl was killed; {name} could not be run on here: {error}; try `xl resume {name}`"
        ),
        (Ok(()), Err(error)) => {
            format!("rxl was killed; {name} runs on here, with log-dirty mode on: {error}")
        }
        (Ok(()), Ok(())) if resumed > 0 => {
            format!("rxl was killed; {name} was suspended and runs on here")
        }
        (Ok(()), Ok(())) => format!("rxl was killed; {name} runs on here"),
    }
}

fn destroy(host: &dyn Host, name: &str, settling: Settling) -> Option<String> {
    let mut destroyed = false;
    let outcome = watch(settling, |_| match host.find(name) {
        Ok(domain) => {
            host.destroy(domain.domid)?;
            destroyed = true;
            Ok(false)
        }
        Err(HostError::NoSuchDomain(_)) => Ok(true),
        Err(error) => Err(error),
    });
    match outcome {
        Err(error) => Some(format!(
            "rxl was killed; {name} is left here: {error}; `xl destroy {name}` removes it"
        )),
        Ok(()) if destroyed => Some(format!("rxl was killed; {name} was destroyed")),
        Ok(()) => None,
    }
}

fn run_here(host: &dyn Host, domid: DomId, incoming: &str, name: &str, paused: bool) -> String {
    let _ = host.rename(domid, incoming, name);
    let run = match host.domain(domid) {
        Ok(domain) if domain.state == RunState::Paused && !paused => host.unpause(domid),
        other => other.map(drop),
    };
    match run {
        Ok(()) => format!("rxl was killed after GO; {name} is here"),
        Err(error) => format!(
            "rxl was killed after GO; {name} could not be run: {error}; try `xl unpause {name}`"
        ),
    }
}

/// Polls until `right` has been true without a break for `settled`. `right` is told for how long it
/// has been false. Errors are taken for passing ones until the limit.
fn watch(
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
