//! `--mpi-quiesce` with a real job: two ranks in two domUs on two hosts, an agent in each, every message audited.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use rxl_lab::{Node, RemoteProcess};
use serde_json::Value;

use crate::cluster::{COMMAND, Cluster, MIGRATION, number};

const GUESTS: [&str; 2] = ["dom3", "dom4"];

/// How long a migration may keep the job busy: should nobody end it, the job ends when all of them could be over.
const SECONDS_A_MIGRATION: usize = 110;

/// The file in rank 0's guest that ends the job.
const STOP: &str = "/run/mpi-audit.stop";

/// What one way of moving cost.
struct Row {
    way: String,
    downtimes: Vec<f64>,
    pauses: Vec<f64>,
    flushes: Vec<f64>,
    retransmits: u64,
    stall: f64,
    median: f64,
    messages: u64,
}

impl Row {
    fn print(&self) {
        let median = |values: &[f64]| match values {
            [] => "-".to_owned(),
            values => format!("{:.2} s", crate::cluster::median(values.to_vec()) / 1e3),
        };
        println!(
            "  {}: downtime {}, pause {}, flush {}, longest stall {:.1} s beyond the median iteration of {:.1} s, \
             {} segments retransmitted, {} messages",
            self.way,
            median(&self.downtimes),
            median(&self.pauses),
            median(&self.flushes),
            (self.stall - self.median) / 1e3,
            self.median / 1e3,
            self.retransmits,
            self.messages,
        );
    }
}

/// RXL_QUIESCE_WAYS and RXL_QUIESCE_RUNS: which ways, and how many migrations of each.
pub fn an_audited_job_by_level(cluster: &Cluster) -> Result<()> {
    let ways = std::env::var("RXL_QUIESCE_WAYS").unwrap_or_else(|_| "job".into());
    let runs: usize = std::env::var("RXL_QUIESCE_RUNS").map_or(Ok(1), |runs| runs.parse())?;
    prepare(cluster)?;
    let mut at = Node::A;
    for way in ways.split_whitespace() {
        audited(cluster, way, runs, &mut at)?.print();
    }
    cluster.check_clean("dom3", at)
}

/// Agents from their package; the busy guest that no test here needs gives its processor back.
pub fn prepare(cluster: &Cluster) -> Result<()> {
    cluster.lab.bind_processors()?;
    cluster.lab.node(Node::A).check("xl destroy small", COMMAND)?;
    for node in Node::ALL {
        // Ranks spin; with two on one host dom0 would get a third of its only processor. A scheduler without weights has none.
        cluster.lab.node(node).run("xl sched-credit2 --domain=Domain-0 --weight=2048", COMMAND)?;
    }
    for guest in GUESTS {
        cluster.install_agent(guest)?;
    }
    let shown = cluster.lab.node(Node::A).check("rxl jobs", COMMAND)?.stdout;
    ensure!(shown.contains("dom3") && shown.contains("idle"), "{shown}");
    Ok(())
}

/// One job, moved back and forth while it runs, and ended when it has been.
fn audited(cluster: &Cluster, way: &str, runs: usize, at: &mut Node) -> Result<Row> {
    let mut job = start_job(cluster, Node::B, 30 + runs * SECONDS_A_MIGRATION)?;
    let before = retransmitted(cluster)?;
    let mut row = Row {
        way: way.into(),
        downtimes: Vec::new(),
        pauses: Vec::new(),
        flushes: Vec::new(),
        retransmits: 0,
        stall: 0.0,
        median: 0.0,
        messages: 0,
    };
    for _ in 0..runs {
        std::thread::sleep(some_moment());
        migrate(cluster, way, *at, &mut row)?;
        *at = at.other();
    }
    ensure!(job.is_running()?, "the job ended before the last migration did: {}", job.stdout());
    row.retransmits = retransmitted(cluster)?.saturating_sub(before);
    let saw = summary(cluster, job)?;
    row.stall = number(&saw, "/longest_stall_ms")?;
    row.median = number(&saw, "/median_ms")?;
    row.messages = saw["received"].as_u64().context("received")?;
    Ok(row)
}

fn migrate(cluster: &Cluster, way: &str, from: Node, row: &mut Row) -> Result<()> {
    let to = from.other();
    if way == "xl" {
        cluster.lab.node(from).check(&format!("xl migrate dom3 {to}"), MIGRATION)?;
        return Ok(());
    }
    let report = cluster.migrate(from, &format!("--mpi-quiesce={way} dom3 {to}"))?;
    row.downtimes.push(number(&report, "/downtime")?);
    if way == "off" {
        ensure!(report.get("mpi").is_none(), "{report}");
        return Ok(());
    }
    let mpi = &report["mpi"];
    println!("  {way}: {}", figures(mpi));
    row.pauses.push(number(mpi, "/application-pause")?);
    row.flushes.push(number(mpi, "/flush")?);
    ensure!(mpi["problem"].is_null(), "{mpi}");
    ensure!(
        number(mpi, "/application-pause")? > number(&report, "/downtime")?,
        "the pause holds the blackout: {report}"
    );
    let domains = mpi["domains"].as_array().map_or(0, Vec::len);
    ensure!(domains == if way == "domain" { 1 } else { 2 }, "{mpi}");
    if way == "job" { check_cut(mpi) } else { Ok(()) }
}

/// The report's `mpi` part, in a line.
pub fn figures(mpi: &Value) -> String {
    format!(
        "prepare {} ms, freeze {} ms, flush {} ms, resume {} ms, thaw {} ms, pause {} ms, {} in flight, {} agree, {} retransmits",
        mpi["prepare"],
        mpi["freeze"],
        mpi["flush"],
        mpi["resume"],
        mpi["thaw"],
        mpi["application-pause"],
        mpi["unacked"],
        mpi["connections-agreed"],
        mpi["retransmits"],
    )
}

/// All ranks stood still, so each connection was seen from both its ends. What a full receive queue has dropped, and found no
/// room for in time, makes the cut unclean, and the report has to say so in every figure.
pub fn check_cut(mpi: &Value) -> Result<()> {
    let (agreed, disagreed) = (number(mpi, "/connections-agreed")?, number(mpi, "/connections-disagreed")?);
    ensure!(agreed + disagreed > 0.0 && mpi["connections-one-ended"] == 0, "{mpi}");
    if mpi["clean"] == true {
        ensure!(disagreed == 0.0 && mpi["unacked"] == 0, "{mpi}");
        ensure!(mpi["retransmits"] == 0, "retransmitted between cut and thaw: {mpi}");
        return Ok(());
    }
    println!("  the cut is unclean: {} bytes in flight, {} unread", mpi["unacked"], mpi["unread"]);
    ensure!(number(mpi, "/unacked")? > 0.0 && number(mpi, "/unread")? > 0.0, "{mpi}");
    Ok(())
}

/// Rank 0 in dom4, reached through one of the hosts; its progress says that messages flow.
pub fn start_job(cluster: &Cluster, via: Node, seconds: usize) -> Result<RemoteProcess> {
    let launcher = cluster.lab.guest_via("dom4", via)?;
    launcher.check(&format!("rm -f {STOP}"), COMMAND)?;
    let mut job = launcher.spawn(&format!("mpirun --host dom4,dom3 -np 2 mpi-audit {seconds} --until {STOP}"))?;
    job.wait_for_stdout("progress", Duration::from_secs(180)).context("the job does not start")?;
    Ok(job)
}

/// Ends the job: nothing was lost, doubled, reordered or damaged.
pub fn summary(cluster: &Cluster, mut job: RemoteProcess) -> Result<Value> {
    cluster.lab.guest("dom4")?.check(&format!("touch {STOP}"), COMMAND)?;
    let output = job.wait(MIGRATION * 3)?;
    ensure!(output.success(), "the job failed: {} {}", output.stdout, output.stderr);
    let last = output.stdout.lines().last().context("the job said nothing")?;
    let saw: Value = serde_json::from_str(last).with_context(|| format!("not a summary: {last}"))?;
    println!(
        "  job: {} messages received of {} sent, {} lost, {} duplicated, {} reordered, {} corrupt, {} iterations",
        saw["received"],
        saw["sent"],
        saw["lost"],
        saw["duplicated"],
        saw["reordered"],
        saw["corrupt"],
        saw["iterations"]
    );
    let sum: u64 = ["lost", "duplicated", "reordered", "corrupt"].iter().filter_map(|what| saw[*what].as_u64()).sum();
    ensure!(sum == 0 && saw["received"].as_u64() > Some(0), "{last}");
    Ok(saw)
}

/// Segments that both guests have retransmitted since they booted.
fn retransmitted(cluster: &Cluster) -> Result<u64> {
    let count = "awk '/^Tcp:/ {value = $13} END {print value}' /proc/net/snmp";
    let of = |guest: &str| -> Result<u64> {
        let said = cluster.lab.guest(guest)?.check(count, COMMAND * 2)?;
        said.stdout.trim().parse().with_context(|| format!("retransmissions of {guest}: {}", said.stdout))
    };
    Ok(of("dom3")? + of("dom4")?)
}

/// Up to 3 s, so that migrations meet the job in any of its phases.
pub fn some_moment() -> Duration {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    Duration::from_millis(u64::from(nanos / 1000) % 3000)
}

/// The agent of a domain says one of these words.
pub fn wait_for_state(cluster: &Cluster, node: Node, guest: &str, states: &str) -> Result<()> {
    let domid = cluster.domid(node, guest)?.with_context(|| format!("{guest} is not on {node}"))?;
    let read = format!("xenstore-read /local/domain/{domid}/data/rxl/state");
    let poll =
        format!("for i in $(seq 2000); do {read} | grep -qE ' ({states}) ' && exit 0; sleep 0.1; done; {read}; exit 1");
    cluster.lab.node(node).check(&poll, MIGRATION).map(drop)
}

/// rxl dies while the ranks stand still: they run again when their lease ends, and nobody has lost anything.
pub fn a_coordinator_killed_while_frozen(cluster: &Cluster) -> Result<()> {
    prepare(cluster)?;
    let job = start_job(cluster, Node::B, 240)?;
    let source = cluster.lab.node(Node::A);

    // Without the agent of the rank that stays, `require` begins nothing.
    cluster.lab.guest("dom4")?.check("systemctl stop rxl-guest-agent", COMMAND)?;
    let (code, said) = cluster.migrate_fails(Node::A, "--mpi-quiesce=require dom3 nodeB")?;
    println!("  {code}: {said}");
    ensure!(code == 11 && said.contains("2 ranks") && said.contains("cluster.toml"), "{code}: {said}");
    cluster.check_clean("dom3", Node::A)?;
    cluster.lab.guest("dom4")?.check("systemctl start rxl-guest-agent", COMMAND)?;

    let mut migration = source.spawn("exec rxl migrate --progress none --mpi-quiesce dom3 nodeB")?;
    wait_for_state(cluster, Node::B, "dom4", "frozen|flushed").context("the job is not frozen")?;
    source.check("pkill -KILL -x rxl", COMMAND)?;
    let killed = Instant::now();
    migration.wait(MIGRATION)?;
    for (node, guest) in [(Node::A, "dom3"), (Node::B, "dom4")] {
        wait_for_state(cluster, node, guest, "expired")?;
    }
    println!("  both ranks ran again {:.1} s after the coordinator was killed", killed.elapsed().as_secs_f64());
    cluster.wait_until(Node::B, "! pgrep -x 'rxl|rxl-guard' >/dev/null")?;
    source.check("rxl status", COMMAND)?;
    cluster.check_clean("dom3", Node::A)?;
    summary(cluster, job).map(drop)
}

/// A rank's domain is saved while its job stands still, first to run on and then to come back from its file. The job runs on
/// over all of it.
pub fn a_rank_saved_to_a_file_and_restored(cluster: &Cluster) -> Result<()> {
    const FILE: &str = "/var/tmp/dom3.save";
    prepare(cluster)?;
    cluster.name_hosts(Node::A)?;
    let job = start_job(cluster, Node::B, 400)?;
    let source = cluster.lab.node(Node::A);
    for then in ["-c", ""] {
        let begun = Instant::now();
        let said = source.check(&format!("rxl save {then} --mpi-quiesce=require dom3 {FILE}"), MIGRATION)?.stdout;
        println!("  save {then}: {:.1} s: {}", begun.elapsed().as_secs_f64(), said.trim());
        ensure!(said.contains("connections agree at both ends") && said.contains("application pause"), "{said}");
        ensure!(cluster.domid(Node::A, "dom3")?.is_some() == (then == "-c"), "{then}: dom3");
    }
    let begun = Instant::now();
    source.check(&format!("rxl restore {FILE} && rm {FILE}"), MIGRATION)?;
    wait_for_state(cluster, Node::A, "dom3", "finished")?;
    println!("  restored, and its ranks ran again: {:.1} s", begun.elapsed().as_secs_f64());
    summary(cluster, job)?;
    cluster.check_clean("dom3", Node::A)
}
