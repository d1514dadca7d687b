//! Both domains of a job, moved from one host in one epoch, to one host and to two.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{COMMAND, Cluster, MIGRATION, failed, number};
use crate::quiesce::{
    check_cut, figures, prepare, some_moment, start_job, summary, wait_for_state,
};
use rxl_lab::Node;

const GANG: [&str; 2] = ["dom3", "dom4"];

/// Brings both to one host, dom3's, where an earlier scenario has not left them there.
fn together(cluster: &Cluster) -> Result<Node> {
    prepare(cluster)?;
    let [home, other] = [cluster.home_of("dom3")?, cluster.home_of("dom4")?];
    if home != other {
        let report = cluster.migrate(other, &format!("dom4 {home}"))?;
        println!("  dom4 to {home} alone: total {:.1} s", number(&report, "/total-time")? / 1e3);
        cluster.check_clean("dom4", home)?;
    }
    Ok(home)
}

pub fn two_domains_of_a_job_move_together(cluster: &Cluster) -> Result<()> {
    let from = together(cluster)?;
    let to = from.other();
    let dry = cluster
        .lab
        .node(from)
        .check(&format!("rxl migrate --dry-run dom3 dom4 {to} --mpi-quiesce"), MIGRATION)?;
    ensure!(dry.stderr.matches("every check passed").count() == 2, "{}", dry.stderr);
    moved(cluster, from, &format!("dom3 dom4 {to}"), [to, to])?;
    check_found_from(cluster, from, [to, to])
}

pub fn two_domains_of_a_job_move_to_two_hosts(cluster: &Cluster) -> Result<()> {
    let from = together(cluster)?;
    ensure!(from == Node::A, "the snapshot has dom3 on nodeA");
    moved(cluster, from, "dom3:nodeB dom4:nodeC", [Node::B, Node::C])?;
    check_found_from(cluster, from, [Node::B, Node::C])
}

/// Moves both while their job runs, which is then ended and audited.
fn moved(cluster: &Cluster, from: Node, arguments: &str, homes: [Node; 2]) -> Result<()> {
    let mut job = start_job(cluster, Node::B)?;
    std::thread::sleep(some_moment());
    let begun = Instant::now();
    let all = cluster.migrate(from, &format!("{arguments} --mpi-quiesce"))?;
    println!("  {arguments}: {:.1} s in all", begun.elapsed().as_secs_f64());
    ensure!(job.is_running()?, "the job ended before the migration did: {}", job.stdout());
    check_reports(&all)?;
    GANG.into_iter().zip(homes).try_for_each(|(name, home)| cluster.check_clean(name, home))?;
    summary(cluster, job).map(drop)
}

/// A report for each, of one epoch.
fn check_reports(all: &Value) -> Result<()> {
    let reports = all["migrations"].as_array().context("migrations")?;
    ensure!(reports.len() == GANG.len(), "{all}");
    for report in reports {
        tell(report)?;
        let mpi = &report["mpi"];
        ensure!(report["status"] == "completed" && mpi["problem"].is_null(), "{report}");
        ensure!(mpi["gang"] == serde_json::json!(GANG), "{mpi}");
        ensure!(number(mpi, "/application-pause")? > number(report, "/downtime")?, "{report}");
        check_cut(mpi)?;
    }
    ensure!(reports[0]["mpi"] == reports[1]["mpi"], "one epoch, the same figures: {all}");
    Ok(())
}

/// `rxl jobs` on a host that has none of them sees both, where they are.
fn check_found_from(cluster: &Cluster, seer: Node, homes: [Node; 2]) -> Result<()> {
    cluster.name_hosts(seer)?;
    let shown = cluster.lab.node(seer).check("rxl jobs --json", MIGRATION)?.stdout;
    let domains: Vec<Value> =
        serde_json::from_str(&shown).with_context(|| format!("not JSON: {shown}"))?;
    let is_there = |(name, home): (&str, Node)| {
        domains.iter().any(|domain| domain["domain"] == name && domain["host"] == home.name())
    };
    ensure!(GANG.into_iter().zip(homes).all(is_there), "not {homes:?}: {shown}");
    Ok(())
}

fn tell(report: &Value) -> Result<()> {
    println!(
        "  {}: total {:.1} s, downtime {:.1} s, {} rounds; epoch {}: {}",
        report["domain"]["name"],
        number(report, "/total-time")? / 1e3,
        number(report, "/downtime")? / 1e3,
        report["ram"]["dirty-sync-count"],
        report["mpi"]["epoch"],
        figures(&report["mpi"]),
    );
    Ok(())
}

/// The targets die while the job stands still; then the leader is killed during pre-copy. Both
/// times the job runs on where it was.
pub fn what_fails_before_go_leaves_both_at_home(cluster: &Cluster) -> Result<()> {
    let home = together(cluster)?;
    ensure!(home == Node::A, "{home}, where nodeA was asked for");
    let job = start_job(cluster, Node::B)?;
    let (source, target) = (cluster.lab.node(Node::A), cluster.lab.node(Node::B));
    let command = "exec rxl migrate --progress none --mpi-quiesce dom3 dom4 nodeB";

    let mut migration = source.spawn(command)?;
    wait_for_state(cluster, Node::A, "dom4", "frozen|flushed").context("the job is not frozen")?;
    target.check("pkill -KILL -x rxl", COMMAND)?;
    let killed = Instant::now();
    let (code, said) = failed(&migration.wait(MIGRATION)?)?;
    println!("  targets killed: {code} after {:.1} s: {said}", killed.elapsed().as_secs_f64());
    ensure!(code == 11 && said.matches("runs on here").count() == GANG.len(), "{code}: {said}");
    at_home(cluster)?;

    let mut migration = source.spawn(command)?;
    cluster.wait_until(Node::A, "rxl status dom4 2>/dev/null | grep -q 'round 0'")?;
    // The oldest of them is the one that was started here.
    source.check("kill -KILL $(pgrep -o -x rxl)", COMMAND)?;
    let killed = Instant::now();
    migration.wait(MIGRATION)?;
    cluster.wait_until(Node::A, "! pgrep -x 'rxl|rxl-guard' >/dev/null")?;
    println!(
        "  leader killed: its members have ended after {:.1} s",
        killed.elapsed().as_secs_f64()
    );
    at_home(cluster)?;
    summary(cluster, job).map(drop)
}

/// Both run on nodeA, their ranks with them. A copy that was whole when its receiver was killed is
/// kept.
fn at_home(cluster: &Cluster) -> Result<()> {
    for name in GANG {
        wait_for_state(cluster, Node::A, name, "finished|expired|surveyed|thawed")?;
    }
    cluster.wait_until(Node::B, "! pgrep -x 'rxl|rxl-guard' >/dev/null")?;
    let left = "for name in dom3 dom4; do xl destroy $name--incoming; done";
    cluster.lab.node(Node::B).run(left, COMMAND)?;
    GANG.iter().try_for_each(|name| cluster.check_clean(name, Node::A))
}
