//! Runs scenarios, judges whether a failure is the emulator's, and tells what took how long.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use libtest_mimic::{Conclusion, Failed};
use rxl_lab::ProcessorTime;

use crate::cluster::Cluster;
use crate::labs::{Labs, Scenario};

/// A host that the lab's watchdog had to wake so often in a minute, over the whole scenario, stood
/// still again and again, and no deadline holds there. The rate does not grow with a scenario's
/// length, as a count would, so that a long one that hangs is no flaky one.
const STANDS_STILL: f64 = 10.0;

/// Scenarios that may pass in a second attempt. With more of them the run fails: such a machine
/// shows nothing.
const FLAKY_BUDGET: usize = 2;

/// Names the file that takes the times of a run (`tests/times.sh`).
const TIMES: &str = "RXL_TIMES";

/// All that was run so far.
#[derive(Default)]
pub struct Attempts {
    labs: Mutex<Labs>,
    flaky: Mutex<Vec<&'static str>>,
    times: Mutex<Vec<(f64, String)>>,
}

/// One run of a scenario.
struct Attempt {
    result: Result<()>,
    /// How often the hosts' QEMUs sat on an interrupt and were woken.
    woken: u32,
    /// What the busiest host had of the processors, and how long it waited for one.
    processor: ProcessorTime,
    took: Duration,
}

impl Attempt {
    fn stood_still(&self) -> bool {
        f64::from(self.woken) / (self.took.as_secs_f64() / 60.0) >= STANDS_STILL
    }
}

impl Attempts {
    /// Runs a scenario; once more, in a fresh lab, where it fails on hosts that stood still.
    pub fn run(&self, scenario: &Scenario) -> Result<(), Failed> {
        let first = self.attempt(scenario)?;
        let Err(error) = &first.result else { return Ok(()) };
        if !first.stood_still() {
            return Err(Failed::from(format!("{error:#}")));
        }
        println!(
            "  [{}] the emulator stood still {} times in {:.0} s; once more after: {error:#}",
            scenario.name,
            first.woken,
            first.took.as_secs_f64()
        );
        let second = self.attempt(scenario)?;
        second.result.map_err(|error| Failed::from(format!("{error:#}")))?;
        lock(&self.flaky).push(scenario.name);
        Ok(())
    }

    fn attempt(&self, scenario: &Scenario) -> Result<Attempt, Failed> {
        let begun = Instant::now();
        let mut labs = lock(&self.labs);
        let cluster =
            labs.take(scenario.needs).map_err(|error| Failed::from(format!("{error:#}")))?;
        let (ready, woken_before) = (begun.elapsed(), woken(&cluster));
        let times_before = cluster.lab.processor_times();
        let result = (scenario.run)(&cluster);
        let attempt = Attempt {
            result,
            woken: woken(&cluster) - woken_before,
            processor: busiest(&times_before, &cluster.lab.processor_times()),
            took: begun.elapsed(),
        };
        self.note(scenario, &attempt, ready);
        if let Err(error) = &attempt.result {
            println!("  {error:#}");
            keep_logs(&cluster, scenario.name);
        } else {
            labs.give_back(scenario.needs, cluster);
        }
        Ok(attempt)
    }

    fn note(&self, scenario: &Scenario, attempt: &Attempt, ready: Duration) {
        let mut remark = format!(
            "lab ready in {:.1} s; the busiest host ran {:.0} s and waited {:.0} s to run",
            ready.as_secs_f64(),
            attempt.processor.ran.as_secs_f64(),
            attempt.processor.waited.as_secs_f64()
        );
        if attempt.woken > 0 {
            let _ = write!(remark, ", QEMU woken {} times", attempt.woken);
        }
        if attempt.result.is_err() {
            remark += ", failed";
        }
        let seconds = attempt.took.as_secs_f64();
        println!("  [{}] {seconds:.1} s, {remark}", scenario.name);
        let line = format!("scenario\t{seconds:.1}\t{}\t{remark}\n", scenario.name);
        let file =
            std::env::var_os(TIMES).and_then(|file| File::options().append(true).open(file).ok());
        match file {
            Some(mut file) => {
                let _ = file.write_all(line.as_bytes());
            }
            None => lock(&self.times).push((seconds, format!("{} ({remark})", scenario.name))),
        }
    }

    /// Prints the times, where no file takes them, and what passed in a second attempt. Too much of
    /// that fails the run.
    pub fn end(&self, conclusion: &Conclusion) -> ExitCode {
        let mut times = std::mem::take(&mut *lock(&self.times));
        times.sort_by(|a, b| b.0.total_cmp(&a.0));
        times.iter().for_each(|(seconds, what)| println!("  {seconds:7.1} s  {what}"));
        let flaky = lock(&self.flaky);
        for name in flaky.iter() {
            println!("flaky: {name} passed in its second attempt only");
        }
        if flaky.len() > FLAKY_BUDGET {
            println!("{} scenarios were flaky; {FLAKY_BUDGET} may be", flaky.len());
            return ExitCode::FAILURE;
        }
        conclusion.exit_code()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In all hosts of a lab, since it was started.
fn woken(cluster: &Cluster) -> u32 {
    cluster.lab.nodes().iter().map(|node| cluster.lab.woken(*node)).sum()
}

fn busiest(before: &[ProcessorTime], after: &[ProcessorTime]) -> ProcessorTime {
    let times = after.iter().zip(before).map(|(after, before)| after.since(*before));
    times.max_by_key(|time| time.ran + time.waited).unwrap_or_default()
}

fn keep_logs(cluster: &Cluster, scenario: &str) {
    let logs = std::env::temp_dir().join(format!("rxl-nested-{}", scenario.replace("::", "-")));
    match cluster.lab.collect_logs(&logs) {
        Ok(()) => println!("  logs of the hosts: {}", logs.display()),
        Err(error) => println!("  no logs: {error:#}"),
    }
}
