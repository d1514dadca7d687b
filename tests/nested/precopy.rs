//! rxl's own pre-copy: who walks, when it ends, what it tells, and what is left when its parts die.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{COMMAND, Cluster, MIGRATION, failed, number};
use crate::failures::{check_recovered, wait_for_no_process, wait_for_precopy, watch_small};
use crate::survival::check_memory;
use rxl_lab::{Node, guest};

/// The report's passes are those that were judged, and hold as many page numbers as were dirty;
/// with each walker.
pub fn rounds_are_what_was_sent(cluster: &Cluster) -> Result<()> {
    let mut probe = cluster.lab.watch_memcheck(Node::B, guest("small")?.ip)?;
    for (walker, from) in [("libxc", Node::A), ("rxl", Node::B)] {
        let command = format!(
            "RXL_LOG=rxl=debug rxl migrate --json --progress none --walker {walker} small {}",
            from.other()
        );
        let output = cluster.lab.node(from).check(&command, MIGRATION)?;
        let report: Value = serde_json::from_str(&output.stdout)?;
        ensure!(report["precopy"]["walker"] == walker, "{report}");
        let rounds = report["rounds"].as_array().context("rounds")?;
        let judged: Vec<u64> = output.stderr.lines().filter_map(dirty_in_log).collect();
        println!("  {walker}: judged {judged:?}, {}", summary(rounds));
        ensure!(
            !judged.is_empty() && judged.len() + 1 == rounds.len() - usize::from(walker == "libxc"),
            "{judged:?}"
        );
        for (round, dirty) in rounds[1..].iter().zip(&judged) {
            // libxc sends what was judged before it suspends; rxl adds it to the last pass.
            let sent = round["pfns"].as_u64().context("pfns")?;
            let last = round["suspended"] == true;
            ensure!(if last { sent >= *dirty } else { sent == *dirty }, "{dirty} judged, {round}");
        }
        for round in rounds.iter().filter(|round| walker == "rxl" || round["iteration"] != 0) {
            ensure!(round["pfns"] == round["dirty-pages"], "{round}");
        }
        check_memory(&mut probe, &format!("after a walk by {walker}"))?;
        cluster.check_clean("small", from.other())?;
    }
    Ok(())
}

fn dirty_in_log(line: &str) -> Option<u64> {
    let after = line.split_once("Measured { iterations")?.1.split_once("dirty: ")?.1;
    after.split_once(',')?.0.parse().ok()
}

fn summary(rounds: &[Value]) -> String {
    let row = |round: &Value| format!("{} of {}", round["pfns"], round["dirty-pages"]);
    rounds.iter().map(row).collect::<Vec<_>>().join(", ")
}

/// A link of 8 Mbit/s carries less than the memory checker dirties.
pub fn a_guest_that_dirties_faster_than_the_link(cluster: &Cluster) -> Result<()> {
    let source = cluster.lab.node(Node::A);
    source.check("tc qdisc add dev eth1 root tbf rate 8mbit burst 64kb latency 400ms", COMMAND)?;
    let mut probe = cluster.lab.watch_memcheck(Node::A, guest("small")?.ip)?;

    let begun = Instant::now();
    let (code, said) = cluster.migrate_fails(Node::A, "--timeout 20 small nodeB")?;
    let took = begun.elapsed();
    println!("  --on-timeout cancel: {:.1} s: {code}: {said}", took.as_secs_f64());
    ensure!(
        code == 12 && said.contains("runs on here") && took < Duration::from_secs(60),
        "{took:?} {said}"
    );
    check_memory(&mut probe, "after the cancel")?;
    cluster.wait_until(Node::B, "! pgrep -x 'rxl|rxl-guard' >/dev/null")?;
    cluster.check_clean("small", Node::A)?;

    let (code, said) =
        cluster.migrate_fails(Node::A, "--abort-if-busy --max-rounds 1 small nodeB")?;
    println!("  --abort-if-busy: {code}: {said}");
    ensure!(code == 12 && said.contains("--max-rounds"), "{said}");

    let report = cluster.migrate(Node::A, "--timeout 15 --on-timeout force small nodeB")?;
    let live: f64 = number(&report, "/total-time")? - number(&report, "/downtime")?;
    println!(
        "  --on-timeout force: {:.1} s live, {:.1} s down",
        live / 1e3,
        number(&report, "/downtime")? / 1e3
    );
    ensure!(live < 60e3, "pre-copy went on after its timeout: {report}");
    check_memory(&mut probe, "after it was forced")?;
    cluster.check_clean("small", Node::B)
}

/// A stock xl that is told of our helper, to a stock xl.
pub fn stock_xl_with_our_helper(cluster: &Cluster) -> Result<()> {
    let mut probe = cluster.lab.watch_memcheck(Node::B, guest("small")?.ip)?;
    let with = "LIBXL_SAVE_HELPER=/usr/bin/rxl-save-helper RXL_DOWNTIME_LIMIT=2000 \
                RXL_SAVE_REPORT=/root/save.json";
    let (from, to) = cluster.way_of("small")?;
    let source = cluster.lab.node(from);
    source.check(&format!("{with} xl migrate small {to}"), MIGRATION)?;
    let report = source.check("cat /root/save.json", COMMAND)?;
    println!("  {}", report.stdout.split_whitespace().collect::<String>());
    let report: Value = serde_json::from_str(&report.stdout)?;
    ensure!(report["rounds"].as_array().is_some_and(|rounds| !rounds.is_empty()), "{report}");
    ensure!(report["stopped"].is_string() && report["suspended"].is_number(), "{report}");
    check_memory(&mut probe, "moved by xl with our helper")?;
    cluster.check_clean("small", to)
}

/// Kills something on the source in pre-copy; the guest runs on, and nothing is left but what the
/// next rxl sweeps.
fn killed_in_precopy(cluster: &Cluster, what: &str, code: Option<i32>) -> Result<()> {
    let source = cluster.lab.node(Node::A);
    let mut migration = source.spawn("exec rxl migrate --progress none small nodeB")?;
    wait_for_precopy(cluster, &mut migration)?;
    source.check(&format!("pkill -KILL -x {what}"), COMMAND)?;
    let output = migration.wait(MIGRATION)?;
    println!("  {what} killed: {}: {}", output.status, output.stderr.trim());
    ensure!(code.is_none_or(|code| output.status == code), "{}", output.stderr);
    for node in Node::PAIR {
        wait_for_no_process(cluster, node)?;
        cluster.lab.node(node).check("rxl status", COMMAND)?;
    }
    cluster.check_clean("small", Node::A)
}

pub fn helper_and_rxl_killed(cluster: &Cluster) -> Result<()> {
    let mut probe = watch_small(cluster)?;
    cluster.on_a_slow_link(|| {
        killed_in_precopy(cluster, "rxl-save-helper", Some(11))?;
        killed_in_precopy(cluster, "rxl", None)
    })?;
    check_recovered(cluster, &mut probe, "after the helper and rxl were killed")
}

/// A migration is looked at and cancelled by other processes than the one that runs it.
pub fn status_and_cancel(cluster: &Cluster) -> Result<()> {
    let source = cluster.lab.node(Node::A);
    let mut probe = watch_small(cluster)?;
    let idle = source.check("rxl status", COMMAND)?;
    ensure!(idle.stdout.contains("no migration"), "{}", idle.stdout);
    cluster.on_a_slow_link(|| {
        let mut migration = source.spawn("rxl migrate --progress none small nodeB")?;
        wait_for_precopy(cluster, &mut migration)?;
        let shown = source.check("rxl status; rxl status --json", COMMAND)?.stdout;
        let (line, json) = shown.split_once('\n').context("a line")?;
        println!("  {line}");
        let list: Value = serde_json::from_str(json)?;
        ensure!(list[0]["domain"] == "small" && list[0]["state"] == "precopy", "{shown}");
        ensure!(line.contains("precopy"), "{shown}");
        source.check("rxl cancel small", COMMAND)?;
        let (code, said) = failed(&migration.wait(MIGRATION)?)?;
        println!("  {code}: {said}");
        ensure!(code == 12 && said.contains("runs on here"), "{said}");
        Ok(())
    })?;
    let (code, said) = failed(&source.run("rxl cancel small", COMMAND)?)?;
    ensure!(code == 4 && said.contains("not being migrated"), "{said}");
    check_recovered(cluster, &mut probe, "after the cancel")
}

/// RXL_ROUND_TRIPS: there and back so often, with a guest that dirties its memory. Nothing piles up
/// on either host.
pub fn to_and_fro_without_a_leak(cluster: &Cluster) -> Result<()> {
    let trips: usize = std::env::var("RXL_ROUND_TRIPS").map_or(Ok(1), |trips| trips.parse())?;
    let mut probe = cluster.lab.watch_memcheck(Node::B, guest("small")?.ip)?;
    // The first trip leaves rxl's watcher where xl's was, and the domain's mark.
    let mut before = None;
    for trip in 0..=trips {
        for from in Node::PAIR {
            cluster.migrate(from, &format!("small {}", from.other()))?;
        }
        check_memory(&mut probe, &format!("after {} migrations", 2 * (trip + 1)))?;
        let now = [kept(cluster, Node::A)?, kept(cluster, Node::B)?];
        println!("  kept: {now:?}");
        let before = before.get_or_insert_with(|| now.clone());
        ensure!(*before == now, "before: {before:?}, now: {now:?}");
    }
    cluster.check_clean("small", Node::A)
}

/// What a host keeps: domains, xenstore nodes that hold no number of a domain, processes of ours,
/// Xen's free memory in 4 MiB.
fn kept(cluster: &Cluster, node: Node) -> Result<String> {
    let count = "xl list | tail -n +2 | wc -l; xenstore-ls -f | sed 's/[0-9]*//g' | sort -u | wc \
                 -l; pgrep -c 'rxl|save-help' ; ls /run/rxl | grep -vc lock; xl info | awk \
                 '/free_memory/ {print int($3/4)}'";
    let said = cluster.lab.node(node).run(count, COMMAND)?.stdout;
    Ok(said.split_whitespace().collect::<Vec<_>>().join(" "))
}
