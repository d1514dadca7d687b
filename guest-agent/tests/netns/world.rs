//! Network namespaces with a link between them, two as a rule, and an agent in each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The domains' IPv4 addresses.
pub const ADDRESSES: [&str; 4] = ["10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.4"];

const AGENT: &str = env!("CARGO_BIN_EXE_rxl-guest-agent");

/// Domains, and a namespace with a bridge between them.
pub struct World<const N: usize = 2> {
    pub domains: [Domain; N],
    pub scratch: TempDir,
    wire: String,
}

/// One network namespace, with the files of its agent.
pub struct Domain {
    pub namespace: String,
    pub tree: PathBuf,
    pub runtime: PathBuf,
    agent: Option<Child>,
}

impl World {
    pub fn new() -> Result<Self> {
        Self::of_domains()
    }
}

impl<const N: usize> World<N> {
    pub fn of_domains() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let scratch = tempfile::tempdir()?;
        let domains = std::array::from_fn(|n| {
            let n = n + 1;
            Domain::new(&format!("rxl{unique}-{n}"), &scratch.path().join(n.to_string()))
        });
        let mut world = Self { domains, scratch, wire: format!("rxl{unique}-wire") };
        world.connect()?;
        world.domains.iter_mut().try_for_each(Domain::start_agent)?;
        Ok(world)
    }

    fn connect(&self) -> Result<()> {
        let wire = self.wire.as_str();
        ip(&["netns", "add", wire])?;
        ip(&["-n", wire, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", wire, "link", "set", "bridge", "up"])?;
        for (n, domain) in self.domains.iter().enumerate() {
            let (namespace, port) = (domain.namespace.as_str(), port(n));
            ip(&["netns", "add", namespace])?;
            ip(&[
                "link", "add", "eth0", "netns", namespace, "type", "veth", "peer", "name", &port,
                "netns", wire,
            ])?;
            ip(&[
                "-n",
                namespace,
                "address",
                "add",
                &format!("{}/24", ADDRESSES[n]),
                "dev",
                "eth0",
            ])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            ip(&["-n", namespace, "link", "set", "eth0", "up"])?;
            ip(&["-n", wire, "link", "set", &port, "master", "bridge", "up"])?;
            one_processor(namespace, "eth0")?;
            one_processor(wire, &port)?;
        }
        Ok(())
    }

    /// Unplugs a domain: what is sent to it and by it is lost silently, as around a suspend.
    pub fn unplug(&self, domain: usize) -> Result<()> {
        ip(&["-n", &self.wire, "link", "set", &port(domain), "nomaster"])
    }

    /// Plugs an unplugged domain in again.
    pub fn plug_in(&self, domain: usize) -> Result<()> {
        ip(&["-n", &self.wire, "link", "set", &port(domain), "master", "bridge"])
    }

    /// What all namespaces have counted so far, over all connections.
    pub fn counts(&self) -> Result<Counts> {
        let mut sum = Counts::default();
        for domain in &self.domains {
            sum.retransmissions += domain.count("snmp", "Tcp:", "RetransSegs")?;
            sum.timeouts += domain.count("netstat", "TcpExt:", "TCPTimeouts")?;
        }
        Ok(sum)
    }
}

/// Counters of TCP. Retransmissions without a timeout also happen to a job that nobody disturbs. A
/// timeout, of 200 ms and more, is what an absence leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub retransmissions: u64,
    pub timeouts: u64,
}

impl Domain {
    fn new(namespace: &str, directory: &Path) -> Self {
        let [tree, runtime] = ["tree", "run"].map(|name| directory.join(name));
        Self { namespace: namespace.into(), tree, runtime, agent: None }
    }

    /// Makes a command that runs in the domain. Its mounts are the host's: the agent needs
    /// /sys/fs/cgroup.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--uts", "--", "sh", "-c", &enter(&self.namespace), "sh"]).arg(program);
        command
    }

    pub fn start_agent(&mut self) -> Result<()> {
        self.run_agent(self.command(AGENT))
    }

    /// Starts an agent without CAP_NET_ADMIN, which can change nothing of a socket.
    pub fn start_powerless_agent(&mut self) -> Result<()> {
        let mut command = self.command("setpriv");
        command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", AGENT]);
        self.run_agent(command)
    }

    fn run_agent(&mut self, mut command: Command) -> Result<()> {
        command.args(["run", "--own-namespace-only", "--store"]).arg(&self.tree);
        command.arg("--runtime-directory").arg(&self.runtime);
        fs::create_dir_all(&self.runtime)?;
        fs::create_dir_all(&self.tree)?;
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.runtime.join("log"))?;
        self.agent =
            Some(command.stdin(Stdio::null()).stderr(log).spawn().context("unshare (util-linux)")?);
        Ok(())
    }

    /// Sends the agent a signal and waits for its end.
    pub fn end_agent(&mut self, signal: Signal) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            kill(Pid::from_raw(agent.id() as i32), signal)?;
            agent.wait()?;
        }
        Ok(())
    }

    fn count(&self, file: &str, group: &str, name: &str) -> Result<u64> {
        let output = self.command("cat").arg(format!("/proc/net/{file}")).output()?;
        let text = String::from_utf8(output.stdout)?;
        let mut lines = text.lines().filter(|line| line.split(' ').next() == Some(group));
        let (names, values) =
            (lines.next().context("no names")?, lines.next().context("no values")?);
        let column = names.split(' ').zip(values.split(' ')).find(|(known, _)| *known == name);
        Ok(column.context("no such counter")?.1.parse()?)
    }
}

impl<const N: usize> Drop for World<N> {
    fn drop(&mut self) {
        for domain in &mut self.domains {
            let _ = domain.end_agent(Signal::SIGTERM);
            if std::thread::panicking() || std::env::var_os("RXL_NETNS_LOGS").is_some() {
                eprintln!("{}", fs::read_to_string(domain.runtime.join("log")).unwrap_or_default());
            }
            let _ = ip(&["netns", "delete", &domain.namespace]);
        }
        let _ = ip(&["netns", "delete", &self.wire]);
    }
}

/// The script that runs its arguments in a domain: in its network namespace, under its own name.
/// Open MPI names the files of its shared memory by the host's.
pub fn enter(namespace: &str) -> String {
    format!("hostname {namespace}; exec nsenter --net=/run/netns/{namespace} -- \"$@\"")
}

/// Has all packets that a link brings handled by one processor: two would put them out of order,
/// and TCP would send them again.
fn one_processor(namespace: &str, link: &str) -> Result<()> {
    let script = format!("echo 1 >/sys/class/net/{link}/queues/rx-0/rps_cpus");
    ip(&["netns", "exec", namespace, "sh", "-c", &script])
}

fn port(domain: usize) -> String {
    format!("port{domain}")
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip (iproute2)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), said.trim());
    Ok(())
}
