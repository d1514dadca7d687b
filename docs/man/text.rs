//! What the man pages say beside the options and the exit codes.

/// A section of a page.
pub struct Section {
    /// In capitals.
    pub title: &'static str,
    /// In order.
    pub blocks: &'static [Block],
}

/// A part of a section.
pub enum Block {
    /// A paragraph.
    Text(&'static str),
    /// A term and what it means.
    Item(&'static str, &'static str),
    /// What a command does, and the command.
    Example(&'static str, &'static str),
}

use Block::{Example, Item, Text};

/// The sections of a page. DESCRIPTION goes before the options, the others after the exit codes.
pub fn sections(page: &str) -> &'static [Section] {
    match page {
        "rxl" => RXL,
        "rxl-migrate" => MIGRATE,
        "rxl-receive" => RECEIVE,
        "rxl-status" => STATUS,
        "rxl-cancel" => CANCEL,
        "rxl-jobs" => JOBS,
        "rxl-agent" => AGENT,
        "rxl-agent-serve" => AGENT_SERVE,
        "rxl-guard" => GUARD,
        "rxl-migrate-receive" => MIGRATE_RECEIVE,
        "rxl-save" => SAVE,
        "rxl-restore" => RESTORE,
        "rxl-stream" => STREAM,
        "rxl-stream-inspect" => STREAM_INSPECT,
        "rxl-stream-verify" => STREAM_VERIFY,
        other => panic!("no text for {other}: add it here"),
    }
}

const LOGGING: Block = Item(
    "RXL_LOG",
    "What is logged on standard error, as a filter of the Rust crate tracing, such as debug or \
     rxl_session=trace. It takes the place of -v.",
);

const STATE: Block = Item(
    "/run/rxl",
    "Locks and sockets of running migrations, for root alone. A domain is locked while it leaves \
     or comes, so that nobody migrates it twice at once.",
);

const CLUSTER: Block = Item(
    "/etc/rxl/cluster.toml",
    "Where an MPI job's domains may be on more hosts than the two of a migration: one line, hosts \
     = [\"nodeA\", \"nodeB\"], with the hosts as ssh knows them.",
);

const STATUS: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[Text(
            "Shows the migrations that run from this host: state, pass, pages sent in it, the rate \
             at which the target restores pages, what the dirty pages are expected to take, and \
             the time to the end of the pass.",
        )],
    },
    Section { title: "FILES", blocks: &[STATE] },
    Section {
        title: "EXAMPLES",
        blocks: &[Example("All of them, for a program:", "rxl status --json")],
    },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-migrate(1), rxl-cancel(1)")] },
];

const CANCEL: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[Text(
            "Cancels a migration that runs from this host, as Ctrl-C in its own terminal would. \
             The domain runs on here, and rxl migrate ends with exit code 12. Once the target has \
             been told to go ahead it is too late, and the domain runs there.",
        )],
    },
    Section { title: "FILES", blocks: &[STATE] },
    Section { title: "EXAMPLES", blocks: &[Example("Leave dom3 where it is:", "rxl cancel dom3")] },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-migrate(1), rxl-status(1)")] },
];

const JOBS: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[Text(
            "Asks the agents in the domains of this host and of those in the cluster file which \
             MPI ranks run there, and shows jobs, ranks, domains, hosts and the agents' states. \
             Ranks are those that an agent found when it was last asked to look, by a migration \
             with --mpi-quiesce.",
        )],
    },
    Section { title: "FILES", blocks: &[CLUSTER] },
    Section { title: "EXAMPLES", blocks: &[Example("Every domain with an agent:", "rxl jobs")] },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-migrate(1)")] },
];

const AGENT: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[Text(
            "For the agents (rxl-guest-agent) in this host's domains: how rxl on another host \
             reaches them.",
        )],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[Example("Answer requests until standard input ends:", "rxl agent serve")],
    },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-agent-serve(1), rxl-migrate(1)")] },
];

const AGENT_SERVE: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[Text(
            "Reads requests from standard input and answers each on standard output, one JSON \
             value a line. It reads and writes the agents' nodes in xenstore, and no others. rxl \
             migrate --mpi-quiesce and rxl jobs start it by ssh; nobody else needs to.",
        )],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[Example(
            "Which domains nodeB has:",
            "echo '\"guests\"' | ssh nodeB rxl agent serve",
        )],
    },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-migrate(1), rxl-jobs(1)")] },
];

const GUARD: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[
            Text(
                "Reads from standard input, a socket, what a domain is to become, and does that \
                 when the line ends without a last word: because the rxl that started it was \
                 killed. A domain that was being saved is run on here; one that was being built is \
                 destroyed; one that was to run is run. rxl migrate, receive, save, restore and \
                 migrate-receive start it; nobody else needs to.",
            ),
            Text(
                "It calls itself rxl-guard, keeps the domain's lock until it has done its work, \
                 some seconds after rxl's end, and says to syslog what it has done.",
            ),
        ],
    },
    Section { title: "FILES", blocks: &[STATE] },
    Section {
        title: "EXAMPLES",
        blocks: &[Example("What guards have done on this host:", "journalctl -t rxl-guard")],
    },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-migrate(1), rxl-save(1)")] },
];

const RXL: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[
            Text(
                "rxl moves a running Xen domain from one host to another, or into a file and back. \
                 It takes the place of xl migrate, save and restore and leaves everything else to \
                 xl(1): domains are made, listed and destroyed as before.",
            ),
            Text(
                "Pages are compressed on several threads, pages of zeroes are left out, every page \
                 is checked against a checksum before the domain may run at the target, and each \
                 migration ends with a report of what it cost.",
            ),
            Text(
                "rxl is run as root in dom0. It must be installed on both hosts, and both ends \
                 must speak the same protocol, but for migrations to and from hosts that have only \
                 xl: see --peer in rxl-migrate(1), and rxl-migrate-receive(1).",
            ),
        ],
    },
    Section { title: "ENVIRONMENT", blocks: &[LOGGING] },
    Section { title: "FILES", blocks: &[STATE] },
    Section {
        title: "EXAMPLES",
        blocks: &[Example("Move the domain dom3 to the host nodeB:", "rxl migrate dom3 nodeB")],
    },
    Section {
        title: "SEE ALSO",
        blocks: &[Text(
            "rxl-migrate(1), rxl-status(1), rxl-cancel(1), rxl-jobs(1), rxl-receive(1), \
             rxl-save(1), rxl-restore(1), rxl-stream(1), xl(1), xl.cfg(5), ssh(1)",
        )],
    },
];

const MIGRATE: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[
            Text(
                "Moves the running domain to the host, over ssh, with its memory, its vCPUs' state \
                 and its configuration. Disks are not copied: the target must reach them under the \
                 same names.",
            ),
            Text(
                "Memory is copied while the domain runs, in passes: first all of it, then what was \
                 written meanwhile. Then the domain is suspended, the rest is copied, and it runs \
                 on at the target. Its TCP connections survive where both hosts are on the same \
                 network.",
            ),
            Text(
                "The domain is suspended when the pages that are dirty are expected to take no \
                 longer than --downtime-limit, by the rate at which the target has restored pages \
                 so far. Where it writes faster than the link carries, that never comes: then it \
                 is suspended all the same after --max-rounds passes, or when two passes in a row \
                 have brought nothing, or the migration is cancelled, with --abort-if-busy. What \
                 libxl needs to attach devices at the target is downtime, too, and not in the \
                 limit.",
            ),
            Text(
                "With --mpi-quiesce the ranks of the domain's MPI job are frozen before the last \
                 passes, in all its domains on all hosts; nothing of theirs is then on the wire, \
                 and both ends of every connection are compared. They run on when the domain has \
                 said that it runs at the target. Each domain of the job needs rxl-guest-agent. \
                 Without an agent, and when one refuses, the domain moves without, and the report \
                 says why; with --mpi-quiesce=require it does not move.",
            ),
            Text(
                "Several domains before the host, or DOMAIN:HOST for each, move at the same time, \
                 each by a process of its own. With --mpi-quiesce they must belong to one job, \
                 which then stands still once: no domain is let run at its target before all \
                 targets are ready, and until then any failure, Ctrl-C or rxl cancel of one leaves \
                 all of them running at the source. After that each is on its own. Without \
                 --mpi-quiesce, or where the job cannot be held still, they wait for each other \
                 only until all checks have passed. -C and --peer xl take one domain. A domain \
                 whose name has a colon is named by its number among pairs. The exit code is 13 \
                 when any domain is undecided, else that of the domain that failed first.",
            ),
            Text(
                "Until the target has put all of it together, has compared checksums and has said \
                 that it is ready, any failure leaves the domain running at the source and nothing \
                 at the target; so do Ctrl-C, SIGTERM and SIGHUP. Then the source renames its copy \
                 to DOMAIN--migratedaway and tells the target to go ahead. From that moment on the \
                 source does not run the domain again unless the target itself gives it back. If \
                 the connection is lost in that moment, both copies are kept, standing still, and \
                 the message and exit code 13 tell what to look for and what to do.",
            ),
            Text(
                "ssh is started once for control and once for each data connection, and should log \
                 in without asking for anything: with a key or an agent. sshd drops connections at \
                 random when more than MaxStartups of them (10 by default) have not logged in yet, \
                 which --parallel-connections may reach.",
            ),
            Text(
                "With --peer xl the target needs only xl: the domain goes over xl's own protocol, \
                 as xl migrate would send it, with rxl's passes, limits, cancelling and report. \
                 Nothing is compressed, nothing is checked on its way, pages of zeroes are sent \
                 whole, and there is one connection. What holds of failures holds there, too.",
            ),
            Text(
                "At the end a report is printed on standard output: each pass, bytes before and \
                 after compression, the downtime and what it was spent on. --json and --report \
                 give it to programs.",
            ),
        ],
    },
    Section { title: "ENVIRONMENT", blocks: &[LOGGING] },
    Section {
        title: "FILES",
        blocks: &[
            STATE,
            CLUSTER,
            Item(
                "rxl-save-helper",
                "What libxl runs in its own save helper's place, beside rxl or in \
                 /usr/libexec/rxl. Without it libxl's own decides when the domain is suspended, \
                 and a job cannot be quiesced.",
            ),
            Item(
                "/etc/xen/xl.conf",
                "On the target: autoballoon and lockfile are obeyed as xl obeys them when dom0 has \
                 to give up memory for the domain.",
            ),
        ],
    },
    Section {
        title: "NOTES",
        blocks: &[
            Text(
                "No process stays behind on the target to wait for the domain's end. When a domain \
                 that was migrated by rxl shuts down, reboots or crashes, on_poweroff, on_reboot \
                 and on_crash of its configuration are not obeyed: it stays in the list, shut \
                 down, until xl destroy removes it, and has to be made again with xl create. The \
                 same holds, with Xen 4.17, for a domain that was suspended for a migration and \
                 resumed at the source.",
            ),
            Text(
                "Xen refuses live migration of domains with PCI devices passed through, and libxl \
                 refuses any of domains with virtual NUMA nodes. A PV domain can be migrated live \
                 only where Xen has shadow paging, which Debian's 4.17 has not: use --non-live.",
            ),
            Text(
                "libxl has no stable interface: rxl works with the Xen release that it was built \
                 for, on either host, and says so where it finds another.",
            ),
        ],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example(
                "Look whether it would work, and change nothing:",
                "rxl migrate --dry-run dom3 nodeB",
            ),
            Example("Move dom3, and keep the report:", "rxl migrate --report dom3.json dom3 nodeB"),
            Example(
                "Over an isolated network, on four connections to the target's address there:",
                "rxl migrate --transport tcp --parallel-connections 4 --data-address 192.0.2.2 \
                 dom3 nodeB",
            ),
            Example(
                "As another user, with a port and a key of their own:",
                "rxl migrate -s 'ssh -p 2222 -i KEY' dom3 root@nodeB",
            ),
            Example(
                "A PV domain where Xen has no shadow paging:",
                "rxl migrate --non-live pv1 nodeB",
            ),
            Example(
                "With its MPI job standing still meanwhile:",
                "rxl migrate dom3 nodeB --mpi-quiesce",
            ),
            Example(
                "Two domains of that job, at once:",
                "rxl migrate dom3 dom4 nodeB --mpi-quiesce",
            ),
            Example("To a target each:", "rxl migrate dom3:nodeB dom4:nodeC --mpi-quiesce"),
            Example(
                "Give up when its data has not been sent in ten minutes:",
                "rxl migrate --timeout 600 dom3 nodeB",
            ),
        ],
    },
    Section {
        title: "SEE ALSO",
        blocks: &[Text(
            "rxl(1), rxl-receive(1), xl(1), xl.cfg(5), xl.conf(5), ssh(1), sshd_config(5)",
        )],
    },
];

const RECEIVE: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[
            Text(
                "The target's end of a migration. rxl migrate starts it over ssh; there is no \
                 reason to start it by hand, and it refuses standard input that does not come from \
                 rxl migrate.",
            ),
            Text(
                "The domain is made as NAME--incoming, paused, while its data comes. It gets its \
                 own name and runs only when the source has said so. If the source is lost before \
                 that, the copy is destroyed; if it is lost after the copy was reported to be \
                 ready, the copy is kept, paused, because the source may have decided either way.",
            ),
            Text(
                "Each data connection over ssh has an rxl receive of its own, which hands the \
                 connection to the one that receives the domain and waits for its end.",
            ),
        ],
    },
    Section {
        title: "ENVIRONMENT",
        blocks: &[
            LOGGING,
            Item(
                "SSH_CONNECTION",
                "With --transport tcp, the address to listen on: the one by which ssh came in.",
            ),
        ],
    },
    Section { title: "FILES", blocks: &[STATE] },
    Section {
        title: "EXAMPLES",
        blocks: &[Example("See what the source would find on nodeB:", "ssh nodeB rxl --version")],
    },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-migrate(1), xl(1), ssh(1)")] },
];

const MIGRATE_RECEIVE: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[
            Text(
                "Receives a domain that stock xl migrate sends, in place of xl migrate-receive: on \
                 the wire it is the same to the byte. There is no reason to start it by hand.",
            ),
            Text(
                "The domain is made as NAME--incoming, paused, while its data comes, and gets its \
                 own name and runs when the sender has said so. When the sender is lost before \
                 that, or says anything else, the copy is destroyed: the sender still has its own. \
                 Xen's formats have no checksums, so damage to pages on the way is not noticed.",
            ),
        ],
    },
    Section { title: "ENVIRONMENT", blocks: &[LOGGING] },
    Section { title: "FILES", blocks: &[STATE] },
    Section {
        title: "EXAMPLES",
        blocks: &[Example(
            "From a host that has only xl:",
            "xl migrate -s '' dom3 'ssh nodeB rxl migrate-receive'",
        )],
    },
    Section {
        title: "NOTES",
        blocks: &[Text(
            "No process stays behind that waits for the domain's end, see rxl-migrate(1). Remus \
             and COLO are refused. With a script named xl before xl itself in root's PATH, which \
             hands migrate-receive to rxl and all else to xl, plain xl migrate DOMAIN HOST is \
             received by rxl.",
        )],
    },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-migrate(1), rxl-receive(1), xl(1)")] },
];

const STREAM: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[Text(
            "Looks at saved domains and migration streams: what rxl save or xl save(1) writes, or \
             a bare libxl or libxc stream. It needs neither Xen nor root, reads its input once, \
             from a file or a pipe, and takes little memory however long that is.",
        )],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example("What is in a saved domain:", "rxl stream inspect dom3.save"),
            Example("Whether a copy of it is sound:", "zcat dom3.save.gz | rxl stream verify -"),
        ],
    },
    Section {
        title: "SEE ALSO",
        blocks: &[Text("rxl(1), rxl-stream-inspect(1), rxl-stream-verify(1), xl(1)")],
    },
];

const STREAM_INSPECT: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[
            Text(
                "Shows the headers of a stream, the domain that was saved, records with their \
                 offsets and sizes, pages by type, pages of zeroes and pages that are like an \
                 earlier one, the passes over memory, and what compression would make of it. \
                 Records of one type that follow each other are shown as one line.",
            ),
            Text(
                "Pages that are like an earlier one are counted while there are fewer than \
                 1,048,576 different ones, and estimated from a sample beyond that. What \
                 compression would make is always estimated from a part of the pages.",
            ),
            Text(
                "A stream that is damaged or cut off is shown as far as it can be read, and the \
                 exit status is 15.",
            ),
        ],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example("With a picture of the guest's memory:", "rxl stream inspect --map dom3.save"),
            Example(
                "The passes of a save, for a program:",
                "rxl stream inspect --json dom3.save | jq .passes",
            ),
        ],
    },
    Section {
        title: "SEE ALSO",
        blocks: &[Text("rxl(1), rxl-stream(1), rxl-stream-verify(1), xl(1)")],
    },
];

const STREAM_VERIFY: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[
            Text(
                "Judges a stream by every rule of its formats: those of Xen's specifications of \
                 the libxl and libxc streams and those of xl's save header. It goes on after what \
                 it finds, as far as records can be told apart, and tells each breach with the \
                 record and its offset.",
            ),
            Text(
                "The exit status is 0 when no rule is broken, whatever there is to warn of, and 15 \
                 when one is. Pages have no checksums in these formats: a sound stream may still \
                 hold damaged contents.",
            ),
        ],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example("Before a restore:", "rxl stream verify dom3.save && xl restore dom3.save"),
            Example(
                "All findings, for a program:",
                "rxl stream verify --json dom3.save | jq .findings",
            ),
        ],
    },
    Section {
        title: "SEE ALSO",
        blocks: &[Text("rxl(1), rxl-stream(1), rxl-stream-inspect(1), xl(1)")],
    },
];

const SAVE: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[
            Text(
                "Suspends the domain and writes its memory, its vCPUs' state and its configuration \
                 to a file. Then the domain is destroyed, unless -c or -p is given. Its disks are \
                 not saved: they must not be changed before it is restored.",
            ),
            Text(
                "The file is rxl's own format, compressed and with checksums over all of it, or \
                 with --plain that of xl save, which xl restore takes. It is readable by its owner \
                 alone, as it holds the domain's memory.",
            ),
            Text(
                "The file appears under its name when all of it is on the disk; until then a file \
                 of that name stays as it is. Whatever fails before, a full disk too, leaves the \
                 domain running and no part of a file, and so do Ctrl-C, SIGTERM and SIGHUP. If \
                 rxl itself is killed, the unfinished file .FILE*.part stays, and a process that \
                 rxl has left behind for that (rxl-guard, which says so to syslog) runs the domain \
                 on.",
            ),
            Text(
                "With --mpi-quiesce the domain's MPI job stands still for as long as the domain \
                 does. With -c all of it is thawed when the domain runs again; otherwise the ranks \
                 in other domains are thawed when the file is whole, and those in the file when it \
                 is restored: by rxl restore at once, after xl restore when their agent's lease \
                 ends.",
            ),
        ],
    },
    Section { title: "ENVIRONMENT", blocks: &[LOGGING] },
    Section { title: "FILES", blocks: &[STATE] },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example("Put dom3 away:", "rxl save dom3 /var/lib/xen/save/dom3"),
            Example("Keep a copy, and let it run on:", "rxl save -c dom3 dom3.save"),
            Example(
                "The same, while its MPI job stands still:",
                "rxl save -c --mpi-quiesce dom3 dom3.save",
            ),
            Example("For a host without rxl:", "rxl save --plain dom3 dom3.save"),
        ],
    },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-restore(1), rxl-stream(1), xl(1)")] },
];

const RESTORE: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[
            Text(
                "Builds a domain from what rxl save or xl save wrote, under the name that it had, \
                 and lets it run. The file is recognised by its first bytes, and stays.",
            ),
            Text(
                "The whole file is read and checked first: checksums and digest in rxl's format, \
                 and in either the rules of the stream. A damaged file is refused with exit status \
                 15 and the offset of the damage before anything is done. Then it is read again \
                 into libxl, and checked again on the way. Whatever fails, or is cancelled, leaves \
                 no part of the domain, and the file as it was.",
            ),
        ],
    },
    Section { title: "ENVIRONMENT", blocks: &[LOGGING] },
    Section { title: "FILES", blocks: &[STATE] },
    Section {
        title: "NOTES",
        blocks: &[Text(
            "A domain must not run twice from one state: its disks would be damaged. Restore a \
             file only once, unless the disks have been put back as well. No process stays behind \
             that waits for the domain's end, see rxl-migrate(1).",
        )],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example("Bring dom3 back:", "rxl restore /var/lib/xen/save/dom3"),
            Example("And look at it before it runs:", "rxl restore -p dom3.save"),
        ],
    },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-save(1), rxl-stream(1), xl(1)")] },
];
