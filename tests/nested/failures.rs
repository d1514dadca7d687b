//! What breaks in pre-copy leaves the guest running where it was, and nothing else anywhere.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::cluster::{Cluster, MIGRATION, failed};
use rxl_lab::{Node, Signal};

/// The moment at which dom3's pages flow into a domain on nodeB.
pub fn wait_for_precopy(cluster: &Cluster) -> Result<()> {
    cluster.wait_until(Node::B, "xl list dom3--incoming >/dev/null 2>&1")?;
    cluster.wait_until(Node::A, "rxl status dom3 2>/dev/null | grep -q 'round 0'")
}

/// Starts a migration of dom3, breaks something in pre-copy, and checks how it ends.
fn broken(
    cluster: &Cluster,
    options: &str,
    code: i32,
    breaking: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let source = cluster.lab.node(Node::A);
    let mut migration =
        source.spawn(&format!("rxl migrate --progress none {options} dom3 nodeB"))?;
    wait_for_precopy(cluster)?;
    breaking()?;
    let begun = Instant::now();
    let (got, said) = failed(&migration.wait(MIGRATION)?)?;
    println!("  {:.1} s after it broke: {got}: {said}", begun.elapsed().as_secs_f64());
    ensure!(got == code, "exit code {got}, not {code}: {said}");
    ensure!(said.contains("runs on here"), "{said}");
    Ok(())
}

/// The guest answers, nothing is left, and the next migration of the same guest works.
fn recovered(cluster: &Cluster) -> Result<()> {
    // The other side may need its own deadline to notice.
    cluster.wait_until(Node::B, "! pgrep -x 'rxl|rxl-guard' >/dev/null")?;
    cluster.check_clean("dom3", Node::A)?;
    cluster.lab.guest("dom3")?.check("uptime", Duration::from_secs(60))?;
    cluster.migrate(Node::A, "dom3 nodeB")?;
    cluster.check_clean("dom3", Node::B)
}

pub fn a_receiver_killed_in_precopy(cluster: &Cluster) -> Result<()> {
    let target = cluster.lab.node(Node::B);
    broken(cluster, "", 11, || {
        target.check("pkill -KILL -x rxl", Duration::from_secs(30)).map(drop)
    })?;
    // What the killed process held, a half-built domain and sockets, its guard removes.
    cluster.wait_until(Node::B, "! pgrep -x 'rxl|rxl-guard' >/dev/null")?;
    recovered(cluster)
}

/// rxl is killed while its domain stands still for it: the guard runs the domain on, within
/// seconds.
pub fn rxl_killed_while_the_domain_is_suspended(cluster: &Cluster) -> Result<()> {
    let source = cluster.lab.node(Node::A);
    for command in
        ["rxl save dom3 /root/dom3.save", "rxl migrate --progress none --non-live dom3 nodeB"]
    {
        let mut doomed = source.spawn(&format!("exec {command}"))?;
        cluster.wait_until(Node::A, "xl list dom3 | awk 'END {exit $5 !~ /s/}'")?;
        source.check("pkill -KILL -x rxl", Duration::from_secs(30))?;
        let killed = Instant::now();
        doomed.wait(MIGRATION)?;
        cluster.wait_until(Node::A, "xl list dom3 | awk 'END {exit $5 ~ /s/}'")?;
        println!(
            "  {command}: killed; dom3 ran again {:.1} s later",
            killed.elapsed().as_secs_f64()
        );
        cluster.lab.guest("dom3")?.check("uptime", Duration::from_secs(60))?;
        for node in Node::PAIR {
            cluster.wait_until(
                node,
                "! pgrep -x 'rxl|rxl-guard|rxl-save-helper|libxl-save-help' >/dev/null",
            )?;
        }
        cluster.check_clean("dom3", Node::A)?;
        source.check(
            "test ! -e /root/dom3.save && journalctl -t rxl-guard | tail -1",
            Duration::from_secs(30),
        )?;
    }
    recovered(cluster)
}

pub fn a_link_cut_in_precopy(cluster: &Cluster) -> Result<()> {
    broken(cluster, "--peer-timeout 10", 11, || cluster.lab.set_link(Node::B, false))?;
    // The target gives the source up by itself, without a network.
    cluster.wait_until(Node::B, "! pgrep -x 'rxl|rxl-guard' >/dev/null")?;
    cluster.lab.set_link(Node::B, true)?;
    recovered(cluster)
}

/// One after the other: what the first leaves would be found by the second.
pub fn ssh_cut_and_then_ctrl_c_in_precopy(cluster: &Cluster) -> Result<()> {
    let source = cluster.lab.node(Node::A);
    broken(cluster, "", 11, || {
        source.check("pkill -KILL -f '^ssh .*rxl receive'", Duration::from_secs(30)).map(drop)
    })?;
    cluster.wait_until(Node::B, "! pgrep -x 'rxl|rxl-guard' >/dev/null")?;
    cluster.check_clean("dom3", Node::A)?;

    let mut migration = source.spawn("rxl migrate --progress none dom3 nodeB")?;
    wait_for_precopy(cluster)?;
    migration.signal(Signal::SIGINT)?;
    let (code, said) = failed(&migration.wait(MIGRATION)?)?;
    println!("  {code}: {said}");
    ensure!(code == 12 && said.contains("runs on here"), "{code}: {said}");
    recovered(cluster)
}
