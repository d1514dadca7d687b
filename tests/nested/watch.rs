//! Domains that reboot, end or crash after rxl has moved, restored or resumed them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::{COMMAND, Cluster, MIGRATION, failed};
use crate::survival::check_memory;
use rxl_lab::{Guest, Node, guest};

/// A guest boots in half a minute, on a host that is itself emulated.
const BOOT: Duration = Duration::from_secs(240);

/// What a host has of a domain's watcher: a service that runs, and its process.
fn watcher_runs(name: &str) -> String {
    format!("systemctl -q is-active rxl-watch-{name}.service && pgrep -x rxl-watch >/dev/null")
}

const NO_WATCHER: &str = "! pgrep -x rxl-watch >/dev/null";

/// Whether the guest's memory checker answers.
fn answers(guest: &Guest) -> String {
    let ip = guest.ip;
    format!(
        "echo | socat -u TCP:{ip}:7000,connect-timeout=5 STDOUT 2>/dev/null | head -n 1 | grep -q \
         pages"
    )
}

/// What the host of a guest says of its watcher's doings.
fn log(cluster: &Cluster, node: Node) -> Result<()> {
    let lines = "journalctl -t rxl-watch -o cat --no-pager | tail -n 4";
    let said = cluster.lab.node(node).check(lines, COMMAND)?.stdout;
    said.lines().for_each(|line| println!("  {node}: {line}"));
    Ok(())
}

/// The guest's kernel reboots at once, without asking anybody in dom0. Another domain of that name
/// runs then, and answers.
fn reboots(cluster: &Cluster, node: Node, name: &str) -> Result<()> {
    ends_and_comes_back(cluster, node, name, 'b')
}

/// Waits, on a host, until a guest answers.
fn boots(cluster: &Cluster, node: Node, name: &str) -> Result<()> {
    let answers = answers(&guest(name)?);
    let patience = format!("for i in $(seq 200); do {answers} && exit 0; sleep 1; done; exit 1");
    cluster.lab.node(node).check(&patience, BOOT).context("it does not answer").map(drop)
}

fn ends_and_comes_back(cluster: &Cluster, node: Node, name: &str, key: char) -> Result<()> {
    let before = cluster.domid(node, name)?.with_context(|| format!("{name} on {node}"))?;
    cluster.lab.node(node).check(&format!("xl sysrq {name} {key}"), COMMAND)?;
    let another = format!("n=$(xl domid {name} 2>/dev/null) && test $n != {before}");
    cluster.wait_until(node, &another).with_context(|| format!("{name} is not booted again"))?;
    boots(cluster, node, name)?;
    log(cluster, node)?;
    cluster.lab.node(node).check(&watcher_runs(name), COMMAND).map(drop)
}

/// A domain that has moved is booted again by rxl's process, and again.
pub fn a_moved_domain_reboots(cluster: &Cluster) -> Result<()> {
    let (from, to) = cluster.way_of("small")?;
    cluster.migrate(from, &format!("small {to}"))?;
    let target = cluster.lab.node(to);
    target.check(&watcher_runs("small"), COMMAND)?;
    let show = "grep -E 'VmRSS|RssAnon' /proc/$(pgrep -x rxl-watch)/status; ps -o comm,args -C \
                rxl-watch; systemctl status --no-pager rxl-watch-small | head -n 8";
    println!("{}", target.check(show, COMMAND)?.stdout);
    reboots(cluster, to, "small")?;
    cluster.check_clean("small", to)
}

/// Every way to end, after a move. The second move meets the watcher of the first at its source.
pub fn what_ends_a_domain(cluster: &Cluster) -> Result<()> {
    let [a, b] = Node::PAIR.map(|node| cluster.lab.node(node));
    create_that_can_crash(cluster, Node::A, "rename-restart")?;
    cluster.migrate(Node::A, "small nodeB")?;
    ends_and_comes_back(cluster, Node::B, "small", 'c')?;
    b.check(
        "xl list | grep -q '^small-20' && xl destroy $(xl list | awk '/^small-20/ {print $1}')",
        COMMAND,
    )?;

    cluster.migrate(Node::B, "small nodeA")?;
    cluster.wait_until(Node::B, NO_WATCHER).context("the source's watcher ends with its domain")?;
    a.check(&watcher_runs("small"), COMMAND)?;
    powers_off(cluster)?;

    create_that_can_crash(cluster, Node::A, "preserve")?;
    cluster.migrate(Node::A, "-e small nodeB")?;
    b.check(NO_WATCHER, COMMAND)?;
    b.check("rxl watch --daemon small", COMMAND)?;
    b.check("pgrep -x rxl-watch && xl sysrq small c", COMMAND)?;
    cluster.wait_until(Node::B, NO_WATCHER)?;
    let kept = b.check("xl list small", COMMAND)?.stdout;
    // xl's column of states: shut down, by a crash.
    ensure!(kept.contains("---sc-"), "a crashed domain is kept: {kept}");
    log(cluster, Node::B)?;
    b.check("xl destroy small", COMMAND).map(drop)
}

/// A guest with an init of its own, which moves and is told to power off: nothing is left of it.
fn powers_off(cluster: &Cluster) -> Result<()> {
    cluster.migrate(Node::A, "dom3 nodeB")?;
    cluster.lab.node(Node::B).check(&watcher_runs("dom3"), COMMAND)?;
    // The connection ends with it.
    let _ = cluster.lab.guest("dom3")?.run("systemctl poweroff", COMMAND);
    cluster.wait_until(Node::B, "! xl domid dom3 >/dev/null 2>&1").context("powered off")?;
    cluster.wait_until(Node::B, NO_WATCHER)?;
    log(cluster, Node::B)
}

/// Creates small anew with xl, whose process then watches it: that of the snapshot's small has
/// ended when it was suspended for the snapshot.
fn create_watched(cluster: &Cluster) -> Result<()> {
    let create = "xl destroy small && xl create /etc/xen/small.cfg && pgrep -f \
                  'xl create /etc/xen/small.cfg'";
    cluster.lab.node(Node::A).check(create, COMMAND)?;
    boots(cluster, Node::B, "small")
}

/// As small, and its kernel crashes when told to. Nothing of xl's watches it at first: it comes
/// with `-e`.
fn create_that_can_crash(cluster: &Cluster, node: Node, on_crash: &str) -> Result<()> {
    let change =
        format!("s/^extra = \"/&sysrq_always_enabled /; s/^on_crash.*/on_crash = \"{on_crash}\"/");
    let create = format!(
        "xl destroy small 2>/dev/null; sed '{change}' /etc/xen/small.cfg >/root/crash.cfg && xl \
         create -e /root/crash.cfg"
    );
    cluster.lab.node(node).check(&create, COMMAND)?;
    boots(cluster, Node::B, "small")
}

/// A domain that was suspended and runs on has lost xl's process. It reboots as often as it did.
pub fn a_domain_that_stayed_reboots(cluster: &Cluster) -> Result<()> {
    create_watched(cluster)?;
    let [a, b] = Node::PAIR.map(|node| cluster.lab.node(node));
    cluster.on_a_slow_link(|| {
        let mut migration = a.spawn("rxl migrate --progress none --non-live small nodeB")?;
        cluster.wait_until(Node::A, "xl list small | awk 'END {exit $5 !~ /s/}'")?;
        b.check("pkill -KILL -x rxl", COMMAND)?;
        let (code, said) = failed(&migration.wait(MIGRATION)?)?;
        println!("  {code}: {said}");
        ensure!(said.contains("runs on here"), "{said}");
        Ok(())
    })?;
    cluster.wait_until(Node::A, &watcher_runs("small")).context("after a failed migration")?;
    let update = "sed 's/^vcpus.*/vcpus = 2/' /etc/xen/small.cfg >/root/two.cfg && xl \
                  config-update small /root/two.cfg";
    a.check(update, COMMAND)?;
    reboots(cluster, Node::A, "small")?;
    let vcpus = a.check("xl vcpu-list small | awk 'NR > 1' | wc -l", COMMAND)?.stdout;
    ensure!(vcpus.trim() == "2", "the updated configuration counts: {vcpus}");

    // Killed, it comes back, and its domain reboots.
    a.check("pkill -KILL -x rxl-watch", COMMAND)?;
    cluster.wait_until(Node::A, &watcher_runs("small")).context("after it was killed")?;
    reboots(cluster, Node::A, "small")?;

    // rxl's own outlives the suspend of a save.
    let pid = a.check("pgrep -x rxl-watch", COMMAND)?.stdout;
    a.check("rxl save -c small /var/tmp/small.save", MIGRATION)?;
    ensure!(a.check("pgrep -x rxl-watch", COMMAND)?.stdout == pid, "one watcher, the same");
    reboots(cluster, Node::A, "small")?;
    a.check("xl destroy small && rxl restore /var/tmp/small.save", MIGRATION)?;
    reboots(cluster, Node::A, "small")?;
    a.check("rm /var/tmp/small.save", COMMAND).map(drop)
}

/// The guard that runs a domain on has it watched, too; and a host without `systemd-run` gets a
/// daemon.
pub fn without_rxl_and_without_systemd(cluster: &Cluster) -> Result<()> {
    create_watched(cluster)?;
    let [a, b] = Node::PAIR.map(|node| cluster.lab.node(node));
    cluster.on_a_slow_link(|| {
        let mut doomed = a.spawn("exec rxl migrate --progress none --non-live small nodeB")?;
        cluster.wait_until(Node::A, "xl list small | awk 'END {exit $5 !~ /s/}'")?;
        a.check("pkill -KILL -x rxl", COMMAND)?;
        doomed.wait(MIGRATION).map(drop)
    })?;
    cluster.wait_until(Node::A, &watcher_runs("small")).context("after rxl was killed")?;
    reboots(cluster, Node::A, "small")?;

    b.check("chmod -x /usr/bin/systemd-run", COMMAND)?;
    cluster.migrate(Node::A, "small nodeB")?;
    let show = "ps -o ppid=,comm=,args= -C rxl-watch";
    let daemon = b.check(show, COMMAND)?.stdout;
    println!("  {}", daemon.trim());
    ensure!(daemon.trim_start().starts_with("1 rxl-watch"), "a daemon of its own: {daemon}");
    let before = cluster.domid(Node::B, "small")?.context("small")?;
    b.check("xl sysrq small b", COMMAND)?;
    let another = format!("n=$(xl domid small 2>/dev/null) && test $n != {before}");
    cluster.wait_until(Node::B, &another)?;
    boots(cluster, Node::A, "small")?;
    log(cluster, Node::B)?;
    b.check("chmod +x /usr/bin/systemd-run", COMMAND)?;
    let mut probe = cluster.lab.watch_memcheck(Node::A, guest("small")?.ip)?;
    check_memory(&mut probe, "after a reboot")
}

/// With a device model, which the watcher starts anew.
pub fn an_hvm_guest_reboots(cluster: &Cluster) -> Result<()> {
    cluster.lab.create(Node::A, "small-hvm", BOOT)?;
    cluster.migrate(Node::A, "small-hvm nodeB")?;
    reboots(cluster, Node::B, "small-hvm")?;
    // Stopped, the watcher leaves the device model that it has started.
    let b = cluster.lab.node(Node::B);
    b.check(
        "systemctl stop rxl-watch-small-hvm && pgrep -f 'qemu.*small-hvm' && xl list small-hvm",
        COMMAND,
    )?;
    b.check("rxl watch --daemon small-hvm", COMMAND)?;
    b.check("xl destroy small-hvm", COMMAND)?;
    cluster.wait_until(Node::B, NO_WATCHER)
}
