//! The lab's hosts with this build of rxl on them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use rxl_lab::{Domain, Lab, Node, Options, Output};

/// Enough for any migration that the lab makes, on a slow machine.
pub const MIGRATION: Duration = Duration::from_secs(400);

/// For commands that take moments.
pub const COMMAND: Duration = Duration::from_secs(60);

/// dom0's weight on hosts that share their processors, by Xen's documentation; a guest's is 256, so
/// it keeps a third. With more for dom0 the ranks stand still all through pre-copy, whoever moves
/// them.
pub const SHARED_WEIGHT: u32 = 512;

const AGENT_RUNS: &str = "systemctl is-active rxl-guest-agent";

/// Carries less than any guest's pre-copy would take, so that it lasts for half a minute and can be
/// met in it.
const SLOW_LINK: &str = "tc qdisc replace dev eth1 root tbf rate 8mbit burst 64kb latency 400ms";

/// Nested Xen hosts with rxl.
pub struct Cluster {
    pub lab: Lab,
}

impl Cluster {
    /// Starts a lab of these hosts and installs these programs on each.
    pub fn up(nodes: &'static [Node], programs: &[&Path]) -> Result<Self> {
        let lab = Lab::up(Options { nodes, ..Options::default() })?;
        for program in programs {
            let name =
                program.file_name().and_then(|name| name.to_str()).context("a program's name")?;
            lab.install(&[(program, &format!("/usr/bin/{name}"))])?;
        }
        Ok(Self { lab })
    }

    /// Installs the agent's package in a guest that has none. `make deb` builds it beside the other
    /// programs.
    pub fn install_agent(&self, guest: &str) -> Result<()> {
        let guest = self.lab.guest(guest)?;
        if guest.run(AGENT_RUNS, COMMAND)?.success() {
            return Ok(());
        }
        let here = std::env::current_exe()?;
        let debian = here
            .ancestors()
            .find(|dir| dir.ends_with("release"))
            .and_then(Path::parent)
            .context("target")?;
        let package = newest_package(&debian.join("debian"))?;
        guest.put(&package, "/root/agent.deb", COMMAND * 2)?;
        let install = "dpkg --install --force-depends /root/agent.deb";
        let installed = guest.check(&format!("{install} && {AGENT_RUNS}"), COMMAND * 3)?;
        ensure!(installed.stdout.contains("rxl-guest-agent"), "{}", installed.stdout);
        Ok(())
    }

    /// The host on which a domain of this name runs.
    pub fn home_of(&self, name: &str) -> Result<Node> {
        for node in self.lab.nodes() {
            if self.domid(*node, name)?.is_some() {
                return Ok(*node);
            }
        }
        bail!("{name} runs nowhere")
    }

    /// Where a domain is, and where a migration takes it.
    pub fn way_of(&self, name: &str) -> Result<(Node, Node)> {
        let home = self.home_of(name)?;
        Ok((home, home.other()))
    }

    /// Tells a host which others its jobs may be on.
    pub fn name_hosts(&self, node: Node) -> Result<()> {
        let names: Vec<_> = self.lab.nodes().iter().map(|node| node.name()).collect();
        let write = format!("mkdir -p /etc/rxl && echo 'hosts = {names:?}' >/etc/rxl/cluster.toml");
        self.lab.node(node).check(&write, COMMAND).map(drop)
    }

    /// Runs `rxl migrate` with these arguments on a host; it must succeed. Returns its report.
    pub fn migrate(&self, from: Node, arguments: &str) -> Result<Value> {
        let command = format!("rxl migrate --json --progress none {arguments}");
        let output = self.lab.node(from).check(&command, MIGRATION)?;
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("not a report: {}", output.stdout))
    }

    /// Runs `rxl migrate` with these arguments; it must fail. Returns its exit code and what it
    /// said.
    pub fn migrate_fails(&self, from: Node, arguments: &str) -> Result<(i32, String)> {
        let output = self
            .lab
            .node(from)
            .run(&format!("rxl migrate --progress none {arguments}"), MIGRATION)?;
        failed(&output)
    }

    /// The number of the domain of this name on a host.
    pub fn domid(&self, node: Node, name: &str) -> Result<Option<u32>> {
        Ok(self
            .lab
            .domains(node)?
            .into_iter()
            .find(|domain| domain.name == name)
            .map(|domain| domain.domid))
    }

    /// The guest runs on this host and nowhere else, and nothing of a migration is left on any.
    pub fn check_clean(&self, name: &str, home: Node) -> Result<()> {
        self.lab.on_each(|node| {
            let left = Remains::of(&self.lab, node)?;
            let here = left.domains.iter().filter(|domain| domain.name == name).count();
            ensure!(here == usize::from(node == home), "{name} on {node}: {:?}", left.domains);
            left.check().with_context(|| format!("left on {node}"))
        })
    }

    /// Sets dom0's share of every host's processor. Schedulers without weights ignore it.
    pub fn weigh_dom0(&self, weight: u32) -> Result<()> {
        let command = format!("xl sched-credit2 --domain=Domain-0 --weight={weight}");
        self.lab.on_each(|node| self.lab.node(node).run(&command, COMMAND).map(drop))
    }

    /// Lets nodeA send next to nothing to the other hosts while something is done.
    pub fn on_a_slow_link<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<T> {
        let source = self.lab.node(Node::A);
        source.check(SLOW_LINK, COMMAND)?;
        let done = action()?;
        source.check("tc qdisc del dev eth1 root", COMMAND)?;
        Ok(done)
    }

    /// Bytes that a host has sent on the link between the hosts.
    pub fn link_bytes(&self, node: Node) -> Result<u64> {
        let text =
            self.lab.node(node).check("cat /sys/class/net/eth1/statistics/tx_bytes", COMMAND)?;
        text.stdout.trim().parse().context("a byte count")
    }

    /// Waits until a command succeeds on a host. A look costs the host's one processor, which the
    /// migration needs, a tenth of a second and more.
    pub fn wait_until(&self, node: Node, command: &str) -> Result<()> {
        let poll = format!("for i in $(seq 250); do {command} && exit 0; sleep 0.3; done; exit 1");
        self.lab.node(node).check(&poll, Duration::from_secs(90)).map(drop)
    }
}

/// What is to be seen on a host after a migration.
struct Remains {
    domains: Vec<Domain>,
    /// Programs of a migration, and sockets in /run/rxl.
    of_rxl: String,
    /// What Xen said to its debug key q, which lists every domain's paging modes.
    paging: String,
}

impl Remains {
    /// One command: under emulation each costs a second.
    const LOOK: &str = "xl dmesg -c >/dev/null; xl debug-keys q; xl list; echo ==; pgrep -a \
                        'libxl-save-help|rxl-save-helper|rxl-guard'; pgrep -ax rxl; ls \
                        /run/rxl/*.sock 2>/dev/null; echo ==; xl dmesg";

    fn of(lab: &Lab, node: Node) -> Result<Self> {
        let said = lab.node(node).check(Self::LOOK, COMMAND * 2)?.stdout;
        let mut parts = said.splitn(3, "==\n");
        let mut part = || parts.next().with_context(|| format!("{node} says too little: {said}"));
        let domains = Domain::parse_list(part()?)?;
        Ok(Self { domains, of_rxl: part()?.trim().to_owned(), paging: part()?.to_owned() })
    }

    fn check(&self) -> Result<()> {
        // A domain that was destroyed and cannot go, as somebody holds its memory, has no name any
        // more.
        let odd = self
            .domains
            .iter()
            .find(|domain| domain.name.contains("--") || domain.name == "(null)");
        ensure!(odd.is_none(), "{odd:?}");
        ensure!(self.of_rxl.is_empty(), "{}", self.of_rxl);
        // A host may be left without any guest whose paging Xen could tell of.
        ensure!(
            self.paging.contains("General information for domain 0"),
            "Xen says nothing: {}",
            self.paging
        );
        ensure!(!self.paging.contains("log_dirty"), "log-dirty mode: {}", self.paging);
        Ok(())
    }
}

fn newest_package(dir: &Path) -> Result<PathBuf> {
    let packages = std::fs::read_dir(dir)
        .with_context(|| format!("{}: `make deb` builds it", dir.display()))?;
    let ours = |path: &PathBuf| {
        path.to_string_lossy().contains("rxl-guest-agent")
            && path.extension().is_some_and(|e| e == "deb")
    };
    let time = |path: &PathBuf| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let newest = packages.flatten().map(|entry| entry.path()).filter(ours).max_by_key(time);
    newest.with_context(|| format!("no package in {}: `make deb` builds it", dir.display()))
}

/// Exit code and message of a command that must have failed.
pub fn failed(output: &Output) -> Result<(i32, String)> {
    if output.success() {
        bail!("it succeeded: {}", output.stdout);
    }
    Ok((output.status, output.stderr.trim().to_owned()))
}

/// A number in a report.
pub fn number(report: &Value, path: &str) -> Result<f64> {
    report.pointer(path).and_then(Value::as_f64).with_context(|| format!("no {path} in {report}"))
}

/// The middle value, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    (values[last / 2] + values[last.div_ceil(2)]) / 2.0
}
