//! What each level of `--mpi-quiesce`, and stock xl, cost one audited job: ways take turns, so that
//! all meet the same job, the same hosts and both directions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rxl_lab::{Node, RemoteProcess};
use serde_json::Value;

use crate::cluster::{COMMAND, Cluster, MIGRATION, SHARED_WEIGHT, median, number};
use crate::quiesce::{check_cut, figures, prepare, some_moment, start_job, summary};

/// Lines of the job's progress after a migration: the first may be of an iteration from before its
/// end.
const LINES_AFTER: usize = 3;

/// What the migrations of one way cost, ms but for the counts.
#[derive(Default)]
struct Way {
    downtimes: Vec<f64>,
    pauses: Vec<f64>,
    flushes: Vec<f64>,
    unacked: Vec<f64>,
    /// The longest time without the end of any operation of MPI at the rank that stays, from before
    /// the migration until the job runs as usual again: its stall.
    silences: Vec<f64>,
    /// The longest iteration in that time. It holds what the host's processor takes from the ranks,
    /// too.
    longest: Vec<f64>,
    retransmits: Vec<f64>,
}

impl Way {
    fn print(&self, name: &str) {
        let seconds = |values: &[f64]| match values {
            [] => "-".to_owned(),
            values => format!("{:.2} s", median(values.to_vec()) / 1e3),
        };
        let each = |values: &[f64]| {
            values.iter().map(|ms| format!("{:.1}", ms / 1e3)).collect::<Vec<_>>().join(", ")
        };
        println!(
            "  {name}: medians: downtime {}, pause {}, flush {}, stall {} (each: {}), longest \
             iteration {} (each: {}); {} segments retransmitted, {} bytes in flight at the cuts",
            seconds(&self.downtimes),
            seconds(&self.pauses),
            seconds(&self.flushes),
            seconds(&self.silences),
            each(&self.silences),
            seconds(&self.longest),
            each(&self.longest),
            self.retransmits.iter().sum::<f64>(),
            self.unacked.iter().fold(0.0, |sum, bytes| sum + bytes),
        );
    }
}

/// RXL_QUIESCE_WAYS and RXL_QUIESCE_RUNS: which ways, and how many migrations of each; an even
/// number goes each way equally often in both directions, which differ by more than the ways do. A
/// way is `xl`, or a level and a transport (`job`, `job+tcp`).
pub fn an_audited_job_by_level(cluster: &Cluster) -> Result<()> {
    let ways = std::env::var("RXL_QUIESCE_WAYS").unwrap_or_else(|_| "job".into());
    let ways: Vec<&str> = ways.split_whitespace().collect();
    let runs: usize = std::env::var("RXL_QUIESCE_RUNS").map_or(Ok(1), |runs| runs.parse())?;
    prepare(cluster)?;
    cluster.weigh_dom0(SHARED_WEIGHT)?;
    let mut job = Job { process: start_job(cluster, Node::B)?, read: 0 };
    let (mut costs, mut at) = (BTreeMap::<&str, Way>::new(), Node::A);
    for round in 0..runs {
        // An even number of ways in another order each time, or a way would always go the same
        // direction.
        let shift = if ways.len().is_multiple_of(2) { round } else { 0 };
        for way in (0..ways.len()).map(|n| ways[(n + shift) % ways.len()]) {
            std::thread::sleep(some_moment());
            job.moved(cluster, way, at, costs.entry(way).or_default())
                .with_context(|| format!("{way} from {at}"))?;
            at = at.other();
        }
    }
    let saw = summary(cluster, job.process)?;
    costs.iter().for_each(|(name, way)| way.print(name));
    println!("  median iteration {:.2} s", number(&saw, "/median_ms")? / 1e3);
    check_stalls(&costs, runs)?;
    cluster.check_clean("dom3", at)
}

/// With a few of each: the job that stands still by agreement stands still for less than the one
/// that xl pulls a rank from.
fn check_stalls(costs: &BTreeMap<&str, Way>, runs: usize) -> Result<()> {
    let Some(xl) = costs.get("xl") else { return Ok(()) };
    for (way, job) in costs.iter().filter(|(way, _)| way.starts_with("job")) {
        let ratio = median(job.silences.clone()) / median(xl.silences.clone());
        println!("  {way}: the stall is {ratio:.2} of that with xl");
        ensure!(runs < 3 || ratio < 1.0, "{way}: the job stalls for longer than with xl");
    }
    Ok(())
}

struct Job {
    process: RemoteProcess,
    /// How much of its output has been read.
    read: usize,
}

impl Job {
    /// Moves one of its domains, and adds what that cost.
    fn moved(&mut self, cluster: &Cluster, way: &str, from: Node, cost: &mut Way) -> Result<()> {
        let before = retransmitted(cluster)?;
        self.iterations()?;
        let begun = Instant::now();
        migrate(cluster, way, from, cost)?;
        let took = begun.elapsed();
        let iterations = self.settled()?;
        let longest = iterations.iter().map(|line| line.longest).fold(0.0, f64::max);
        let stall = iterations
            .iter()
            .max_by(|a, b| a.silence.total_cmp(&b.silence))
            .context("no iteration")?;
        let silence = stall.silence;
        ensure!(
            iterations.iter().all(|line| line.bad == 0.0),
            "a message went wrong: {}",
            self.process.stdout()
        );
        cost.longest.push(longest);
        cost.silences.push(silence);
        cost.retransmits.push(retransmitted(cluster)? - before);
        println!(
            "  {way} from {from}: {:.1} s, stall {:.1} s, longest iteration {:.1} s",
            took.as_secs_f64(),
            silence / 1e3,
            longest / 1e3
        );
        agent_while_stalled(cluster, stall)
    }

    /// What it has said since it was last asked, when it runs as usual again.
    fn settled(&mut self) -> Result<Vec<Line>> {
        let until = Instant::now() + MIGRATION;
        let mut lines = self.iterations()?;
        let enough = lines.len() + LINES_AFTER;
        while lines.len() < enough {
            ensure!(
                self.process.is_running()? && Instant::now() < until,
                "it stands still: {}",
                self.process.stdout()
            );
            std::thread::sleep(Duration::from_millis(500));
            lines.extend(self.iterations()?);
        }
        Ok(lines)
    }

    fn iterations(&mut self) -> Result<Vec<Line>> {
        let text = self.process.stdout();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let fresh = &text[self.read.min(whole)..whole];
        self.read = whole;
        fresh.lines().filter(|line| line.contains("progress")).map(Line::parse).collect()
    }
}

/// A line of mpi-audit's progress.
struct Line {
    /// Longest iteration since the last, ms.
    longest: f64,
    /// Longest time between the ends of two operations of MPI since then, ms.
    silence: f64,
    /// When that began, in seconds of Unix time by the clock of the rank's guest.
    from: f64,
    /// Messages lost, doubled, reordered or corrupt, of all so far.
    bad: f64,
}

impl Line {
    fn parse(line: &str) -> Result<Self> {
        let line: Value = serde_json::from_str(line)
            .with_context(|| format!("not a line of progress: {line}"))?;
        let of = |name| number(&line, name);
        Ok(Self {
            longest: of("/longest_ms")?,
            silence: of("/silence_ms")?,
            from: of("/silent_from_s")?,
            bad: of("/bad")?,
        })
    }
}

fn migrate(cluster: &Cluster, way: &str, from: Node, cost: &mut Way) -> Result<()> {
    let to = from.other();
    if way == "xl" {
        return cluster.lab.node(from).check(&format!("xl migrate dom3 {to}"), MIGRATION).map(drop);
    }
    let (level, transport) = way.split_once('+').unwrap_or((way, "ssh"));
    let report = cluster
        .migrate(from, &format!("--mpi-quiesce={level} --transport={transport} dom3 {to}"))?;
    cost.downtimes.push(number(&report, "/downtime")?);
    if level == "off" {
        ensure!(report.get("mpi").is_none(), "{report}");
        return Ok(());
    }
    let mpi = &report["mpi"];
    println!("  {way}: {}", figures(mpi));
    cost.pauses.push(number(mpi, "/application-pause")?);
    cost.flushes.push(number(mpi, "/flush")?);
    cost.unacked.push(number(mpi, "/unacked")?);
    ensure!(mpi["problem"].is_null(), "{mpi}");
    ensure!(
        number(mpi, "/application-pause")? > number(&report, "/downtime")?,
        "the pause holds the blackout: {report}"
    );
    let domains = mpi["domains"].as_array().map_or(0, Vec::len);
    ensure!(domains == if level == "domain" { 1 } else { 2 }, "{mpi}");
    if level == "job" { check_cut(mpi) } else { Ok(()) }
}

/// What the agent beside the rank that stays did around a stall, in seconds from its beginning:
/// both take their guest's clock.
fn agent_while_stalled(cluster: &Cluster, stall: &Line) -> Result<()> {
    let (from, to) = (stall.from - 30.0, stall.from + stall.silence / 1e3 + 30.0);
    let journal = format!(
        "journalctl --unit rxl-guest-agent --output short-unix --since @{from:.0} --until @{to:.0}"
    );
    for line in cluster.lab.guest("dom4")?.check(&journal, COMMAND * 2)?.stdout.lines() {
        let Some((head, said)) = line.rsplit_once("-> ") else { continue };
        if let Some(at) = head.split(' ').next().and_then(|at| at.parse::<f64>().ok()) {
            println!(
                "    at {:.1} s: {}",
                at - stall.from,
                said.chars().take(60).collect::<String>()
            );
        }
    }
    Ok(())
}

/// Segments that both guests have retransmitted since they booted.
fn retransmitted(cluster: &Cluster) -> Result<f64> {
    let count = "awk '/^Tcp:/ {value = $13} END {print value}' /proc/net/snmp";
    let of = |guest: &str| -> Result<f64> {
        let said = cluster.lab.guest(guest)?.check(count, COMMAND * 2)?;
        said.stdout
            .trim()
            .parse()
            .with_context(|| format!("retransmissions of {guest}: {}", said.stdout))
    };
    Ok(of("dom3")? + of("dom4")?)
}
