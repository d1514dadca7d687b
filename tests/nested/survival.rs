//! Guests that check their own memory, moved.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::{COMMAND, Cluster, MIGRATION, number};
use rxl_lab::{MemcheckProbe, Node, guest};

const VERIFY: Duration = Duration::from_secs(180);

/// A migrated guest is content: every page compared once more, on a connection that was open all
/// the time.
pub fn check_memory(probe: &mut MemcheckProbe, when: &str) -> Result<()> {
    let status = probe.verify_all(VERIFY).with_context(|| format!("memory {when}"))?;
    println!(
        "  {when}: {} pages compared {} times, {} dirtied, {} errors, own clock stood still for {} \
         ms at most",
        status.pages,
        status.verified_passes,
        status.dirtied,
        status.errors,
        status.longest_tick_gap_ms
    );
    ensure!(status.errors == 0 && status.pages > 0, "{status:?}");
    Ok(())
}

pub fn there_and_back_with_a_connection_open(cluster: &Cluster) -> Result<()> {
    let small = guest("small")?;
    let mut probe = cluster.lab.watch_memcheck(Node::B, small.ip)?;
    check_memory(&mut probe, "before")?;
    for from in Node::PAIR {
        let to = from.other();
        let mut ping = cluster.lab.ping_gap(Node::B, small.ip)?;
        ping.wait_for_reply(COMMAND)?;
        let report = cluster.migrate(from, &format!("small {to}"))?;
        check_memory(&mut probe, &format!("on {to}"))?;
        let gap = ping.finish()?.longest_gap_ms;
        println!(
            "  {from} -> {to}: total {:.1} s, downtime {:.0} ms, ping gap {gap:.0} ms, {} rounds, \
             {:.1} of {:.1} MB on the wire",
            number(&report, "/total-time")? / 1e3,
            number(&report, "/downtime")?,
            number(&report, "/ram/dirty-sync-count")?,
            number(&report, "/ram/transferred")? / 1e6,
            number(&report, "/ram/stream-bytes")? / 1e6,
        );
        check_report(&report)?;
        cluster.check_clean("small", to)?;
    }
    Ok(())
}

/// What the report says of itself fits together.
fn check_report(report: &serde_json::Value) -> Result<()> {
    let rounds = report["rounds"].as_array().context("rounds")?;
    ensure!(rounds.len() >= 2, "a live migration has a pass after the suspend: {report}");
    let last = rounds.last().context("a last round")?;
    ensure!(last["suspended"] == true, "{last}");
    ensure!(
        rounds[0]["suspended"] == false && rounds[0]["pages"].as_u64() > Some(1000),
        "{report}"
    );
    let (downtime, total) = (number(report, "/downtime")?, number(report, "/total-time")?);
    ensure!(downtime > 0.0 && downtime < total, "{report}");
    ensure!(
        number(report, "/target/frames-verified")? == number(report, "/checksum/frames")?,
        "{report}"
    );
    ensure!(
        number(report, "/ram/transferred")? < number(report, "/ram/stream-bytes")? / 2.0,
        "{report}"
    );
    Ok(())
}

pub fn over_parallel_tcp_connections(cluster: &Cluster) -> Result<()> {
    let mut probe = cluster.lab.watch_memcheck(Node::B, guest("small")?.ip)?;
    let (from, to) = cluster.way_of("small")?;
    let options = "--transport tcp --parallel-connections 3";
    let report = cluster.migrate(from, &format!("{options} small {to}"))?;
    check_report(&report)?;
    ensure!(report["transport"]["connections"] == 3, "{report}");
    check_memory(&mut probe, "over three TCP connections")?;
    cluster.check_clean("small", to)
}

/// Moved as other guests, with one of each.
pub fn a_guest_with_two_vcpus_and_two_vifs(cluster: &Cluster) -> Result<()> {
    let vcpus = "s/^vcpus = .*/vcpus = 2/";
    let vifs = r#"s/^vif = \["\([^"]*\):20,\([^"]*\)"\]/vif = ["\1:20,\2", "\1:2f,\2"]/"#;
    let create = format!(
        "xl destroy small && sed '{vcpus}; {vifs}' /etc/xen/small.cfg > /root/two.cfg && xl \
         create /root/two.cfg"
    );
    cluster.lab.node(Node::A).check(&create, COMMAND)?;
    let small = guest("small")?;
    let answers = format!(
        "echo | socat -u TCP:{}:7000,connect-timeout=5 STDOUT | head -n 1 | grep -q pages",
        small.ip
    );
    cluster.wait_until(Node::B, &answers)?;
    let mut probe = cluster.lab.watch_memcheck(Node::B, small.ip)?;
    check_memory(&mut probe, "before")?;
    has_two_of_each(cluster, Node::A)?;
    let report = cluster.migrate(Node::A, "small nodeB")?;
    println!("  downtime {:.0} ms", number(&report, "/downtime")?);
    check_memory(&mut probe, "on nodeB")?;
    has_two_of_each(cluster, Node::B)?;
    cluster.check_clean("small", Node::B)
}

/// As the guest's host sees it: vCPUs that have run, interfaces that are connected (xenbus state
/// 4).
fn has_two_of_each(cluster: &Cluster, node: Node) -> Result<()> {
    let look = "xl vcpu-list small | awk 'NR > 1 && $6 > 0' | wc -l; \
                xl network-list small | awk 'NR > 1 && $5 == 4' | wc -l";
    let seen = cluster.lab.node(node).check(look, COMMAND)?.stdout;
    ensure!(seen.split_whitespace().collect::<Vec<_>>() == ["2", "2"], "on {node}: {seen}");
    Ok(())
}

/// Debian's Xen has no shadow paging: live is refused with the other way offered, and that works.
pub fn a_pv_guest_without_live_migration(cluster: &Cluster) -> Result<()> {
    cluster.lab.create(Node::A, "small-pv", Duration::from_secs(240))?;
    let mut probe = cluster.lab.watch_memcheck(Node::B, guest("small-pv")?.ip)?;
    let (code, said) = cluster.migrate_fails(Node::A, "small-pv nodeB")?;
    println!("  {code}: {said}");
    ensure!(code == 6 && said.contains("--non-live") && said.lines().count() == 1, "{said}");
    let report = cluster.migrate(Node::A, "--non-live small-pv nodeB")?;
    println!("  non-live: downtime {:.1} s", number(&report, "/downtime")? / 1e3);
    check_memory(&mut probe, "a PV guest, non-live")?;
    cluster.check_clean("small-pv", Node::B)
}

/// -p, -D, -C, --debug and --dry-run.
pub fn options_of_xl(cluster: &Cluster) -> Result<()> {
    let (from, to) = cluster.way_of("small")?;
    let [source, target] = [cluster.lab.node(from), cluster.lab.node(to)];
    let dry = source.check(&format!("rxl migrate --dry-run small {to}"), MIGRATION)?;
    ensure!(dry.stderr.contains("every check passed"), "{}", dry.stderr);
    cluster.check_clean("small", from)?;

    let domid = cluster.domid(from, "small")?.context("small at its source")?;
    let free = target.run(&format!("xl list {domid}"), COMMAND)?;
    let preserve = if free.success() { "" } else { "-D" };
    cluster.migrate(from, &format!("-p {preserve} --debug -C /etc/xen/small.cfg small {to}"))?;
    let moved = cluster.lab.domains(to)?.into_iter().find(|domain| domain.name == "small");
    let moved = moved.context("small at its target")?;
    ensure!(moved.state.contains('p'), "-p leaves it paused: {moved:?}");
    ensure!(preserve.is_empty() || moved.domid == domid, "-D keeps its number: {moved:?}");
    target.check("xl unpause small", COMMAND)?;
    let mut probe = cluster.lab.watch_memcheck(Node::A, guest("small")?.ip)?;
    check_memory(&mut probe, "after -p -D -C --debug")
}

/// With a device model: its log-dirty mode is switched, and its own records travel.
pub fn an_hvm_guest_there_and_back(cluster: &Cluster) -> Result<()> {
    let hvm = guest("small-hvm")?;
    cluster.lab.create(Node::A, hvm.name, Duration::from_secs(240))?;
    let mut probe = cluster.lab.watch_memcheck(Node::B, hvm.ip)?;
    check_memory(&mut probe, "an HVM guest")?;
    for from in Node::PAIR {
        let to = from.other();
        let report = cluster.migrate(from, &format!("{} {to}", hvm.name))?;
        check_memory(&mut probe, &format!("on {to}"))?;
        println!(
            "  {from} -> {to}: total {:.1} s, downtime {:.0} ms, {}, {} rounds",
            number(&report, "/total-time")? / 1e3,
            number(&report, "/downtime")?,
            report["precopy"]["walker"],
            number(&report, "/ram/dirty-sync-count")?,
        );
        ensure!(
            report["domain"]["type"] == "hvm" && report["precopy"]["walker"] == "rxl",
            "{report}"
        );
        cluster.check_clean(hvm.name, to)?;
    }
    Ok(())
}

/// A writable disk that both hosts see: what the guest has written before, while and after it moved
/// is on it.
pub fn a_writable_disk_on_shared_storage(cluster: &Cluster) -> Result<()> {
    cluster.lab.node(Node::A).check(
        "truncate -s 4M /srv/disk && chown nbd /srv/disk && nbd-server 10809 /srv/disk",
        COMMAND,
    )?;
    for node in Node::PAIR {
        cluster
            .lab
            .node(node)
            .check("modprobe nbd && nbd-client 10.77.0.1 10809 /dev/nbd0", COMMAND)?;
    }
    cluster.lab.node(Node::A).check("xl block-attach dom3 phy:/dev/nbd0,xvdb,w", COMMAND)?;
    let guest = cluster.lab.guest("dom3")?;
    // Each block holds its own number; what has been written is read again from the disk, past the
    // guest's page cache.
    let write = "set -o pipefail; for i in $(seq 0 1023); do printf '%4095d\\n' $i; done | dd \
                 of=/dev/xvdb bs=4096 iflag=fullblock oflag=direct 2>/dev/null || exit 1; echo \
                 whole; while ! [ -e /run/stop ]; do n=$((n+1)); printf '%4095d\\n' $((n%1024)) | \
                 dd of=/dev/xvdb bs=4096 seek=$((n%1024)) conv=notrunc iflag=fullblock \
                 oflag=direct 2>/dev/null || exit 1; done; echo \"$n\"";
    let mut writer = guest.spawn(write)?;
    writer.wait_for_stdout("whole", COMMAND * 2)?;
    let report = cluster.migrate(Node::A, "dom3 nodeB")?;
    guest.check("touch /run/stop", COMMAND)?;
    let output = writer.wait(COMMAND)?;
    ensure!(output.success(), "the guest could not write: {} {}", output.stdout, output.stderr);
    let read = "dd if=/dev/xvdb bs=1M count=4 iflag=direct 2>/dev/null | awk '$1 != NR - 1 {exit \
                1} END {print NR}'";
    let lines = guest.check(read, COMMAND * 2)?.stdout;
    println!(
        "  {} blocks right; rewritten while it moved: {}; downtime {:.0} ms, restorer {}",
        lines.trim(),
        output.stdout.lines().last().unwrap_or("?"),
        number(&report, "/downtime")?,
        report["target"]["restorer"],
    );
    ensure!(lines.trim() == "1024" && report["target"]["restorer"] == "rxl", "{lines} {report}");
    cluster.check_clean("dom3", Node::B)
}
