//! Dirty traces of a guest at several rates, for the policy to be replayed on: `tests/traces`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::{COMMAND, Cluster, number};
use crate::survival::check_memory;
use rxl_lab::{Node, guest};

/// Pages that the memory checker writes in a second, of the 6,144 that it has, and the link in
/// Mbit/s where it is not the lab's own.
const CASES: [(u32, Option<u32>); 6] =
    [(50, None), (400, None), (1500, None), (20000, None), (200, Some(8)), (1500, Some(8))];

/// RXL_TRACES: the folder that takes them, if they are to be kept. With so low a limit pre-copy
/// goes on for as long as it brings anything, so each trace is whole for every limit that a user
/// would ask for.
pub fn dirty_traces_at_several_rates(cluster: &Cluster) -> Result<()> {
    let folder = std::env::var_os("RXL_TRACES");
    for (rate, link) in CASES {
        let trace = record(cluster, rate, link)?;
        if let Some(folder) = &folder {
            keep(Path::new(folder), &trace)?;
        }
    }
    Ok(())
}

fn record(cluster: &Cluster, rate: u32, link: Option<u32>) -> Result<Value> {
    restart(cluster, rate)?;
    let source = cluster.lab.node(Node::A);
    if let Some(mbit) = link {
        let limit =
            format!("tc qdisc replace dev eth1 root tbf rate {mbit}mbit burst 64kb latency 400ms");
        source.check(&limit, COMMAND)?;
    }
    let mut probe = cluster.lab.watch_memcheck(Node::A, guest("small")?.ip)?;
    check_memory(&mut probe, &format!("at {rate} pages a second"))?;
    let report = cluster.migrate(Node::A, "--downtime-limit 1 small nodeB")?;
    let judged = report["precopy"]["judged"].as_array().context("judged")?;
    ensure!(!judged.is_empty() && report["precopy"]["stopped"].is_string(), "{report}");
    for pass in judged {
        let rate = pass["pages-per-second"].as_f64().unwrap_or(f64::NAN);
        println!(
            "  after pass {}: {} dirty, {rate:.0} pages/s",
            pass["rounds"], pass["dirty-pages"]
        );
    }
    println!(
        "  {}, downtime {:.0} ms",
        report["precopy"]["stopped"],
        number(&report, "/downtime")?
    );
    check_memory(&mut probe, "after the move")?;
    cluster.lab.node(Node::B).check("xl destroy small", COMMAND)?;
    Ok(json!({ "rate": rate, "link-mbit": link, "downtime": report["downtime"], "judged": judged }))
}

/// The small guest anew, with a memory checker that dirties so fast.
fn restart(cluster: &Cluster, rate: u32) -> Result<()> {
    let change =
        format!("xl destroy small; sed -i 's/--rate=[0-9]*/--rate={rate}/' /etc/xen/small.cfg");
    cluster.lab.node(Node::A).check(&change, COMMAND)?;
    cluster.lab.create(Node::A, "small", COMMAND * 2)
}

fn keep(folder: &Path, trace: &Value) -> Result<()> {
    let link = trace["link-mbit"].as_u64().map_or_else(String::new, |mbit| format!("-{mbit}mbit"));
    let file = folder.join(format!("small-{}{link}.json", trace["rate"]));
    std::fs::write(&file, format!("{trace:#}\n")).with_context(|| file.display().to_string())
}
