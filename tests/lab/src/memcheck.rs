//! Watches a guest's memcheck over one TCP connection, which a migration must not break.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::host::Host;
use crate::process::wait_for;
use crate::remote::RemoteProcess;
use crate::topology::MEMCHECK_PORT;

/// One status line of memcheck.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MemcheckStatus {
    /// Number of the line on its connection, from 0.
    pub sequence: u64,
    /// Pages under check; 0 until all are filled.
    pub pages: u64,
    /// Sum of the pages' generations at the end of the last pass.
    pub generation_sum: u64,
    /// Complete comparisons of all pages.
    pub verified_passes: u64,
    /// Pages rewritten so far.
    pub dirtied: u64,
    /// Damaged pages found so far.
    pub errors: u64,
    /// The first of them, in words.
    pub first_error: Option<String>,
    /// Milliseconds since memcheck's start, by the guest's CLOCK_MONOTONIC.
    pub uptime_ms: u64,
    /// The longest time by which a look at the clocks was late.
    pub longest_tick_gap_ms: u64,
    /// When that was, as `uptime_ms`.
    pub longest_tick_gap_at_ms: u64,
    /// The largest jump of CLOCK_REALTIME against CLOCK_MONOTONIC, in milliseconds.
    pub largest_wall_jump_ms: i64,
}

/// An open connection to a memcheck, which sends a line a second.
pub struct MemcheckProbe {
    process: RemoteProcess,
}

impl MemcheckProbe {
    pub(crate) fn start(from: &Host, ip: &str) -> Result<Self> {
        let process = from
            .spawn(&format!("exec socat -u TCP:{ip}:{MEMCHECK_PORT},connect-timeout=30 STDOUT"))?;
        Ok(Self { process })
    }

    /// All lines so far.
    ///
    /// # Errors
    /// The connection has ended, a line is garbled, or lines are missing.
    pub fn statuses(&mut self) -> Result<Vec<MemcheckStatus>> {
        let running = self.process.is_running()?;
        let statuses = parse(&self.process.stdout())?;
        ensure!(running, "the connection to memcheck ended: {}", self.process.stderr().trim_end());
        Ok(statuses)
    }

    /// Waits until a line satisfies `wanted`, and returns it.
    ///
    /// # Errors
    /// As [`MemcheckProbe::statuses`], or the deadline came first.
    pub fn wait_for(
        &mut self,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&MemcheckStatus) -> bool,
    ) -> Result<MemcheckStatus> {
        wait_for(what, deadline, || Ok(self.statuses()?.into_iter().find(&wanted)))
    }

    /// Waits for a line that is sent from now on: the connection lives.
    ///
    /// # Errors
    /// As [`MemcheckProbe::wait_for`].
    pub fn next(&mut self, deadline: Duration) -> Result<MemcheckStatus> {
        let seen = self.statuses()?.len();
        wait_for("memcheck's next line", deadline, || Ok(self.statuses()?.into_iter().nth(seen)))
    }

    /// Waits until every page was compared once more from now on, and fails if any was damaged.
    ///
    /// # Errors
    /// As [`MemcheckProbe::wait_for`]; or memcheck found damage.
    pub fn verify_all(&mut self, deadline: Duration) -> Result<MemcheckStatus> {
        let now = self.next(deadline)?;
        // The pass under way has seen some pages already.
        let enough = now.verified_passes + 2;
        let status = self.wait_for("a whole pass over memory", deadline, |status| {
            status.errors > 0 || status.verified_passes >= enough
        })?;
        match &status.first_error {
            Some(error) => bail!("memcheck found {} errors; the first: {error}", status.errors),
            None => Ok(status),
        }
    }
}

/// The complete lines of a connection.
fn parse(output: &str) -> Result<Vec<MemcheckStatus>> {
    let complete = output.rfind('\n').map_or("", |end| &output[..end]);
    let mut statuses: Vec<MemcheckStatus> = Vec::new();
    for line in complete.lines() {
        let status: MemcheckStatus =
            serde_json::from_str(line).with_context(|| format!("memcheck's line {line}"))?;
        ensure!(
            status.sequence == statuses.len() as u64,
            "memcheck's line {} is missing",
            statuses.len()
        );
        statuses.push(status);
    }
    Ok(statuses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(sequence: u64) -> String {
        format!(
            "{{\"sequence\":{sequence},\"pages\":6144,\"generation_sum\":3,\
             \"verified_passes\":1,\"dirtied\":4,\"errors\":0,\"first_error\":null,\
             \"uptime_ms\":6509,\"longest_tick_gap_ms\":59,\
             \"longest_tick_gap_at_ms\":1604,\"largest_wall_jump_ms\":-2}}\n"
        )
    }

    #[test]
    fn an_incomplete_last_line_waits() {
        let text = line(0) + &line(1)[..20];
        let statuses = parse(&text).unwrap();
        assert_eq!(statuses.len(), 1);
        assert_eq!((statuses[0].pages, statuses[0].largest_wall_jump_ms), (6144, -2));
    }

    #[test]
    fn a_missing_line_is_an_error() {
        assert!(parse(&(line(0) + &line(2))).is_err());
    }
}
