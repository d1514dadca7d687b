//! What breaks in pre-copy leaves the guest running where it was, and nothing else anywhere.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rxl_lab::{MemcheckProbe, Node, RemoteProcess, Signal, guest};

use crate::cluster::{COMMAND, Cluster, MIGRATION, failed};
use crate::survival::check_memory;

/// Deadline of commands that look or kill, in a dom0 that is busy.
const SHORT: Duration = Duration::from_secs(30);

/// The processes of a migration.
const PROCESSES: &str = "rxl|rxl-guard|rxl-save-helper|libxl-save-help";

/// Waits until a migration's pages flow from small into a domain on nodeB.
pub fn wait_for_precopy(cluster: &Cluster, migration: &mut RemoteProcess) -> Result<()> {
    cluster
        .wait_until(Node::B, "xl list small--incoming >/dev/null 2>&1")
        .and_then(|()| {
            cluster.wait_until(Node::A, "rxl status small 2>/dev/null | grep -q 'round 0'")
        })
        .with_context(|| {
            let runs = if migration.is_running().unwrap_or(false) { "runs" } else { "has ended" };
            format!("the migration {runs}; it said: {}{}", migration.stdout(), migration.stderr())
        })
}

/// Waits until a host has noticed the end of a migration, which may take it its own deadline.
pub fn wait_for_no_process(cluster: &Cluster, node: Node) -> Result<()> {
    cluster.wait_until(node, &format!("! pgrep -x '{PROCESSES}' >/dev/null"))
}

/// A connection to small's memory checker, which lasts over all failures.
pub fn watch_small(cluster: &Cluster) -> Result<MemcheckProbe> {
    cluster.lab.watch_memcheck(Node::A, guest("small")?.ip)
}

/// small runs on at nodeA with its memory whole and its connection open, and nothing is left.
pub fn check_recovered(cluster: &Cluster, probe: &mut MemcheckProbe, when: &str) -> Result<()> {
    wait_for_no_process(cluster, Node::B)?;
    cluster.check_clean("small", Node::A)?;
    check_memory(probe, when)
}

/// Starts a migration of small, breaks something in pre-copy, and checks how it ends.
fn broken(
    cluster: &Cluster,
    options: &str,
    code: i32,
    breaking: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let source = cluster.lab.node(Node::A);
    let mut migration =
        source.spawn(&format!("rxl migrate --progress none {options} small nodeB"))?;
    wait_for_precopy(cluster, &mut migration)?;
    breaking()?;
    let begun = Instant::now();
    let (got, said) = failed(&migration.wait(MIGRATION)?)?;
    println!("  {:.1} s after it broke: {got}: {said}", begun.elapsed().as_secs_f64());
    ensure!(got == code, "exit code {got}, not {code}: {said}");
    ensure!(said.contains("runs on here"), "{said}");
    Ok(())
}

pub fn a_receiver_killed_in_precopy(cluster: &Cluster) -> Result<()> {
    let target = cluster.lab.node(Node::B);
    let mut probe = watch_small(cluster)?;
    cluster.on_a_slow_link(|| {
        broken(cluster, "", 11, || target.check("pkill -KILL -x rxl", SHORT).map(drop))
    })?;
    // What the killed process held, a half-built domain and sockets, its guard removes.
    check_recovered(cluster, &mut probe, "after its receiver was killed")
}

/// rxl is killed while its domain stands still for it: the guard runs the domain on, within
/// seconds.
pub fn rxl_killed_while_the_domain_is_suspended(cluster: &Cluster) -> Result<()> {
    let mut probe = watch_small(cluster)?;
    cluster.on_a_slow_link(|| {
        let command = "rxl migrate --progress none --non-live small nodeB";
        killed_while_suspended(cluster, "small", command)
    })?;
    check_recovered(cluster, &mut probe, "after rxl was killed while it was suspended")
}

/// The same in a save, which leaves no file. The larger guest's takes longer than it takes to find
/// it suspended.
pub fn rxl_killed_while_it_saves(cluster: &Cluster) -> Result<()> {
    killed_while_suspended(cluster, "dom3", "rxl save dom3 /root/dom3.save")?;
    cluster.lab.node(Node::A).check("test ! -e /root/dom3.save", COMMAND)?;
    cluster.lab.guest("dom3")?.check("uptime", COMMAND).map(drop)
}

fn killed_while_suspended(cluster: &Cluster, domain: &str, command: &str) -> Result<()> {
    let source = cluster.lab.node(Node::A);
    let mut doomed = source.spawn(&format!("exec {command}"))?;
    cluster.wait_until(Node::A, &format!("xl list {domain} | awk 'END {{exit $5 !~ /s/}}'"))?;
    source.check("pkill -KILL -x rxl", SHORT)?;
    let killed = Instant::now();
    doomed.wait(MIGRATION)?;
    cluster.wait_until(Node::A, &format!("xl list {domain} | awk 'END {{exit $5 ~ /s/}}'"))?;
    println!(
        "  {command}: killed; {domain} ran again {:.1} s later",
        killed.elapsed().as_secs_f64()
    );
    Node::PAIR.into_iter().try_for_each(|node| wait_for_no_process(cluster, node))?;
    source.check("journalctl -t rxl-guard | grep -q .", SHORT)?;
    cluster.check_clean(domain, Node::A)
}

pub fn a_link_cut_in_precopy(cluster: &Cluster) -> Result<()> {
    let mut probe = watch_small(cluster)?;
    cluster.on_a_slow_link(|| {
        broken(cluster, "--peer-timeout 10", 11, || cluster.lab.set_link(Node::B, false))
    })?;
    // The target gives the source up by itself, without a network.
    wait_for_no_process(cluster, Node::B)?;
    cluster.lab.set_link(Node::B, true)?;
    check_recovered(cluster, &mut probe, "after the link was cut")
}

/// One after the other: what the first leaves would be found by the second.
pub fn ssh_cut_and_then_ctrl_c_in_precopy(cluster: &Cluster) -> Result<()> {
    let source = cluster.lab.node(Node::A);
    let mut probe = watch_small(cluster)?;
    cluster.on_a_slow_link(|| {
        broken(cluster, "", 11, || {
            source.check("pkill -KILL -f '^ssh .*rxl receive'", SHORT).map(drop)
        })?;
        wait_for_no_process(cluster, Node::B)?;
        cluster.check_clean("small", Node::A)?;

        let mut migration = source.spawn("rxl migrate --progress none small nodeB")?;
        wait_for_precopy(cluster, &mut migration)?;
        migration.signal(Signal::SIGINT)?;
        let (code, said) = failed(&migration.wait(MIGRATION)?)?;
        println!("  {code}: {said}");
        ensure!(code == 12 && said.contains("runs on here"), "{code}: {said}");
        Ok(())
    })?;
    check_recovered(cluster, &mut probe, "after ssh was killed, and after Ctrl-C")
}
