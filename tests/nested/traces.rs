//! Dirty traces of a guest at several rates, for the policy to be replayed on: `tests/traces`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rxl_lab::{Node, guest};
use serde_json::{Value, json};

use crate::cluster::{COMMAND, Cluster, number};
use crate::survival::check_memory;

/// Pages that the memory checker writes in a second, of the 6,144 that it has.
const RATES: [u32; 5] = [50, 400, 1500, 5000, 20000];

/// RXL_TRACES: the folder that takes them, if they are to be kept. With so low a limit pre-copy goes on for as long as it
/// brings anything, so each trace is whole for every limit that a user would ask for.
pub fn dirty_traces_at_several_rates(cluster: &Cluster) -> Result<()> {
    let folder = std::env::var_os("RXL_TRACES");
    for rate in RATES {
        restart(cluster, rate)?;
        let mut probe = cluster.lab.watch_memcheck(Node::B, guest("small")?.ip)?;
        check_memory(&mut probe, &format!("at {rate} pages a second"))?;
        let report = cluster.migrate(Node::A, "--downtime-limit 1 small nodeB")?;
        let judged = report["precopy"]["judged"].as_array().context("judged")?;
        ensure!(!judged.is_empty() && report["precopy"]["stopped"].is_string(), "{report}");
        for pass in judged {
            let rate = pass["pages-per-second"].as_f64().unwrap_or(f64::NAN);
            println!("  after pass {}: {} dirty, {rate:.0} pages/s", pass["rounds"], pass["dirty-pages"]);
        }
        println!("  {}, downtime {:.0} ms", report["precopy"]["stopped"], number(&report, "/downtime")?);
        check_memory(&mut probe, "after the move")?;
        if let Some(folder) = &folder {
            let trace = json!({ "rate": rate, "downtime": report["downtime"], "judged": judged });
            keep(Path::new(folder), rate, &trace)?;
        }
        cluster.lab.node(Node::B).check("xl destroy small", COMMAND)?;
    }
    Ok(())
}

/// The small guest anew, with a memory checker that dirties so fast.
fn restart(cluster: &Cluster, rate: u32) -> Result<()> {
    let change = format!("xl destroy small; sed -i 's/--rate=[0-9]*/--rate={rate}/' /etc/xen/small.cfg");
    cluster.lab.node(Node::A).check(&change, COMMAND)?;
    cluster.lab.create(Node::A, "small", COMMAND * 2)
}

fn keep(folder: &Path, rate: u32, trace: &Value) -> Result<()> {
    let file = folder.join(format!("small-{rate}.json"));
    std::fs::write(&file, format!("{trace:#}\n")).with_context(|| file.display().to_string())
}
