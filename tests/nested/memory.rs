//! Memory that comes and goes: a balloon that moves while its guest is copied, and hosts with
//! little of it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cluster::{COMMAND, Cluster, MIGRATION, failed};
use crate::failures::wait_for_precopy;
use crate::survival::check_memory;
use rxl_lab::{Node, Output, RemoteProcess, guest};

/// MiB that small has by its configuration, and that its balloon leaves it for a while.
const WHOLE: u64 = 128;
const LESS: u64 = 112;

/// What Xen says that a domain has, in MiB.
fn has(cluster: &Cluster, node: Node, name: &str) -> Result<u64> {
    let list = format!("xl list {name} | awk 'NR == 2 {{ print $3 }}'");
    let said = cluster.lab.node(node).check(&list, COMMAND)?.stdout;
    said.trim().parse().with_context(|| format!("{name} on {node}: {said}"))
}

/// Moves a guest's balloon, and waits until it has.
fn balloon(cluster: &Cluster, node: Node, name: &str, mib: u64) -> Result<()> {
    cluster.lab.node(node).check(&format!("xl mem-set {name} {mib}m"), COMMAND)?;
    for _ in 0..60 {
        if has(cluster, node, name)?.abs_diff(mib) <= 1 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    bail!("{name} has {} MiB, and is to have {mib}", has(cluster, node, name)?)
}

/// The amounts that xenstore holds for a guest's balloon, in KiB: what it is to have, and the most.
fn targets(cluster: &Cluster, node: Node, name: &str) -> Result<String> {
    let read = format!(
        "p=/local/domain/$(xl domid {name})/memory; xenstore-read $p/target $p/static-max | xargs"
    );
    Ok(cluster.lab.node(node).check(&read, COMMAND)?.stdout.trim().to_owned())
}

/// Starts a move of small whose pre-copy lasts until the link is fast again, and moves its balloon
/// meanwhile.
fn while_it_moves(
    cluster: &Cluster,
    options: &str,
    act: impl FnOnce(Node) -> Result<()>,
) -> Result<Output> {
    let source = cluster.lab.node(Node::A);
    let mut migration: Option<RemoteProcess> = None;
    cluster.on_a_slow_link(|| {
        let command = format!("rxl migrate --json --progress none {options} small nodeB");
        let migration = migration.insert(source.spawn(&command)?);
        wait_for_precopy(cluster, migration)?;
        act(Node::A)
    })?;
    migration.context("it was started")?.wait(MIGRATION)
}

fn summary(output: &Output) -> Result<String> {
    let report: Value = serde_json::from_str(&output.stdout)?;
    let rounds = report["rounds"].as_array().context("rounds")?;
    let pages: Vec<_> = rounds.iter().map(|round| round["pfns"].to_string()).collect();
    Ok(format!("rounds of {} pages, {} ms down", pages.join(", "), report["downtime"]))
}

/// The guest gives memory back and takes it again in pre-copy. rxl's own walk moves it whole, into
/// either restorer; one by libxc, which may have missed some of it, is refused.
pub fn a_balloon_that_moves_in_precopy(cluster: &Cluster) -> Result<()> {
    let mut probe = cluster.lab.watch_memcheck(Node::B, guest("small")?.ip)?;
    let before = (has(cluster, Node::A, "small")?, targets(cluster, Node::A, "small")?);
    let down_and_up = |node: Node| {
        balloon(cluster, node, "small", LESS)?;
        balloon(cluster, node, "small", WHOLE)
    };
    let output = while_it_moves(cluster, "--walker libxc", down_and_up)?;
    let (code, said) = failed(&output)?;
    println!("  --walker libxc: {code}: {said}");
    ensure!(code == 11 && said.contains("given memory while libxc read it"), "{said}");
    check_memory(&mut probe, "after the walk by libxc")?;
    cluster.check_clean("small", Node::A)?;
    for restorer in ["rxl", "libxc"] {
        let output = while_it_moves(cluster, &format!("--restorer {restorer}"), down_and_up)?;
        ensure!(output.success(), "{}", output.stderr);
        println!("  --restorer {restorer}: {}", summary(&output)?);
        check_memory(&mut probe, &format!("restored by {restorer}"))?;
        let after = (has(cluster, Node::B, "small")?, targets(cluster, Node::B, "small")?);
        ensure!(after == before, "{before:?} before, {after:?} now");
        cluster.check_clean("small", Node::B)?;
        cluster.migrate(Node::B, "small nodeA")?;
    }
    Ok(())
}

/// What the guest gives back in pre-copy is not kept for it at the target.
pub fn what_is_given_back_in_precopy_is_given_back(cluster: &Cluster) -> Result<()> {
    let mut probe = cluster.lab.watch_memcheck(Node::B, guest("small")?.ip)?;
    let output = while_it_moves(cluster, "-p", |node| balloon(cluster, node, "small", LESS))?;
    ensure!(output.success(), "{}", output.stderr);
    let arrived = has(cluster, Node::B, "small")?;
    println!("  {LESS} MiB at the suspend, {arrived} MiB there; {}", summary(&output)?);
    ensure!(arrived.abs_diff(LESS) <= 1, "{arrived} MiB");
    cluster.lab.node(Node::B).check("xl unpause small", COMMAND)?;
    check_memory(&mut probe, "after it had given memory back")?;
    cluster.check_clean("small", Node::B)
}

/// Leaves this much free on nodeB while something is done, in MiB.
fn with_little_on_b<T>(
    cluster: &Cluster,
    free: u64,
    action: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let target = cluster.lab.node(Node::B);
    let eat = format!(
        "xl create -q -p /etc/xen/small.cfg 'name=\"eater\"' memory=$(($(xl info free_memory) - \
         {free}))"
    );
    target.check(&eat, COMMAND * 2)?;
    let said = target.check("xl info free_memory", COMMAND)?.stdout;
    println!("  {} MiB are free on nodeB", said.trim());
    let done = action()?;
    target.check("xl destroy eater", COMMAND)?;
    Ok(done)
}

/// dom3 takes 384 MiB and small 128, and there is room for either alone.
pub fn two_that_arrive_where_one_fits(cluster: &Cluster) -> Result<()> {
    let source = cluster.lab.node(Node::A);
    let ended = with_little_on_b(cluster, 450, || {
        let start =
            |name: &str| source.spawn(&format!("rxl migrate --json --progress none {name} nodeB"));
        let (mut dom3, mut small) = (start("dom3")?, start("small")?);
        Ok([("dom3", dom3.wait(MIGRATION)?), ("small", small.wait(MIGRATION)?)])
    })?;
    let (arrived, refused): (Vec<_>, Vec<_>) =
        ended.into_iter().partition(|(_, output)| output.success());
    for (name, output) in &refused {
        println!("  {name}: {}: {}", output.status, output.stderr.trim());
        let one_line = output.stderr.trim().lines().count() == 1;
        ensure!(output.status == 10 && one_line, "{}", output.stderr);
        cluster.check_clean(name, Node::A)?;
    }
    ensure!(arrived.len() == 1, "{} of two have arrived", arrived.len());
    for (name, _) in &arrived {
        println!("  {name} has arrived");
        cluster.check_clean(name, Node::B)?;
    }
    let claims = cluster.lab.node(Node::B).check("xl claims", COMMAND)?.stdout;
    println!("  {}", claims.trim().replace('\n', "\n  "));
    Ok(())
}

/// A guest that may have 512 MiB and has 128 goes where 300 are free.
pub fn a_ballooned_guest_where_its_maximum_is_not_free(cluster: &Cluster) -> Result<()> {
    let source = cluster.lab.node(Node::A);
    source.check("xl destroy small; xl create -q /etc/xen/small.cfg memory=512", COMMAND * 2)?;
    let mut probe = cluster.lab.watch_memcheck(Node::A, guest("small")?.ip)?;
    check_memory(&mut probe, "with 512 MiB")?;
    balloon(cluster, Node::A, "small", WHOLE)?;
    let before = targets(cluster, Node::A, "small")?;
    with_little_on_b(cluster, 300, || {
        cluster.migrate(Node::A, "small nodeB")?;
        check_memory(&mut probe, "on a host without room for its maximum")?;
        let after = targets(cluster, Node::B, "small")?;
        println!("  {} MiB there, {after} KiB at most", has(cluster, Node::B, "small")?);
        ensure!(after == before, "{before} before, {after} now");
        Ok(())
    })?;
    cluster.check_clean("small", Node::B)
}
