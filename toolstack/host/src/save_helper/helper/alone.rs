//! A save without a session: the helper decides by itself, and writes a report.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::save_helper::helper::SaveArguments;
use crate::save_helper::helper::error::HelperError;
use crate::save_helper::helper::libxc;
use crate::save_helper::helper::libxc::Decider;
use rxl_core::steering::{Decision, PrecopyStats};
use rxl_core::units::ms;
use rxl_precopy::policy::{
    DEFAULT_DOWNTIME, DEFAULT_MAX_ITERATIONS, Limits, Measured, Otherwise, Policy, Verdict, Why,
};
use rxl_xen as xen;
use rxl_xen::Library;

pub(super) fn save(library: Library, save: SaveArguments) -> Result<(), HelperError> {
    let limits = limits(|name| std::env::var(name).ok())?;
    let report = std::env::var_os("RXL_SAVE_REPORT").map(PathBuf::from);
    let resident = xen::resident_pages(library, save.domid)?;
    let mut alone = Alone::new(limits, resident);
    let result = libxc::run(library, save, &mut alone);
    if let Some(path) = report {
        let json = serde_json::to_vec_pretty(&alone.report(save.domid)).map_err(io::Error::from);
        let written = json.and_then(|json| std::fs::write(&path, json));
        written.map_err(|source| HelperError::Report { path, source })?;
    }
    result
}

fn limits(variable: impl Fn(&str) -> Option<String>) -> Result<Limits, HelperError> {
    let bad = |name: &str, value: String, wanted| HelperError::Variable {
        name: name.into(),
        value,
        wanted,
    };
    let number = |name: &str| -> Result<Option<u64>, HelperError> {
        let Some(value) = variable(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| bad(name, value, "not a whole number"))
    };
    let otherwise = |name: &str, default| -> Result<Otherwise, HelperError> {
        let Some(value) = variable(name) else { return Ok(default) };
        Otherwise::from_name(&value).ok_or_else(|| bad(name, value, "neither cancel nor force"))
    };
    Ok(Limits {
        downtime: number("RXL_DOWNTIME_LIMIT")?.map_or(DEFAULT_DOWNTIME, Duration::from_millis),
        max_iterations: number("RXL_MAX_ROUNDS")?
            .map_or(DEFAULT_MAX_ITERATIONS, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        timeout: number("RXL_TIMEOUT")?.map(Duration::from_secs),
        on_timeout: otherwise("RXL_ON_TIMEOUT", Otherwise::Cancel)?,
        when_busy: otherwise("RXL_WHEN_BUSY", Otherwise::Force)?,
    })
}

/// What the report says; times in ms, from the save's begin.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    schema: &'static str,
    domid: u32,
    #[serde(rename = "rounds")]
    iterations: Vec<Iteration>,
    stopped: Option<Why>,
    cancelled: Option<Why>,
    suspend_asked: Option<f64>,
    suspended: Option<f64>,
    total_time: f64,
}

/// A live iteration.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Iteration {
    iteration: u32,
    /// Pages dirty when it had been made.
    dirty_pages: u64,
    ended: f64,
}

struct Alone {
    policy: Policy,
    began: Instant,
    /// Pages of the guest: the first iteration's count is one of page numbers, nearly all of which
    /// may be holes.
    resident: u64,
    last: (Instant, u64),
    iterations: Vec<Iteration>,
    verdict: Option<Verdict>,
    asked: Option<Instant>,
    suspended: Option<Instant>,
}

impl Alone {
    fn new(limits: Limits, resident: u64) -> Self {
        let began = Instant::now();
        Self {
            policy: Policy::new(limits),
            began,
            resident,
            last: (began, resident),
            iterations: Vec::new(),
            verdict: None,
            asked: None,
            suspended: None,
        }
    }

    fn since_begin(&self, at: Instant) -> f64 {
        ms(at.duration_since(self.began))
    }

    fn report(&self, domid: u32) -> Report {
        let (mut stopped, mut cancelled) = (None, None);
        match self.verdict {
            Some(Verdict::Stop(why)) => stopped = Some(why),
            Some(Verdict::Cancel(why)) => cancelled = Some(why),
            Some(Verdict::Continue) | None => {}
        }
        Report {
            schema: "rxl-save-report/1",
            domid,
            iterations: self.iterations.clone(),
            stopped,
            cancelled,
            suspend_asked: self.asked.map(|at| self.since_begin(at)),
            suspended: self.suspended.map(|at| self.since_begin(at)),
            total_time: self.since_begin(Instant::now()),
        }
    }
}

impl Decider for Alone {
    fn precopy(&mut self, stats: &PrecopyStats) -> Decision {
        let now = Instant::now();
        let (since, pages) =
            std::mem::replace(&mut self.last, (now, stats.dirty.min(self.resident)));
        let seconds = now.duration_since(since).as_secs_f64();
        self.iterations.push(Iteration {
            iteration: stats.iteration,
            dirty_pages: stats.dirty,
            ended: self.since_begin(now),
        });
        let verdict = self.policy.decide(&Measured {
            iterations: stats.iteration,
            dirty: stats.dirty,
            pages_per_second: (seconds > 0.0 && pages > 0).then(|| pages as f64 / seconds),
            elapsed: now.duration_since(self.began),
        });
        self.verdict = Some(verdict);
        match verdict {
            Verdict::Continue => Decision::Continue,
            Verdict::Stop(_) => Decision::StopAndCopy,
            Verdict::Cancel(_) => Decision::Abort,
        }
    }

    fn may_suspend(&mut self) -> bool {
        self.asked = Some(Instant::now());
        true
    }

    fn suspended(&mut self, ok: bool) {
        self.suspended = ok.then(Instant::now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_come_from_the_environment() {
        let none = limits(|_| None).unwrap();
        assert_eq!(
            (none.downtime, none.max_iterations),
            (DEFAULT_DOWNTIME, DEFAULT_MAX_ITERATIONS)
        );
        let set = |name: &str| match name {
            "RXL_TIMEOUT" => Some("7".into()),
            "RXL_ON_TIMEOUT" => Some("force".into()),
            _ => None,
        };
        let limits_set = limits(set).unwrap();
        assert_eq!(
            (limits_set.timeout, limits_set.on_timeout),
            (Some(Duration::from_secs(7)), Otherwise::Force)
        );
        let error = limits(|name| (name == "RXL_MAX_ROUNDS").then(|| "many".into())).unwrap_err();
        assert_eq!(error.to_string(), "RXL_MAX_ROUNDS=many: not a whole number");
    }

    #[test]
    fn passes_and_the_verdict_are_written_down() {
        let mut alone = Alone::new(limits(|_| None).unwrap(), 1000);
        assert_eq!(
            alone.precopy(&PrecopyStats { iteration: 1, written: 1000, dirty: 0 }),
            Decision::StopAndCopy
        );
        assert!(alone.may_suspend());
        alone.suspended(true);
        let report = alone.report(5);
        assert_eq!((report.stopped, report.iterations.len()), (Some(Why::BelowLimit), 1));
        assert!(report.suspend_asked <= report.suspended);
    }
}
