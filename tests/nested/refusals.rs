//! Bad input and bad circumstances: one line each, a code of its own, and the guest runs on.
//!
//! Here are those that a real Xen, ssh or libxl has to notice. tests/sessions.rs and tests/cli.rs
//! have the others: a name that is taken, a report that cannot be written, a wrong command line;
//! interop.rs has a target without rxl.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cluster::{COMMAND, Cluster};
use rxl_lab::Node;

struct Case {
    /// Commands for nodeA and for nodeB, run before.
    before: [&'static str; 2],
    /// Commands that undo those.
    after: [&'static str; 2],
    arguments: &'static str,
    code: i32,
    says: &'static str,
}

const NOTHING: [&str; 2] = ["", ""];

const CASES: &[Case] = &[
    Case { before: NOTHING, after: NOTHING, arguments: "nosuch nodeB", code: 4, says: "xl list" },
    Case {
        before: NOTHING,
        after: NOTHING,
        arguments: "small nodeC",
        code: 8,
        says: "ssh nodeC true",
    },
    Case {
        before: [
            "",
            "xl create -q -p /etc/xen/small.cfg 'name=\"eater\"' memory=$(($(xl info free_memory) \
             - 100))",
        ],
        after: ["", "xl destroy eater"],
        arguments: "small nodeB",
        code: 10,
        says: "MiB are free",
    },
    Case {
        before: ["xl pause small", ""],
        after: ["xl unpause small", ""],
        arguments: "small nodeB",
        code: 5,
        says: "xl unpause",
    },
    Case {
        before: NOTHING,
        after: NOTHING,
        arguments: "-C /etc/hosts small nodeB",
        code: 2,
        says: "dryrun",
    },
];

pub fn each_in_one_line_with_its_own_code(cluster: &Cluster) -> Result<()> {
    let on_both = |commands: [&str; 2]| -> Result<()> {
        let given = Node::PAIR.into_iter().zip(commands).filter(|(_, command)| !command.is_empty());
        for (node, command) in given {
            cluster.lab.node(node).check(command, Duration::from_secs(120))?;
        }
        Ok(())
    };
    for case in CASES {
        on_both(case.before)?;
        let (code, said) = cluster.migrate_fails(Node::A, case.arguments)?;
        on_both(case.after)?;
        println!("  rxl migrate {}: {code}: {said}", case.arguments);
        ensure!(code == case.code, "exit code {code}, not {}: {said}", case.code);
        ensure!(said.lines().count() == 1 && said.contains(case.says), "{said}");
    }
    // A user without rights, and a host without Xen.
    let output = cluster
        .lab
        .node(Node::A)
        .run("setpriv --reuid 65534 --clear-groups rxl migrate small nodeB", COMMAND)?;
    println!("  as nobody: {}: {}", output.status, output.stderr.trim());
    ensure!(output.status == 3 && output.stderr.contains("root"), "{}", output.stderr);
    cluster.check_clean("small", Node::A)
}
