//! When pre-copy ends: a pure function of what was measured.
//!
//! Stock libxc stops after five iterations or below 50 dirty pages, whatever a page costs. Here the
//! question is time, as in QEMU and Cloud Hypervisor: would the pages that are dirty now take less
//! than the downtime limit at the rate that was measured? Where they never will, the guest dirties
//! faster than the link carries, and more iterations only repeat what was sent: then
//! [`Limits::when_busy`] says what happens.

use std::time::Duration;

use serde::Serialize;

/// Downtime limit if the user gives none: QEMU's and Cloud Hypervisor's default.
pub const DEFAULT_DOWNTIME: Duration = Duration::from_millis(300);

/// Most live iterations if the user gives no number.
pub const DEFAULT_MAX_ITERATIONS: u32 = 30;

/// Iterations in a row that brought nothing, after which no more are tried.
const FLAT_ITERATIONS: u32 = 2;

/// What counts as having brought something: the dirty count is lower by this part of itself than
/// after the iteration before, or, for one that falls slowly, than the lowest that did. The counts
/// of a guest that rewrites its memory without end differ by a hundredth from iteration to
/// iteration, and were seen to keep pre-copy going for ten more of them.
const PROGRESS: u64 = 16;

/// What happens when pre-copy does not come below the downtime limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Otherwise {
    /// Give up; the domain runs on at the source.
    Cancel,
    /// Suspend the domain all the same, however long the rest takes.
    Force,
}

impl Otherwise {
    /// The value of that name, `cancel` or `force`, in capitals or not.
    pub fn from_name(name: &str) -> Option<Self> {
        let named = [("cancel", Self::Cancel), ("force", Self::Force)];
        named
            .into_iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// Limits of pre-copy that the user has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest time that the pages sent while the guest is suspended may take.
    pub downtime: Duration,
    /// Most live iterations, 1 or more.
    pub max_iterations: u32,
    /// Longest time from the migration's start until pre-copy ends.
    pub timeout: Option<Duration>,
    /// What happens when `timeout` is over.
    pub on_timeout: Otherwise,
    /// What happens after `max_iterations`, or when the dirty count has stopped falling.
    pub when_busy: Otherwise,
}

/// Figures that were measured when a live iteration had been made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Number of live iterations made so far.
    pub iterations: u32,
    /// Number of pages that are dirty now.
    pub dirty: u64,
    /// Pages a second that the target has restored of late. None while nothing has been restored.
    pub pages_per_second: Option<f64>,
    /// Time since the migration began.
    pub elapsed: Duration,
}

/// Decision of the policy after a live iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Make another live iteration.
    Continue,
    /// Suspend the guest now, for this reason.
    Stop(Why),
    /// Cancel the migration, for this reason.
    Cancel(Why),
}

/// Reason for which pre-copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The dirty pages are expected to take no longer than the downtime limit.
    BelowLimit,
    /// The dirty count has stopped falling.
    DirtyRate,
    /// [`Limits::max_iterations`] were made.
    #[serde(rename = "max-rounds")]
    MaxIterations,
    /// [`Limits::timeout`] is over.
    Timeout,
}

impl Why {
    /// Words the reason for people, as part of a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Self::BelowLimit => "the rest is below the downtime limit",
            Self::DirtyRate => "it dirties its memory as fast as the link carries it",
            Self::MaxIterations => {
                "the rest is above the downtime limit after --max-rounds iterations"
            }
            Self::Timeout => "the rest is above the downtime limit after --timeout",
        }
    }
}

/// Decides when pre-copy ends. It remembers no more than two dirty counts, and for how many
/// iterations they have not fallen.
#[derive(Clone, Debug)]
pub struct Policy {
    limits: Limits,
    last: Option<u64>,
    lowest: Option<u64>,
    flat: u32,
}

impl Policy {
    /// A policy with these limits, before the first iteration.
    pub fn new(limits: Limits) -> Self {
        Self { limits, last: None, lowest: None, flat: 0 }
    }

    /// Decides what comes next. Call it after each live iteration, in order.
    pub fn decide(&mut self, measured: &Measured) -> Verdict {
        self.note(measured.dirty);
        if self.is_below_limit(measured) {
            return Verdict::Stop(Why::BelowLimit);
        }
        if self.limits.timeout.is_some_and(|timeout| measured.elapsed >= timeout) {
            return otherwise(self.limits.on_timeout, Why::Timeout);
        }
        if measured.iterations >= self.limits.max_iterations {
            return otherwise(self.limits.when_busy, Why::MaxIterations);
        }
        if self.flat >= FLAT_ITERATIONS {
            return otherwise(self.limits.when_busy, Why::DirtyRate);
        }
        Verdict::Continue
    }

    fn note(&mut self, dirty: u64) {
        let has_fallen =
            |from: Option<u64>| from.is_none_or(|from| dirty <= from - from.div_ceil(PROGRESS));
        let (than_last, than_lowest) = (has_fallen(self.last), has_fallen(self.lowest));
        self.flat = if than_last || than_lowest { 0 } else { self.flat + 1 };
        self.last = Some(dirty);
        if than_lowest {
            self.lowest = Some(dirty);
        }
    }

    fn is_below_limit(&self, measured: &Measured) -> bool {
        expected_downtime(measured).is_some_and(|expected| expected <= self.limits.downtime)
    }
}

/// How long the pages that are dirty now would take at the measured rate. None while no rate is
/// known.
pub fn expected_downtime(measured: &Measured) -> Option<Duration> {
    if measured.dirty == 0 {
        return Some(Duration::ZERO);
    }
    let seconds = measured.dirty as f64 / measured.pages_per_second?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn otherwise(what: Otherwise, why: Why) -> Verdict {
    match what {
        Otherwise::Cancel => Verdict::Cancel(why),
        Otherwise::Force => Verdict::Stop(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        downtime: Duration::from_millis(300),
        max_iterations: 30,
        timeout: Some(Duration::from_secs(60)),
        on_timeout: Otherwise::Cancel,
        when_busy: Otherwise::Force,
    };

    fn measured(iterations: u32, dirty: u64) -> Measured {
        Measured {
            iterations,
            dirty,
            pages_per_second: Some(10_000.0),
            elapsed: Duration::from_secs(iterations.into()),
        }
    }

    /// The verdicts over a whole trace of dirty counts.
    fn replay(limits: Limits, trace: &[u64]) -> (usize, Verdict) {
        let mut policy = Policy::new(limits);
        let ends = |(index, dirty): (usize, &u64)| {
            let verdict = policy.decide(&measured(index as u32 + 1, *dirty));
            (verdict != Verdict::Continue).then_some((index + 1, verdict))
        };
        trace.iter().enumerate().find_map(ends).unwrap_or((trace.len(), Verdict::Continue))
    }

    #[test]
    fn traces_end_where_they_should() {
        let busy = Limits { when_busy: Otherwise::Cancel, ..LIMITS };
        let forced = Limits { on_timeout: Otherwise::Force, ..LIMITS };
        let falling: Vec<u64> = (1..100).map(|n| (1e6 * 0.95_f64.powi(n)) as u64).collect();
        let table: &[(Limits, &[u64], (usize, Verdict))] = &[
            (LIMITS, &[0], (1, Verdict::Stop(Why::BelowLimit))),
            (LIMITS, &[3_000], (1, Verdict::Stop(Why::BelowLimit))),
            (LIMITS, &[3_001, 2_000], (2, Verdict::Stop(Why::BelowLimit))),
            (LIMITS, &[9_000, 8_000, 7_000, 2_999], (4, Verdict::Stop(Why::BelowLimit))),
            // A wave is not the end: only two iterations in a row that bring nothing are.
            (LIMITS, &[9_000, 9_500, 8_000, 8_500, 100], (5, Verdict::Stop(Why::BelowLimit))),
            (LIMITS, &[9_000, 9_000, 9_000], (3, Verdict::Stop(Why::DirtyRate))),
            (busy, &[9_000, 9_000, 9_000], (3, Verdict::Cancel(Why::DirtyRate))),
            // Nor are these more than noise.
            (LIMITS, &[9_000, 8_950, 8_900, 8_850, 8_800], (3, Verdict::Stop(Why::DirtyRate))),
            (LIMITS, &falling, (30, Verdict::Stop(Why::MaxIterations))),
            (busy, &falling, (30, Verdict::Cancel(Why::MaxIterations))),
            (
                Limits { max_iterations: 1000, ..LIMITS },
                &falling,
                (60, Verdict::Cancel(Why::Timeout)),
            ),
            (
                Limits { max_iterations: 1000, ..forced },
                &falling,
                (60, Verdict::Stop(Why::Timeout)),
            ),
            (LIMITS, &[9_000], (1, Verdict::Continue)),
        ];
        for (limits, trace, expected) in table {
            assert_eq!(replay(*limits, trace), *expected, "{trace:?}");
        }
    }

    #[test]
    fn without_a_rate_only_nothing_is_little() {
        let unknown = |dirty| Measured { pages_per_second: None, ..measured(1, dirty) };
        assert_eq!(Policy::new(LIMITS).decide(&unknown(1)), Verdict::Continue);
        assert_eq!(Policy::new(LIMITS).decide(&unknown(0)), Verdict::Stop(Why::BelowLimit));
        assert_eq!(
            expected_downtime(&Measured { pages_per_second: Some(0.0), ..measured(1, 5) }),
            None
        );
    }

    fn any_otherwise() -> impl Strategy<Value = Otherwise> {
        prop_oneof![Just(Otherwise::Cancel), Just(Otherwise::Force)]
    }

    proptest! {
        #[test]
        fn it_always_ends_and_stops_above_the_limit_only_when_told_to(
            trace in proptest::collection::vec((0..200_000u64, 1.0..100_000.0f64), 50),
            max_iterations in 1..40u32,
            on_timeout in any_otherwise(),
            when_busy in any_otherwise(),
        ) {
            let limits = Limits { max_iterations, on_timeout, when_busy, ..LIMITS };
            let mut policy = Policy::new(limits);
            let mut ended = false;
            for (index, (dirty, rate)) in trace.into_iter().enumerate() {
                let now = measured(index as u32 + 1, dirty);
                let now = Measured { pages_per_second: Some(rate), ..now };
                let verdict = policy.decide(&now);
                if let Verdict::Stop(why) = verdict {
                    let told = match why {
                        Why::BelowLimit => expected_downtime(&now).unwrap() <= limits.downtime,
                        Why::Timeout => on_timeout == Otherwise::Force,
                        Why::MaxIterations | Why::DirtyRate => when_busy == Otherwise::Force,
                    };
                    prop_assert!(told, "{why:?} {now:?}");
                }
                if verdict != Verdict::Continue {
                    ended = true;
                    break;
                }
            }
            prop_assert!(ended);
        }
    }
}
