//! The real `rxl`, on a machine that need not have Xen: what it says, on how many lines, and with
//! which exit status.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rxl_core::error::Exit;

fn rxl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rxl"))
        .args(arguments)
        .env_remove("RXL_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// Whether rxl finds a Xen here. Then it fails for other reasons.
fn is_dom0() -> bool {
    ["/proc/xen/capabilities", "/dev/xen/privcmd"].iter().any(|path| Path::new(path).exists())
}

/// The one line that a failure leaves on standard error. Nothing is on standard output.
fn failure(arguments: &[&str], exit: Exit) -> String {
    let output = rxl(arguments);
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(exit.code().into()), "{arguments:?}: {said}");
    assert_eq!(stdout(&output), "", "{arguments:?}");
    assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    assert!(said.starts_with("rxl: ") && said.ends_with('\n'), "{said}");
    said
}

/// A wrong command line, which clap explains on several lines.
fn usage_error(arguments: &[&str]) -> String {
    let output = rxl(arguments);
    assert_eq!(output.status.code(), Some(Exit::Usage.code().into()), "{arguments:?}");
    assert_eq!(stdout(&output), "", "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn every_help_has_every_exit_code() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["migrate", "--help"],
        &["migrate", "-h"],
        &["receive", "--help"],
        &["migrate-receive", "--help"],
        &["save", "--help"],
        &["restore", "--help"],
    ] {
        let output = rxl(arguments);
        assert!(output.status.success(), "{arguments:?}");
        let help = stdout(&output);
        for (exit, meaning) in Exit::TABLE {
            let line = format!("  {:>2}  {meaning}", exit.code());
            assert!(help.lines().any(|l| l == line), "{arguments:?} lacks {line:?}");
        }
    }
}

/// The table in full: no code more, none less, in order.
#[test]
fn the_readme_has_the_same_exit_codes() {
    let rows =
        Exit::TABLE.iter().map(|(exit, meaning)| format!("| {} | {meaning} |\n", exit.code()));
    let table = format!("## Exit status\n\n| | |\n| --- | --- |\n{}\n", rows.collect::<String>());
    assert!(include_str!("../README.md").contains(&table), "README.md should have\n{table}");
}

/// A log that goes to a file or another program has no colours.
#[test]
fn the_log_is_plain_where_no_terminal_reads_it() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rxl"));
    let output = command.env("RXL_LOG", "no such=filter").arg("status").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("RXL_LOG is ignored") && !said.contains('\u{1b}'), "{said:?}");
}

#[test]
fn the_version_is_one_line() {
    let output = rxl(&["--version"]);
    let version = stdout(&output);
    assert!(output.status.success());
    assert!(version.starts_with(&format!("rxl {}", env!("CARGO_PKG_VERSION"))), "{version}");
    assert_eq!(version.lines().count(), 1);
}

#[test]
fn a_wrong_command_line_is_told_apart_from_a_failure() {
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["migrate"],
        &["migrate", "dom3"],
        &["migrate", "--no-such-option", "dom3", "nodeB"],
        &["migrate", "dom3", "-oProxyCommand=true"],
        &["migrate", "--parallel-connections", "0", "dom3", "nodeB"],
        &["migrate", "--parallel-connections", "17", "dom3", "nodeB"],
        &["migrate", "--peer-timeout", "1", "dom3", "nodeB"],
        &["migrate", "--live", "--non-live", "dom3", "nodeB"],
        &["receive", "dom3"],
        &["migrate-receive", "dom3"],
        &["migrate", "--peer", "xen", "dom3", "nodeB"],
        &["save", "dom3"],
        &["save", "-c", "-p", "dom3", "dom3.save"],
        &["save", "--plain", "--zstd-level", "3", "dom3", "dom3.save"],
        &["restore"],
        &["restore", "dom3.cfg", "dom3.save"],
    ] {
        let said = usage_error(arguments);
        assert!(said.contains("--help"), "{arguments:?}: {said}");
    }
}

#[test]
fn an_option_is_not_taken_for_a_host() {
    for host in ["-oProxyCommand=true", "-", ""] {
        let said = failure(&["migrate", "--", "dom3", host], Exit::Usage);
        assert!(said.contains("is not a host"), "{said}");
    }
}

#[test]
fn several_domains_that_cannot_share_are_refused_in_one_line() {
    for (arguments, words) in [
        (&["migrate", "dom3:nodeB", "dom4", "nodeC"][..], "mixes"),
        (&["migrate", "dom3", "dom4:nodeC"], "mixes"),
        (&["migrate", "dom3", "dom3", "nodeB"], "named twice"),
        (&["migrate", "-C", "dom3.cfg", "dom3", "dom4", "nodeB"], "-C is for one domain"),
        (&["migrate", "--peer", "xl", "dom3", "dom4", "nodeB"], "one domain at a time"),
        (&["migrate", "dom3", "dom4", "--", "-oProxyCommand=true"], "is not a host"),
        (&["--gang-member", "0", "migrate", "dom3", "dom4", "nodeB"], "rxl's own"),
    ] {
        let said = failure(arguments, Exit::Usage);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

/// Each is moved by a process of its own, which tells the first why it cannot.
#[test]
fn several_domains_have_a_line_each() {
    if is_dom0() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.json");
    let output =
        rxl(&["migrate", "--report", report.to_str().unwrap(), "nosuch", "norsuch", "nodeB"]);
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (Some(Exit::NoXen.code().into()), ""),
        "{said}"
    );
    assert_eq!(said.lines().count(), 2, "{said}");
    for name in ["nosuch", "norsuch"] {
        assert!(
            said.contains(&format!("rxl: {name}: ")) && said.contains("not a Xen dom0"),
            "{said}"
        );
    }
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "no report of what did not begin"
    );
}

/// A package upgrade replaces the file while rxl runs. The processes that rxl then starts, guard
/// and gang members, must be the same rxl.
#[test]
fn a_program_whose_file_is_gone_starts_its_own_processes() {
    if is_dom0() {
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let link = directory.path().join("rxl");
    std::fs::hard_link(env!("CARGO_BIN_EXE_rxl"), &link).unwrap();
    let file = std::fs::File::open(&link).unwrap();
    std::fs::remove_file(&link).unwrap();
    let program = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let output = Command::new(program)
        .args(["migrate", "nosuch", "norsuch", "nodeB"])
        .env_remove("RXL_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("not a Xen dom0").count(), 2, "{said}");
}

#[test]
fn where_there_is_no_xen_one_line_says_so() {
    if is_dom0() {
        return;
    }
    for arguments in [
        &["migrate", "nosuch", "nodeB"][..],
        &["save", "nosuch", "x"],
        &["restore", "x"],
        &["-t", "-T", "migrate-receive", "-e", "-d", "-p"],
    ] {
        let said = failure(arguments, Exit::NoXen);
        assert!(said.contains("not a Xen dom0"), "{said}");
    }
}

#[test]
fn a_report_that_cannot_be_written_stops_it_before_it_begins() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing/report.json");
    let said = failure(
        &["migrate", "--report", missing.to_str().unwrap(), "dom3", "nodeB"],
        Exit::Internal,
    );
    assert!(said.contains("missing/report.json") && said.contains("nothing was begun"), "{said}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_report_is_left_alone_when_nothing_is_migrated() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.json");
    std::fs::write(&report, "of another migration").unwrap();
    let output = rxl(&["migrate", "--report", report.to_str().unwrap(), "no/such/domain", "nodeB"]);
    assert!(!output.status.success());
    assert_eq!(std::fs::read_to_string(&report).unwrap(), "of another migration");
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        1,
        "nothing unfinished is left"
    );
}

#[test]
fn receive_wants_a_migration_on_its_standard_input() {
    let said = failure(&["receive"], Exit::Usage);
    assert!(said.contains("started by `rxl migrate`"), "{said}");
}

#[test]
fn receive_refuses_what_is_not_a_migration() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rxl"))
        .arg("receive")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // As long as a preamble, and no preamble.
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), &[b'x'; 64]).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(Exit::Usage.code().into()), "{said}");
    assert_eq!((output.stdout.len(), said.lines().count()), (0, 1), "{said}");
    assert!(said.contains("not an rxl data connection"), "{said}");
}

#[test]
fn remus_and_colo_are_refused() {
    for option in ["-r", "--colo"] {
        let said = failure(&["migrate-receive", option], Exit::Usage);
        assert!(said.contains("Remus and COLO are not supported"), "{said}");
    }
}

/// As sshd starts the forced command of a key.
#[test]
fn a_key_behind_the_gate_starts_what_other_hosts_start() {
    let asked = |command: &str| {
        let mut gate = Command::new(env!("CARGO_BIN_EXE_rxl"));
        gate.arg("ssh-gate").env("SSH_ORIGINAL_COMMAND", command);
        let output = gate.stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(i32::from(Exit::Usage.code())), "{command}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(asked("rxl receive").contains("no migration comes in on standard input"));
    assert!(asked("cat /etc/shadow").contains("this key does not start 'cat /etc/shadow' here"));
}
