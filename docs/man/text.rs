//! The text of the man pages around the options and the exit codes, which come from the code.

/// One section of a page.
pub struct Section {
    /// The section's heading, in capitals as man pages have it.
    pub title: &'static str,
    /// The section's parts in the order of the page.
    pub blocks: &'static [Block],
}

/// One part of a section.
pub enum Block {
    /// A paragraph of plain text.
    Text(&'static str),
    /// A term (a file or a variable) and what it means.
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
        "rxl-ssh-gate" => SSH_GATE,
        "rxl-watch" => WATCH,
        "rxl-recover" => RECOVER,
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
    "A filter of the Rust crate tracing for what is logged on standard error. It replaces -v. \
     rxl=trace logs everything of rxl's own, rxl_session=debug one of its crates, libxl=debug what \
     libxl says, and debug all of these; several are separated by commas. A filter that cannot be \
     read is ignored with a warning.",
);

const STATE: Block = Item(
    "/run/rxl",
    "Locks and sockets of running migrations, accessible to root only. A domain is locked while \
     it leaves or arrives, so that two migrations of it exclude each other.",
);

const CLUSTER: Block = Item(
    "/etc/rxl/cluster.toml",
    "The hosts of the cluster, as ssh knows them, in one line: hosts = [\"nodeA\", \"nodeB\"]. \
     Needed when an MPI job's domains may be on more hosts than the two of a migration. A table \
     [owners] with lines like alice = [\"alice-*\"] says whose the domains are, by patterns of \
     their names: ranks of one job are then looked for in the domains of one owner.",
);

const STATUS: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[Text(
            "Shows the migrations that run from this host: state, iteration, pages sent in it, \
             the rate at which the target restores pages, the time that the dirty pages are \
             expected to take, and the time to the end of the iteration.",
        )],
    },
    Section { title: "FILES", blocks: &[STATE] },
    Section { title: "EXAMPLES", blocks: &[Example("All of them, as JSON:", "rxl status --json")] },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-migrate(1), rxl-cancel(1)")] },
];

const CANCEL: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[Text(
            "Cancels a migration that runs from this host, as Ctrl-C in its own terminal does. \
             The domain keeps running here, and rxl migrate ends with exit code 12. Once the \
             target has been told to go ahead a cancel is too late: the domain runs there.",
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
            "Asks the agents in the domains of this host, and of the hosts in the cluster file, \
             which MPI ranks run there. It shows jobs, ranks, domains, hosts and the agents' \
             states. The ranks are those that an agent found when a migration with \
             --mpi-quiesce last asked it to look.",
        )],
    },
    Section { title: "FILES", blocks: &[CLUSTER] },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example("Every domain with an agent:", "rxl jobs"),
            Example("Why a process is a rank or is none:", "rxl jobs --explain dom3"),
        ],
    },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-migrate(1)")] },
];

const AGENT: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[Text(
            "Lets rxl on another host reach the agents (rxl-guest-agent) in this host's \
             domains.",
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
             value on each line. It reads and writes the agents' nodes in xenstore and no \
             others. rxl migrate --mpi-quiesce and rxl jobs start it over ssh; nobody else \
             needs to.",
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
                "Reads from standard input, a socket, which migration it guards, and settles its \
                 record, as rxl-recover(1) does it, when the socket closes without a last \
                 message, because the rxl that started it was killed. A domain that was being \
                 saved runs on here; one that was being built is destroyed; one that was to run \
                 is run. rxl migrate, receive, save, restore and migrate-receive start it; nobody \
                 else needs to.",
            ),
            Text(
                "Its process is named rxl-guard. It keeps the domain's lock until it has \
                 finished, some seconds after rxl's end, and reports to syslog what it has \
                 done.",
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

const SSH_GATE: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[
            Text(
                "For command= in authorized_keys (sshd(8)): of what the client asks for it runs \
                 rxl receive, rxl agent serve and rxl migrate-receive, with their options, and \
                 refuses all else. No shell sees the client's words.",
            ),
            Text(
                "It confines what a key starts. What a source may then ask rxl receive for is \
                 said in SECURITY.md.",
            ),
        ],
    },
    Section {
        title: "ENVIRONMENT",
        blocks: &[Item("SSH_ORIGINAL_COMMAND", "What the client asks for, set by sshd.")],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[Example(
            "In /root/.ssh/authorized_keys, for the key of nodeA's root:",
            "restrict,command=\"rxl ssh-gate\" ssh-ed25519 AAAA... root@nodeA",
        )],
    },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-receive(1), rxl-agent(1), sshd(8)")] },
];

const RECOVER: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[
            Text(
                "A migration writes on both hosts, before each step, what its end may do from \
                 there on. rxl recover reads what is left of that on this host, asks the other \
                 host over a fresh connection where that has to be known, and does what follows: \
                 it runs a domain on, runs one that has arrived, destroys a copy that is not to \
                 run, or boots a domain from its disk whose memory was lost with the host's \
                 power. Old memory never runs once the domain may have run elsewhere.",
            ),
            Text(
                "It may be started on either host, on both at once, and again and again. \
                 rxl-recover.timer starts it at boot and every minute. A domain on which rxl or \
                 its guard is at work is left to them.",
            ),
            Text(
                "A host that will never come back cannot be asked. Where a person has made sure \
                 of that, --other-host-is-gone decides without it: what is held here then runs.",
            ),
            Text(
                "With stock xl at the other end (rxl migrate --peer xl) there is nobody to ask \
                 once its GO was sent: rxl recover then says what to look for, and a person \
                 decides. What has ended is kept for a week.",
            ),
        ],
    },
    Section {
        title: "FILES",
        blocks: &[
            Item(
                "/var/lib/rxl/migrations",
                "A record for each migration, save and restore, and each end, accessible to root \
                 only. Without them nothing can be decided: they are not to be removed by hand.",
            ),
            STATE,
        ],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example(
                "What is left to decide here, and what would be done:",
                "rxl recover --dry-run",
            ),
            Example(
                "What was decided on this host:",
                "journalctl -t rxl -t rxl-recover -t rxl-guard",
            ),
        ],
    },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-migrate(1), rxl-guard(1)")] },
];

const WATCH: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[
            Text(
                "Waits for the end of a domain and does what its configuration says then, as \
                 xl's own process does: on_poweroff, on_reboot, on_crash, on_watchdog and \
                 on_soft_reset. A domain that reboots is booted again two seconds later, from \
                 the configuration that it had, or from the one that xl config-update has left, \
                 and is watched on. Memory of a guest that crashed goes to /var/lib/xen/dump. A \
                 medium that the guest ejects is taken out.",
            ),
            Text(
                "rxl migrate, receive, migrate-receive, save, restore, guard and recover start it \
                 for a domain that has arrived, was restored, or runs on after a suspend. Where \
                 systemd runs the host it is the service rxl-watch-NAME.service, where NAME is \
                 the domain's; elsewhere a daemon. Its process is named rxl-watch. It ends when \
                 the domain is destroyed, has moved away or is kept after its end, and at once \
                 where the domain is watched already, by xl or by rxl.",
            ),
            Text(
                "Started by hand it takes over a domain that nobody watches, such as one whose \
                 watcher was killed. It stays in the foreground, unless --daemon is given.",
            ),
        ],
    },
    Section { title: "ENVIRONMENT", blocks: &[LOGGING] },
    Section {
        title: "FILES",
        blocks: &[Item(
            "/run/rxl",
            "A lock for each domain that rxl watches, and a mark for each domain that was \
             watched when it began to leave.",
        )],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example("Which domains rxl watches:", "systemctl list-units 'rxl-watch-*'"),
            Example("What became of them:", "journalctl -t rxl-watch"),
            Example("Watch a domain that nobody watches:", "rxl watch --daemon dom3"),
        ],
    },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-migrate(1), xl(1), xl.cfg(5)")] },
];

const RXL: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[
            Text(
                "rxl migrates a running Xen domain to another host, or saves it to a file and \
                 restores it. It replaces xl migrate, save and restore. Create, list and \
                 destroy domains with xl(1).",
            ),
            Text(
                "Zero pages are left out, the others are compressed on several threads. Every \
                 page is checked against a checksum before the domain may run at the target. \
                 Each migration ends with a report of what it cost.",
            ),
            Text(
                "Run rxl as root in dom0. It must be installed on both hosts, and both must \
                 speak the same version of its protocol. For hosts that have only xl see --peer \
                 in rxl-migrate(1), and rxl-migrate-receive(1).",
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
                "Moves the running domain to the host, over ssh, with its memory, the state of \
                 its vCPUs and its configuration. Disks are not copied: the target must reach \
                 them under the same names.",
            ),
            Text(
                "Memory is copied while the domain runs, in iterations: first all of it, then \
                 what was written meanwhile. Then the domain is suspended, the rest is copied, \
                 and it runs on at the target. Its TCP connections survive if both hosts are on \
                 the same network.",
            ),
            Text(
                "The domain is suspended when its dirty pages are expected to take no longer \
                 than --downtime-limit, at the rate at which the target has restored pages so \
                 far. A domain that writes faster than the link carries never comes below the \
                 limit. It is suspended anyway after --max-rounds iterations, or when two \
                 iterations in a row have reduced the dirty pages by less than a sixteenth; \
                 with --abort-if-busy the migration is cancelled instead. The time that libxl \
                 needs to attach devices at the target may be downtime too, and is not covered \
                 by the limit.",
            ),
            Text(
                "With --mpi-quiesce the ranks of the domain's MPI job are frozen before the \
                 last iterations, in all its domains on all hosts. Nothing of theirs is then on \
                 the wire, and both ends of every connection are compared. They run on when the \
                 domain's agent has answered from the target. Each domain of the job needs \
                 rxl-guest-agent. Without an agent, and when one refuses, the domain moves \
                 without a frozen job, and the report says why; with --mpi-quiesce=require it \
                 does not move, nor does one in which no rank was recognised.",
            ),
            Text(
                "Several domains before the host, or DOMAIN:HOST for each, move at the same \
                 time, each in a process of its own. With --mpi-quiesce they must belong to one \
                 job, which is then frozen once. No domain runs at its target before all \
                 targets are ready; until then any failure, Ctrl-C, or rxl cancel of one domain \
                 leaves all of them running at the source. After that each domain is on its \
                 own. Without --mpi-quiesce, or where the job cannot be frozen, they wait for \
                 each other only until all checks have passed. -C and --peer xl take one \
                 domain. Where pairs are given, a domain whose name has a colon is given by its \
                 domid. The exit code is 13 when any domain is undecided, else that of the \
                 domain that failed first.",
            ),
            Text(
                "Until the target has assembled the domain, has compared checksums and has \
                 reported that it is ready, every failure leaves the domain running at the \
                 source and nothing at the target; so do Ctrl-C, SIGTERM and SIGHUP. Then the \
                 source renames its copy to DOMAIN--migratedaway and tells the target to go \
                 ahead. From that moment the source does not run the domain again unless the \
                 target itself gives it back. If its answer does not come, the target is \
                 asked over a fresh connection; if that cannot be reached either, rxl ends with \
                 exit code 13, and rxl-recover(1) goes on. Nobody has to decide.",
            ),
            Text(
                "ssh is started once for control and once for each data connection, and should \
                 log in without a prompt, with a key or an agent. It is given what scp(1) gives \
                 it: no forwardings, no LocalCommand, no RemoteCommand. At most four data \
                 connections log in at the same time, and one that sshd turns away, as it does \
                 when more than MaxStartups (10 by default) have not logged in yet, is tried again \
                 for a minute. What a login shell prints before rxl receive answers is left \
                 out, up to 64 KiB.",
            ),
            Text(
                "With --peer xl the target needs only xl: the domain goes over xl's own \
                 protocol, as xl migrate would send it, with rxl's iterations, limits, cancel \
                 and report. Nothing is compressed or checked on its way, zero pages are sent \
                 whole, and there is one connection. What is said above of failures holds there \
                 too, but for the last: xl cannot be asked again, and a person decides.",
            ),
            Text(
                "At the end a report is printed on standard output: each iteration, bytes \
                 before and after compression, the downtime and its parts. --json and --report \
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
                "The program that libxl runs in place of its own save helper, beside rxl or in \
                 /usr/libexec/rxl. Without it libxl's own helper decides when the domain is \
                 suspended, and a job cannot be quiesced.",
            ),
            Item(
                "/etc/xen/xl.conf",
                "On the target: rxl obeys autoballoon and lockfile as xl does when dom0 has to \
                 give up memory for the domain.",
            ),
        ],
    },
    Section {
        title: "NOTES",
        blocks: &[
            Text(
                "A process stays behind on the target to wait for the domain's end and to do \
                 what its on_poweroff, on_reboot, on_crash, on_watchdog and on_soft_reset say, \
                 see rxl-watch(1); -e leaves none. With Xen 4.17 xl's own process ends when the \
                 domain is suspended. A domain that had one and runs on at the source gets one \
                 of rxl's.",
            ),
            Text(
                "Xen refuses live migration of domains with PCI devices passed through. libxl \
                 refuses any migration of domains with virtual NUMA nodes. A PV domain can be \
                 migrated live only where Xen has shadow paging, which Debian's 4.17 lacks: use \
                 --non-live.",
            ),
            Text(
                "libxl has no stable interface. rxl works with the Xen release that it was \
                 built for, on either host, and says so when it finds another.",
            ),
        ],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example(
                "Check whether it would work, and change nothing:",
                "rxl migrate --dry-run dom3 nodeB",
            ),
            Example("Move dom3, and keep the report:", "rxl migrate --report dom3.json dom3 nodeB"),
            Example(
                "Over an isolated network, on four connections to the target's address there:",
                "rxl migrate --transport tcp --parallel-connections 4 --data-address 192.0.2.2 \
                 dom3 nodeB",
            ),
            Example(
                "As another user, with another port and key:",
                "rxl migrate -s 'ssh -p 2222 -i KEY' dom3 root@nodeB",
            ),
            Example(
                "A PV domain where Xen has no shadow paging:",
                "rxl migrate --non-live pv1 nodeB",
            ),
            Example(
                "With its MPI job frozen around the suspend:",
                "rxl migrate dom3 nodeB --mpi-quiesce",
            ),
            Example(
                "Two domains of that job, at once:",
                "rxl migrate dom3 dom4 nodeB --mpi-quiesce",
            ),
            Example(
                "Each to a target of its own:",
                "rxl migrate dom3:nodeB dom4:nodeC --mpi-quiesce",
            ),
            Example(
                "Cancel if the target is not ready in ten minutes:",
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
                "Receives a domain on the target. rxl migrate starts it over ssh. There is no \
                 reason to start it by hand, and it refuses standard input that does not come \
                 from rxl migrate.",
            ),
            Text(
                "The domain is created as NAME--incoming, paused, while its data arrives. It \
                 gets its own name and runs only when the source has said so. If the source is \
                 lost before the copy is ready, the copy is destroyed. If it is lost after the \
                 copy was reported ready, the copy is kept, paused, because the source may have \
                 decided either way.",
            ),
            Text(
                "Each data connection over ssh has an rxl receive of its own, which hands the \
                 connection to the one that receives the domain, greets, and waits for its end.",
            ),
            Text(
                "A key in authorized_keys (sshd(8)) may be confined to what rxl on other hosts \
                 starts here: rxl receive alone by command=\"rxl receive\", which is enough but \
                 for MPI jobs; that, rxl agent serve and rxl migrate-receive by \
                 command=\"rxl ssh-gate\". SECURITY.md says what a source may then still do.",
            ),
        ],
    },
    Section {
        title: "ENVIRONMENT",
        blocks: &[
            LOGGING,
            Item(
                "SSH_CONNECTION",
                "With --transport tcp: the address to listen on, by which ssh came in.",
            ),
        ],
    },
    Section {
        title: "FILES",
        blocks: &[
            Item(
                "/etc/rxl/receive.toml",
                "What an arriving domain's configuration may name on this host beside what it \
                 always may. Always: hotplug scripts in /etc/xen/scripts; device models and \
                 bootloaders among Xen's own (/usr/lib/xen*, /usr/libexec/xen*) and \
                 /usr/bin/qemu-system-*; each of them there, root's, and not writable for \
                 everybody; disks, kernels and other files by an absolute path without '..'; \
                 serial ports to pty or a terminal. Nothing else with a slash or a comma, and no \
                 device_model_args. Keys: scripts and programs, lists of further directories; \
                 files, a list of the directories where disks and files have to be; arguments = \
                 true for device_model_args, bootloader_args and serial ports of all kinds.",
            ),
            STATE,
        ],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example(
                "In /etc/rxl/receive.toml, one line each:",
                "scripts = [\"/usr/local/etc/xen/scripts\"]",
            ),
            Example("The version that the source would find on nodeB:", "ssh nodeB rxl --version"),
            Example(
                "In /root/.ssh/authorized_keys of nodeB, for the key of nodeA's root:",
                "restrict,command=\"rxl ssh-gate\" ssh-ed25519 AAAA... root@nodeA",
            ),
        ],
    },
    Section {
        title: "SEE ALSO",
        blocks: &[Text("rxl(1), rxl-migrate(1), rxl-ssh-gate(1), xl(1), ssh(1), sshd(8)")],
    },
];

const MIGRATE_RECEIVE: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[
            Text(
                "Receives a domain that stock xl migrate sends, in place of xl migrate-receive. \
                 Its bytes on the wire are the same. There is no reason to start it by hand.",
            ),
            Text(
                "The domain is created as NAME--incoming, paused, while its data arrives. It \
                 gets its own name and runs when the sender has said so. When the sender is \
                 lost before that, or says anything else, the copy is destroyed: the sender \
                 still has its own. Xen's formats have no checksums, so damage to pages on the \
                 way is not noticed.",
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
            "A process stays behind that waits for the domain's end, see rxl-watch(1). Remus \
             and COLO are refused. To receive a plain xl migrate DOMAIN HOST, install a script \
             named xl before xl itself in root's PATH, which hands migrate-receive to rxl and \
             all else to xl.",
        )],
    },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-migrate(1), rxl-receive(1), xl(1)")] },
];

const STREAM: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        blocks: &[Text(
            "Inspects or verifies saved domains and migration streams: what rxl save, xl \
             save(1) or virsh(1) save wrote, or a bare libxl or libxc stream. It needs neither \
             Xen nor root, reads its input once, from a file or a pipe, and needs little memory \
             whatever the length.",
        )],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example("What a saved domain holds:", "rxl stream inspect dom3.save"),
            Example("Check a compressed copy of it:", "zcat dom3.save.gz | rxl stream verify -"),
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
                "Shows the headers of a stream, the saved domain, the records with their \
                 offsets and sizes, pages by type, zero pages and pages equal to an earlier \
                 one, the iterations over memory, and an estimate of the compressed size. \
                 Consecutive records of one type share a line.",
            ),
            Text(
                "Pages equal to an earlier one are counted up to 1,048,575 different contents, \
                 and estimated from a sample beyond that. The compressed size is always \
                 estimated from a part of the pages.",
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
            Example("With a map of the guest's memory:", "rxl stream inspect --map dom3.save"),
            Example(
                "The iterations of a save, as JSON:",
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
                "Checks a stream against every rule of its formats: those of Xen's \
                 specifications of the libxl and libxc streams and those of xl's save header. \
                 It continues after a finding as far as records can be told apart, and reports \
                 each violation with the record and its offset.",
            ),
            Text(
                "The exit status is 0 when no rule is violated, whatever the warnings, and 15 \
                 when one is. Pages have no checksums in these formats: a stream without \
                 findings may still hold damaged contents.",
            ),
        ],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example("Before a restore:", "rxl stream verify dom3.save && xl restore dom3.save"),
            Example("All findings, as JSON:", "rxl stream verify --json dom3.save | jq .findings"),
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
                "Suspends the domain and writes its memory, the state of its vCPUs and its \
                 configuration to a file. Then the domain is destroyed, unless -c or -p is \
                 given. Its disks are not saved, and must not be changed before it is restored.",
            ),
            Text(
                "The file has rxl's own format, compressed and with checksums over all of it, \
                 or with --plain that of xl save, which xl restore reads. Only its owner can \
                 read it, as it holds the domain's memory.",
            ),
            Text(
                "The file appears under its name when all of it is on the disk; until then a \
                 file of that name stays as it is. Every earlier failure, including a full \
                 disk, leaves the domain running and no part of a file, and so do Ctrl-C, \
                 SIGTERM and SIGHUP. If rxl itself is killed, the unfinished file .FILE*.part \
                 stays, and a guard process (rxl-guard, which reports to syslog) runs the \
                 domain on.",
            ),
            Text(
                "With --mpi-quiesce the domain's MPI job is frozen for as long as the domain is \
                 suspended. With -c all of it is thawed when the domain runs again. Otherwise \
                 the ranks in other domains are thawed when the file is whole, and those in the \
                 file when it is restored: by rxl restore at once, after xl restore when their \
                 agent's lease expires.",
            ),
        ],
    },
    Section { title: "ENVIRONMENT", blocks: &[LOGGING] },
    Section { title: "FILES", blocks: &[STATE] },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example("Save dom3, and free its memory:", "rxl save dom3 /var/lib/xen/save/dom3"),
            Example("Save a copy, and let dom3 run on:", "rxl save -c dom3 dom3.save"),
            Example(
                "The same, with its MPI job frozen meanwhile:",
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
                "Builds a domain from a file that rxl save or xl save wrote, under the name \
                 that it had, and runs it. The first bytes of the file tell its format. The \
                 file stays. What virsh save wrote is refused: virsh restore takes it.",
            ),
            Text(
                "The whole file is read and checked first: checksums and digest in rxl's \
                 format, and in either format the rules of the stream. A damaged file is \
                 refused with exit status 15 and the offset of the damage before anything is \
                 done. Then it is read again into libxl, and checked again on the way. Any \
                 failure or cancel leaves no part of the domain, and the file as it was.",
            ),
        ],
    },
    Section { title: "ENVIRONMENT", blocks: &[LOGGING] },
    Section { title: "FILES", blocks: &[STATE] },
    Section {
        title: "NOTES",
        blocks: &[Text(
            "A domain must not run twice from one state: that would damage its disks. Restore a \
             file only once, unless the disks have been restored as well. No process stays \
             behind that waits for the domain's end, see rxl-migrate(1).",
        )],
    },
    Section {
        title: "EXAMPLES",
        blocks: &[
            Example("Bring dom3 back:", "rxl restore /var/lib/xen/save/dom3"),
            Example("Leave it paused, to look at it before it runs:", "rxl restore -p dom3.save"),
        ],
    },
    Section { title: "SEE ALSO", blocks: &[Text("rxl(1), rxl-save(1), rxl-stream(1), xl(1)")] },
];
