//! Domains saved to files and restored from them, by rxl and by stock xl, in both formats.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::{COMMAND, Cluster, MIGRATION, failed};
use crate::survival::check_memory;
use rxl_lab::{Domain, Node, guest};

/// Where the files go: on the host's disk, not in its memory.
const FILE: &str = "/var/tmp/domain.save";

/// A save and a restore, and what the file must begin with.
/// Of a plain file tests/savefile shows that it is xl's own to the byte.
const WAYS: [(&str, &str, &str); 3] = [
    ("rxl save", "rxl restore", "RXLSAVE1"),
    ("rxl save --plain", "xl restore -e", "Xen save"),
    ("xl save", "rxl restore", "Xen save"),
];

fn run(cluster: &Cluster, command: &str) -> Result<String> {
    let output = cluster.lab.node(Node::A).check(command, MIGRATION)?;
    println!("  {command}: {}", output.stdout.trim_end());
    Ok(output.stdout)
}

fn domain(cluster: &Cluster, name: &str) -> Result<Option<Domain>> {
    Ok(cluster.lab.domains(Node::A)?.into_iter().find(|domain| domain.name == name))
}

fn memory(cluster: &Cluster, name: &str, when: &str) -> Result<()> {
    let mut probe = cluster.lab.watch_memcheck(Node::B, guest(name)?.ip)?;
    check_memory(&mut probe, when)
}

pub fn rxl_and_xl_take_each_others_files(cluster: &Cluster) -> Result<()> {
    files_of(cluster, "small", &WAYS)?;
    cluster.check_clean("small", Node::A)
}

pub fn a_save_leaves_it_running_or_paused(cluster: &Cluster) -> Result<()> {
    left_alive(cluster, "small")?;
    cluster.check_clean("small", Node::A)
}

/// What differs between formats does so for every guest: this shows that a PV guest's own records
/// pass, each way once.
pub fn files_of_a_pv_guest(cluster: &Cluster) -> Result<()> {
    cluster.lab.create(Node::A, "small-pv", Duration::from_secs(240))?;
    files_of(cluster, "small-pv", &WAYS[1..])?;
    left_alive(cluster, "small-pv")?;
    cluster.check_clean("small-pv", Node::A)
}

fn files_of(cluster: &Cluster, name: &str, ways: &[(&str, &str, &str)]) -> Result<()> {
    memory(cluster, name, &format!("of {name} at first"))?;
    ways.iter().try_for_each(|(save, restore, begins)| {
        there_and_back(cluster, name, save, restore, begins)
    })
}

fn there_and_back(
    cluster: &Cluster,
    name: &str,
    save: &str,
    restore: &str,
    begins: &str,
) -> Result<()> {
    run(cluster, &format!("{save} {name} {FILE}"))?;
    ensure!(domain(cluster, name)?.is_none(), "{save}: {name} is still here");
    let mark = run(cluster, &format!("head -c 8 {FILE}"))?;
    ensure!(mark == begins, "{save}: {mark}");
    run(cluster, &format!("rxl stream verify {FILE}"))?;
    run(cluster, &format!("{restore} {FILE}"))?;
    let restored = domain(cluster, name)?.with_context(|| format!("{name} after {restore}"))?;
    ensure!(!restored.state.contains('p'), "it runs: {restored:?}");
    memory(cluster, name, &format!("of {name} after {save}, {restore}"))
}

/// -c, -p, and a restore with -p.
fn left_alive(cluster: &Cluster, name: &str) -> Result<()> {
    run(cluster, &format!("rxl save -c {name} {FILE}"))?;
    memory(cluster, name, &format!("of {name} after -c"))?;
    run(cluster, &format!("rxl save -p {name} {FILE}"))?;
    let paused = domain(cluster, name)?.context("it is there after -p")?;
    ensure!(paused.state.contains('p'), "-p leaves it paused: {paused:?}");
    run(cluster, &format!("xl destroy {name} && rxl restore -p -e {FILE}"))?;
    let paused = domain(cluster, name)?.context("it is there after restore -p")?;
    ensure!(paused.state.contains('p'), "restore -p leaves it paused: {paused:?}");
    run(cluster, &format!("xl unpause {name} && rm {FILE}"))?;
    memory(cluster, name, &format!("of {name} after restore -p"))
}

pub fn what_goes_wrong_leaves_the_domain_as_it_was(cluster: &Cluster) -> Result<()> {
    full_disk(cluster)?;
    damaged_file(cluster)?;
    cluster.check_clean("small", Node::A)
}

fn full_disk(cluster: &Cluster) -> Result<()> {
    let node = cluster.lab.node(Node::A);
    node.check("mkdir -p /mnt/full && mount -t tmpfs -o size=1m tmpfs /mnt/full", COMMAND)?;
    for save in ["rxl save", "rxl save --plain"] {
        let (code, said) =
            failed(&node.run(&format!("{save} small /mnt/full/small.save"), MIGRATION)?)?;
        println!("  {save}: {code}: {said}");
        ensure!(
            code == 11 && said.contains("No space left") && said.contains("runs on here"),
            "{code}: {said}"
        );
        ensure!(
            node.check("ls -A /mnt/full", COMMAND)?.stdout.is_empty(),
            "nothing is left on the disk"
        );
        memory(cluster, "small", &format!("after {save} on a full disk"))?;
    }
    node.check("umount /mnt/full", COMMAND).map(drop)
}

fn damaged_file(cluster: &Cluster) -> Result<()> {
    let node = cluster.lab.node(Node::A);
    run(cluster, &format!("rxl save small {FILE}"))?;
    run(cluster, &format!("cp {FILE} {FILE}.sound"))?;
    let zeroes = format!(
        "dd if=/dev/zero of={FILE} bs=1 count=8 seek=$(($(stat -c %s {FILE}) / 2)) conv=notrunc \
         status=none"
    );
    for damage in [zeroes, format!("cp {FILE}.sound {FILE}; truncate -s -1 {FILE}")] {
        node.check(&damage, COMMAND)?;
        let (code, said) = failed(&node.run(&format!("rxl restore {FILE}"), MIGRATION)?)?;
        println!("  {code}: {said}");
        ensure!(
            code == 15 && said.contains("damaged at byte") && said.lines().count() == 1,
            "{code}: {said}"
        );
        ensure!(domain(cluster, "small")?.is_none(), "nothing was built");
    }
    run(cluster, &format!("rxl restore {FILE}.sound"))?;
    memory(cluster, "small", "after the sound file")?;
    run(cluster, &format!("rm {FILE} {FILE}.sound")).map(drop)
}
