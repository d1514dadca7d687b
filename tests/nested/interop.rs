//! rxl on one host, and nothing but stock xl on the other.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{COMMAND, Cluster, MIGRATION, failed, number};
use crate::failures::{check_recovered, wait_for_no_process, wait_for_precopy, watch_small};
use crate::mpi::RING;
use crate::survival::check_memory;
use rxl_lab::{Node, guest};

/// Longer than a migration of all of dom3's memory, zeroes and all, under emulation.
const RING_SECONDS: u32 = 240;

/// Stock `xl migrate` of `small`, which must succeed. Returns what it said.
fn xl_migrate(cluster: &Cluster, from: Node, arguments: &str) -> Result<String> {
    let begun = Instant::now();
    let output = cluster.lab.node(from).check(&format!("xl {arguments}"), MIGRATION)?;
    println!("  {from}: xl {arguments}: {:.1} s", begun.elapsed().as_secs_f64());
    Ok(output.stderr)
}

/// By its own name, and in xl's place.
pub fn stock_xl_sends_to_rxl(cluster: &Cluster) -> Result<()> {
    let mut probe = cluster.lab.watch_memcheck(Node::B, guest("small")?.ip)?;
    xl_migrate(cluster, Node::A, "migrate -s '' small 'ssh nodeB rxl migrate-receive'")?;
    check_memory(&mut probe, "from xl to rxl")?;
    cluster.check_clean("small", Node::B)?;

    let wrapper = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/xl-wrapper.sh");
    cluster.lab.install(&[(&wrapper, "/usr/local/sbin/xl")])?;
    let said = xl_migrate(cluster, Node::B, "-v migrate -p small nodeA")?;
    ensure!(said.contains("receiving small over xl's protocol"), "rxl did not receive it: {said}");
    let paused = cluster.lab.domains(Node::A)?.into_iter().find(|domain| domain.name == "small");
    ensure!(
        paused.as_ref().is_some_and(|domain| domain.state.contains('p')),
        "-p leaves it paused: {paused:?}"
    );
    cluster.lab.node(Node::A).check("xl unpause small", COMMAND)?;
    check_memory(&mut probe, "from xl to rxl in xl's place")?;
    cluster.check_clean("small", Node::A)
}

/// A host with rxl, and one that has never heard of it: there, and back by that one's own `xl
/// migrate`.
pub fn to_a_host_with_xl_alone_and_back(cluster: &Cluster) -> Result<()> {
    cluster.lab.node(Node::B).check("rm /usr/bin/rxl /usr/bin/rxl-save-helper", COMMAND)?;
    let mut probe = cluster.lab.watch_memcheck(Node::B, guest("small")?.ip)?;
    check_memory(&mut probe, "before")?;
    let (code, said) = cluster.migrate_fails(Node::A, "small nodeB")?;
    println!("  {code}: {said}");
    ensure!(code == 9 && said.contains("--peer xl") && said.lines().count() == 1, "{code}: {said}");
    cluster.check_clean("small", Node::A)?;

    let report = cluster.migrate(Node::A, "--peer xl small nodeB")?;
    println!(
        "  rxl to xl: total {:.1} s, downtime {:.0} ms, {} rounds, {:.1} MB on the wire, {}",
        number(&report, "/total-time")? / 1e3,
        number(&report, "/downtime")?,
        number(&report, "/ram/dirty-sync-count")?,
        number(&report, "/ram/transferred")? / 1e6,
        report["precopy"],
    );
    ensure!(
        report["precopy"]["walker"] == "rxl" && report["transport"]["kind"] == "xl",
        "{report}"
    );
    ensure!(
        report["checksum"]["digest"].is_null()
            && report["rounds"].as_array().map_or(0, Vec::len) >= 2,
        "{report}"
    );
    check_memory(&mut probe, "from rxl to xl")?;
    cluster.check_clean("small", Node::B)?;

    xl_migrate(cluster, Node::B, "migrate -s '' small 'ssh nodeA rxl migrate-receive'")?;
    check_memory(&mut probe, "and back from xl to rxl")?;
    cluster.check_clean("small", Node::A)
}

/// What breaks while a stock receiver takes pages leaves nothing there and the guest here.
pub fn a_stock_receiver_killed_and_a_cancel(cluster: &Cluster) -> Result<()> {
    let mut probe = watch_small(cluster)?;
    cluster.on_a_slow_link(|| {
        a_stock_receiver_killed(cluster)?;
        cluster.check_clean("small", Node::A)?;
        cancelled_before_a_stock_receiver(cluster)
    })?;
    cluster.wait_until(Node::B, "! xl list small--incoming >/dev/null 2>&1")?;
    check_recovered(cluster, &mut probe, "after the cancel")
}

const TO_XL: &str = "rxl migrate --peer xl --progress none small nodeB";

fn a_stock_receiver_killed(cluster: &Cluster) -> Result<()> {
    let target = cluster.lab.node(Node::B);
    let mut migration = cluster.lab.node(Node::A).spawn(TO_XL)?;
    wait_for_precopy(cluster, &mut migration)?;
    target.check("pkill -KILL -f '[x]l migrate-receive'", COMMAND)?;
    let (code, said) = failed(&migration.wait(MIGRATION)?)?;
    println!("  killed: {code}: {said}");
    ensure!(code == 11 && said.contains("runs on here"), "{code}: {said}");
    // xl, when it is killed, cannot take its half-built domain with it.
    wait_for_no_process(cluster, Node::B)?;
    target.run("xl destroy small--incoming", COMMAND).map(drop)
}

fn cancelled_before_a_stock_receiver(cluster: &Cluster) -> Result<()> {
    let source = cluster.lab.node(Node::A);
    let mut migration = source.spawn(TO_XL)?;
    wait_for_precopy(cluster, &mut migration)?;
    source.check("rxl status small | grep -q nodeB && rxl cancel small", COMMAND)?;
    let (code, said) = failed(&migration.wait(MIGRATION)?)?;
    println!("  cancelled: {code}: {said}");
    ensure!(code == 12 && said.contains("runs on here"), "{code}: {said}");
    Ok(())
}

/// Over TCP a job survives that way, too.
pub fn a_ring_survives_the_way_over_xls_protocol(cluster: &Cluster) -> Result<()> {
    cluster.lab.bind_processors()?;
    let launcher = cluster.lab.guest_via("dom4", Node::B)?;
    let mut ring = launcher.spawn(&format!("{RING} {RING_SECONDS} 65536"))?;
    ring.wait_for_stdout("progress", Duration::from_secs(120))
        .context("the ring does not start")?;
    let report = cluster.migrate(Node::A, "--peer xl dom3 nodeB")?;
    ensure!(ring.is_running()?, "the ring ended before the migration did: {}", ring.stdout());
    let output = ring.wait(MIGRATION)?;
    ensure!(output.success(), "the job failed: {} {}", output.stdout, output.stderr);
    let saw: Value =
        serde_json::from_str(output.stdout.lines().last().context("the ring said nothing")?)?;
    let (total, downtime) = (number(&report, "/total-time")? / 1e3, number(&report, "/downtime")?);
    println!("  {saw}; rxl to xl: total {total:.1} s, downtime {downtime:.0} ms");
    ensure!(saw["bad"] == 0 && saw["rounds"].as_u64() > Some(0), "{saw}");
    cluster.check_clean("dom3", Node::B)
}
