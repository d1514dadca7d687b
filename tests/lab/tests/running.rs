//! The lab against itself. Ignored by default: the first run builds the images and the golden
//! snapshot, which takes minutes. `cargo test -p rxl-lab -- --ignored`

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rxl_lab::{Lab, Node, Options, Signal};

const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(600);

fn names(lab: &Lab, node: Node) -> Result<Vec<String>> {
    Ok(lab.domains(node)?.into_iter().map(|domain| domain.name).collect())
}

/// One test, as each of its parts needs the same two hosts.
#[test]
#[ignore = "starts two nested Xen hosts"]
fn a_lab_does_what_it_promises() -> Result<()> {
    let logs = std::env::temp_dir().join(format!("rxl-lab-logs-{}", std::process::id()));
    let lab = Lab::up(Options { keep_logs: Some(logs.clone()), ..Options::default() })?;
    starts_from_the_golden_snapshot(&lab)?;
    commands_end_in_time(&lab)?;
    processes_take_signals_and_end_on_drop(&lab)?;
    files_go_both_ways(&lab)?;
    a_frozen_host_is_seen_as_a_gap(&lab)?;
    a_cut_link_loses_packets_until_mended(&lab)?;
    a_migration_keeps_memory_and_connection(&lab)?;
    drop(lab);
    for node in Node::PAIR {
        let log = fs::read_to_string(logs.join(format!("{node}.log")))?;
        assert!(log.contains("Xen version"), "{node}'s log lacks Xen's messages");
    }
    Ok(fs::remove_dir_all(&logs)?)
}

fn starts_from_the_golden_snapshot(lab: &Lab) -> Result<()> {
    assert_eq!(names(lab, Node::A)?, ["Domain-0", "small", "dom3"]);
    assert_eq!(names(lab, Node::B)?, ["Domain-0", "dom4"]);
    assert_eq!(lab.guest("dom4")?.check("hostname", SHORT)?.stdout, "dom4\n");
    assert!(lab.guest("small").is_err(), "small runs no sshd");
    Ok(())
}

fn commands_end_in_time(lab: &Lab) -> Result<()> {
    let host = lab.node(Node::A);
    let output = host.run("echo out; echo err >&2; exit 7", SHORT)?;
    assert_eq!(
        (output.status, output.stdout.as_str(), output.stderr.as_str()),
        (7, "out\n", "err\n")
    );
    assert!(host.check("exit 7", SHORT).is_err());

    let start = Instant::now();
    assert!(host.run("exec sleep 4321", Duration::from_secs(2)).is_err());
    assert!(start.elapsed() < SHORT);
    host.check(
        "for i in $(seq 20); do pgrep -f 'sleep 432[1]' || exit 0; sleep 1; done; exit 1",
        SHORT,
    )
    .context("the remote side ends as well")
    .map(drop)
}

fn processes_take_signals_and_end_on_drop(lab: &Lab) -> Result<()> {
    let host = lab.node(Node::B);
    let mut process =
        host.spawn("trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done")?;
    process.wait_for_stdout("ready", SHORT)?;
    process.signal(Signal::SIGINT)?;
    let output = process.wait(SHORT)?;
    assert_eq!((output.status, output.stdout.as_str()), (5, "ready\ncaught\n"));

    let mut dropped = host.spawn("echo ready; sleep 1234; true")?;
    dropped.wait_for_stdout("ready", SHORT)?;
    drop(dropped);
    assert_eq!(host.run("pgrep -f 'sleep 123[4]'", SHORT)?.status, 1, "killed with its group");
    Ok(())
}

fn files_go_both_ways(lab: &Lab) -> Result<()> {
    let local = std::env::temp_dir().join(format!("rxl-lab-file-{}", std::process::id()));
    let bytes: Vec<u8> =
        (0..3_000_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&local, &bytes)?;
    lab.install(&[(&local, "/usr/local/bin/it's a file")])?;
    for node in Node::PAIR {
        let back: PathBuf = local.with_extension(node.name());
        lab.node(node).get("/usr/local/bin/it's a file", &back, SHORT)?;
        assert!(fs::read(&back)? == bytes, "{node} gave back other bytes");
        fs::remove_file(back)?;
    }
    lab.guest("dom3")?.write("/tmp/dir/note", b"text", SHORT)?;
    assert_eq!(lab.guest_via("dom3", Node::B)?.check("cat /tmp/dir/note", SHORT)?.stdout, "text");
    Ok(fs::remove_file(local)?)
}

fn a_frozen_host_is_seen_as_a_gap(lab: &Lab) -> Result<()> {
    let mut ping = lab.ping_gap(Node::A, Node::B.ip())?;
    ping.wait_for_reply(SHORT)?;
    lab.freeze(Node::B)?;
    std::thread::sleep(Duration::from_secs(3));
    lab.thaw(Node::B)?;
    std::thread::sleep(Duration::from_secs(2));
    let report = ping.finish()?;
    assert!((2500.0..10_000.0).contains(&report.longest_gap_ms), "{report:?}");
    Ok(())
}

fn a_cut_link_loses_packets_until_mended(lab: &Lab) -> Result<()> {
    let one_ping = "ping -c 1 -W 3 nodeA";
    lab.node(Node::B).check(one_ping, SHORT)?;
    lab.set_link(Node::B, false)?;
    assert_eq!(lab.node(Node::B).run(one_ping, SHORT)?.status, 1);
    lab.set_link(Node::B, true)?;
    lab.node(Node::B).check(one_ping, SHORT).map(drop)
}

fn a_migration_keeps_memory_and_connection(lab: &Lab) -> Result<()> {
    let small = rxl_lab::guest("small")?;
    let mut memcheck = lab.watch_memcheck(Node::B, small.ip)?;
    memcheck.next(SHORT)?;
    lab.node(Node::A).check("xl migrate small nodeB", LONG)?;
    assert!(names(lab, Node::B)?.contains(&small.name.to_owned()));
    memcheck.verify_all(LONG).map(drop)
}
