//! A job of eight ranks in four domUs, two in each, which verifies its own results: hpcc, as Debian
//! builds it. One of the domUs moves with `--mpi-quiesce=require`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::{COMMAND, Cluster, MIGRATION};
use crate::hpcc_words as hpcc;
use crate::quiesce::{check_cut, figures, prepare};
use rxl_lab::{Node, RemoteProcess};

/// More guests of dom3's kind: name, host, last number of the address.
const MORE: [(&str, Node, u32); 2] = [("dom5", Node::A, 15), ("dom6", Node::B, 16)];

/// Where hpcc and what it needs are put in each guest.
const DIRECTORY: &str = "/root/hpcc";

/// What of the machine that runs the lab hpcc needs in a guest.
const FILES: [&str; 2] = ["/usr/bin/hpcc", "/usr/lib/x86_64-linux-gnu/libblas.so.3"];

/// Eight ranks share two emulated processors with two hypervisors.
const LONGEST: Duration = Duration::from_secs(2400);

pub fn eight_ranks_in_four_domains(cluster: &Cluster) -> Result<()> {
    prepare(cluster)?;
    for (name, node, number) in MORE {
        create(cluster, name, node, number)?;
    }
    install(cluster)?;
    cluster.lab.on_each(|node| cluster.name_hosts(node))?;
    let begun = Instant::now();
    let job = start(cluster)?;
    await_section(cluster, 1)?;
    // By its address: cluster.toml has the same host by its name.
    let report = cluster.migrate(Node::A, "--mpi-quiesce=require dom3 10.77.0.2")?;
    let mpi = &report["mpi"];
    println!("  dom3: {} ms down; {}", report["downtime"], figures(mpi));
    ensure!(report["status"] == "completed" && mpi["problem"].is_null(), "{report}");
    ensure!(mpi["size"] == 8, "{mpi}");
    let domains = mpi["domains"].as_array().context("domains")?;
    let two = |domain: &serde_json::Value| domain["ranks"].as_array().map(Vec::len) == Some(2);
    ensure!(domains.len() == 4 && domains.iter().all(two), "{mpi}");
    check_cut(mpi)?;
    cluster.check_clean("dom3", Node::B)?;
    verify(cluster, job)?;
    println!("  hpcc took {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Boots another guest like dom3, with an agent.
fn create(cluster: &Cluster, name: &str, node: Node, number: u32) -> Result<()> {
    let host = cluster.lab.node(node);
    let config = format!(
        "sed 's/dom3/{name}/g; s/10\\.77\\.0\\.13/10.77.0.{number}/; s/77:00:13/77:00:{number}/' \
         /etc/xen/dom3.cfg >/etc/xen/{name}.cfg && xl create /etc/xen/{name}.cfg"
    );
    host.check(&config, MIGRATION)?;
    let up =
        format!("until {} systemctl is-system-running --wait; do sleep 1; done", shell_of(number));
    host.check(&up, MIGRATION * 2).with_context(|| format!("{name} is not up"))?;
    let agent = format!(
        "ssh dom4 cat /root/agent.deb | {} 'cat >/root/agent.deb && dpkg --install --force-depends \
         /root/agent.deb && systemctl is-active rxl-guest-agent'",
        shell_of(number)
    );
    host.check(&agent, COMMAND * 3).map(drop)
}

fn shell_of(number: u32) -> String {
    format!("ssh -o ConnectTimeout=10 10.77.0.{number}")
}

/// Puts hpcc into dom4, and from there into the others.
fn install(cluster: &Cluster) -> Result<()> {
    let dom4 = cluster.lab.guest("dom4")?;
    dom4.check(&format!("mkdir -p {DIRECTORY}"), COMMAND)?;
    for file in FILES {
        let from = fs::canonicalize(file).context("hpcc: `make deps` installs it")?;
        let name = Path::new(file).file_name().and_then(|name| name.to_str()).context("a name")?;
        dom4.put(&from, &format!("{DIRECTORY}/{name}"), COMMAND * 2)?;
    }
    dom4.write(&format!("{DIRECTORY}/hpccinf.txt"), hpcc::input()?.as_bytes(), COMMAND)?;
    let copy = "for number in 13 15 16; do tar -C /root -c hpcc | ssh 10.77.0.$number tar -C /root \
                -x || exit 1; done";
    dom4.check(copy, COMMAND * 4).map(drop)
}

fn start(cluster: &Cluster) -> Result<RemoteProcess> {
    let hosts = [14, 13, 15, 16].map(|number| format!("10.77.0.{number}:2")).join(",");
    let command = format!(
        "cd {DIRECTORY} && mpirun --host {hosts} -np 8 --oversubscribe --mca btl tcp,vader,self \
         --mca mpi_yield_when_idle 1 -x LD_LIBRARY_PATH={DIRECTORY} {DIRECTORY}/hpcc"
    );
    cluster.lab.guest_via("dom4", Node::B)?.spawn(&command)
}

/// Waits until so many of hpcc's kernels have begun.
fn await_section(cluster: &Cluster, sections: u32) -> Result<()> {
    let begun = format!(
        "for i in $(seq 380); do [ \"$(grep -c 'Begin of' {DIRECTORY}/hpccoutf.txt 2>/dev/null)\" \
         -ge {sections} ] && exit 0; sleep 1; done; cat {DIRECTORY}/hpccoutf.txt; exit 1"
    );
    cluster.lab.guest("dom4")?.check(&begun, MIGRATION).context("hpcc does not begin").map(drop)
}

/// Waits for the end of hpcc; every kernel must have verified its result.
fn verify(cluster: &Cluster, mut job: RemoteProcess) -> Result<()> {
    let output = job.wait(LONGEST)?;
    let said =
        cluster.lab.guest("dom4")?.check(&format!("cat {DIRECTORY}/hpccoutf.txt"), COMMAND)?.stdout;
    ensure!(output.success(), "hpcc: {} {}\n{said}", output.stdout, output.stderr);
    println!("  {}", hpcc::verify(&said)?);
    Ok(())
}
