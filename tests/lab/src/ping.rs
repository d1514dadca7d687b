//! The network gap that a migration makes, as a probe outside of the guest sees it.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::host::Host;
use crate::remote::RemoteProcess;

const INTERVAL_S: &str = "0.05";
const END_LIMIT: Duration = Duration::from_secs(60);

/// A ping in the background.
pub struct PingProbe {
    process: RemoteProcess,
}

/// What a ping saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PingReport {
    /// Echo requests that ping has sent, by its own summary.
    pub sent: u64,
    /// Replies received, duplicates left out.
    pub received: u64,
    /// The longest time between two replies one after the other, in milliseconds, by the probing
    /// host's clock.
    pub longest_gap_ms: f64,
}

impl PingProbe {
    pub(crate) fn start(from: &Host, ip: &str) -> Result<Self> {
        let process = from.spawn(&format!("ping -n -D -i {INTERVAL_S} {ip}"))?;
        Ok(Self { process })
    }

    /// Waits until the first reply has come.
    ///
    /// # Errors
    /// None came before the deadline.
    pub fn wait_for_reply(&mut self, deadline: Duration) -> Result<()> {
        self.process.wait_for_stdout("bytes from", deadline)
    }

    /// Ends the ping and reports.
    ///
    /// # Errors
    /// The probing host cannot be reached, or ping printed no summary.
    pub fn finish(mut self) -> Result<PingReport> {
        self.process.signal(Signal::SIGINT)?;
        let output = self.process.wait(END_LIMIT)?;
        parse(&output.stdout)
            .with_context(|| format!("ping printed: {}{}", output.stdout, output.stderr))
    }
}

/// Lines `[SECONDS] 64 bytes from IP: icmp_seq=N ...`, then `N packets transmitted, N received,
/// ...`.
fn parse(output: &str) -> Option<PingReport> {
    let times: Vec<f64> = output
        .lines()
        .filter(|line| line.contains("bytes from") && !line.contains("DUP!"))
        .filter_map(|line| line.strip_prefix('[')?.split_once(']')?.0.parse().ok())
        .collect();
    let longest_gap = times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    let summary = output.lines().find(|line| line.contains("packets transmitted"))?;
    let mut counts =
        summary.split(',').map_while(|part| part.split_ascii_whitespace().next()?.parse().ok());
    Some(PingReport {
        sent: counts.next()?,
        received: counts.next()?,
        longest_gap_ms: longest_gap * 1000.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_between_replies_is_found() {
        let output = "PING 10.77.0.20 (10.77.0.20) 56(84) bytes of data.\n\
                      [100.000000] 64 bytes from 10.77.0.20: icmp_seq=1 ttl=64 time=4.2 ms\n\
                      [100.050000] 64 bytes from 10.77.0.20: icmp_seq=2 ttl=64 time=4.2 ms\n\
                      [101.550000] 64 bytes from 10.77.0.20: icmp_seq=32 ttl=64 time=4.2 ms\n\
                      [101.600000] 64 bytes from 10.77.0.20: icmp_seq=33 ttl=64 time=4.2 ms \
                      (DUP!)\n\n\
                      --- 10.77.0.20 ping statistics ---\n\
                      33 packets transmitted, 3 received, +1 duplicates, \
                      90.9091% packet loss, time 1600ms\n";
        let report = parse(output).unwrap();
        assert_eq!((report.sent, report.received), (33, 3));
        assert!((report.longest_gap_ms - 1500.0).abs() < 0.001, "{report:?}");
    }

    #[test]
    fn output_without_a_summary_is_no_report() {
        assert_eq!(parse("[1.0] 64 bytes from x: icmp_seq=1\n"), None);
    }
}
