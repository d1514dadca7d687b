//! A running lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::accelerator::Accelerator;
use crate::cache::Cache;
use crate::domain::Domain;
use crate::golden::Golden;
use crate::host::{self, Host};
use crate::images::Images;
use crate::machines::{Machines, on_each};
use crate::memcheck::MemcheckProbe;
use crate::ping::PingProbe;
use crate::process::wait_for;
use crate::processor::ProcessorTime;
use crate::qemu::{self, Life, Start};
use crate::run_dir;
use crate::topology::{self, Guest, MEMCHECK_PORT, Node};
use crate::watchdog::Watchdog;

/// How long a host may take to answer after its start; a second or two on an idle machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// A cold boot of an emulated host.
const BOOT_LIMIT: Duration = Duration::from_secs(600);

const COPY_LIMIT: Duration = Duration::from_secs(300);

/// How a lab is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the run directory; a unique one where none is given.
    pub name: Option<String>,
    /// Who ends the lab.
    pub life: Life,
    /// Where the logs go before the lab ends.
    pub keep_logs: Option<PathBuf>,
    /// The hosts: [`Node::PAIR`] or [`Node::THREE`].
    pub nodes: &'static [Node],
}

impl Default for Options {
    fn default() -> Self {
        Self { name: None, life: Life::Owned, keep_logs: None, nodes: &Node::PAIR }
    }
}

/// Nested Xen hosts at the golden snapshot: `small` and `dom3` run on [`Node::A`], `dom4` on
/// [`Node::B`].
///
/// A lab that this process owns ends on drop.
pub struct Lab {
    machines: Machines,
    run_dir: PathBuf,
    hosts: Vec<Host>,
    life: Life,
    keep_logs: Option<PathBuf>,
    /// Of a lab that this process owns.
    watchdog: Option<Watchdog>,
}

impl Lab {
    /// Builds what the cache lacks (minutes, the first time) and starts the hosts from the golden
    /// snapshot (seconds).
    ///
    /// # Errors
    /// The images cannot be built, or the hosts do not come up.
    pub fn up(options: Options) -> Result<Self> {
        let cache = Cache::open()?;
        let images = Images::build(&cache)?;
        let accelerator = Accelerator::choose(&cache, &images.parts.dom0)?;
        let golden = Golden::build(&cache, &images, accelerator, options.nodes)?;
        let run_dir = run_dir::create(options.name.as_deref())?;
        let lab = Self::start(&run_dir, &images, accelerator, &golden, options);
        if lab.is_err() {
            run_dir::destroy(&run_dir)?;
        }
        lab
    }

    fn start(
        run_dir: &Path,
        images: &Images,
        accelerator: Accelerator,
        golden: &Golden,
        options: Options,
    ) -> Result<Self> {
        golden.copy_disks(run_dir)?;
        let machines = Machines::start(
            options.nodes,
            run_dir,
            &images.parts,
            accelerator,
            Start::Golden,
            options.life,
        )?;
        host::write_ssh_config(run_dir, &images.key, &machines.ssh_ports()?)?;
        let lab = Self {
            machines,
            run_dir: run_dir.to_owned(),
            hosts: hosts(run_dir, options.nodes),
            life: options.life,
            keep_logs: options.keep_logs,
            watchdog: (options.life == Life::Owned).then(|| watchdog(run_dir, options.nodes)),
        };
        lab.run_hosts()?;
        Ok(lab)
    }

    /// Connects to a lab that another process started with [`Life::Detached`].
    ///
    /// # Errors
    /// No lab of this name is up.
    pub fn connect(name: &str) -> Result<Self> {
        let run_dir = run_dir::path(name)?;
        let machines =
            Machines::existing(&run_dir).with_context(|| format!("no lab {name} is up"))?;
        let hosts = hosts(&run_dir, machines.nodes());
        Ok(Self { machines, hosts, run_dir, life: Life::Detached, keep_logs: None, watchdog: None })
    }

    /// Looks after a lab that another process started, until it ends.
    ///
    /// # Errors
    /// No lab of this name is up.
    pub fn watch(name: &str) -> Result<()> {
        let run_dir = run_dir::path(name)?;
        let machines =
            Machines::existing(&run_dir).with_context(|| format!("no lab {name} is up"))?;
        watchdog(&run_dir, machines.nodes()).wait();
        Ok(())
    }

    /// How often a host had to be woken, as its QEMU sat on an interrupt. Known of a lab that this
    /// process owns.
    pub fn woken(&self, node: Node) -> u32 {
        self.watchdog.as_ref().map_or(0, |watchdog| watchdog.woken(node))
    }

    /// What each host's QEMU has had of the processors, in the order of [`Lab::nodes`].
    pub fn processor_times(&self) -> Vec<ProcessorTime> {
        self.machines.processor_times()
    }

    fn run_hosts(&self) -> Result<()> {
        self.machines.resume()?;
        on_each(self.nodes(), |node| set_clock(self.node(node)))
    }

    /// Its hosts, in the order of their numbers.
    pub fn nodes(&self) -> &'static [Node] {
        self.machines.nodes()
    }

    fn close_connections(&self) {
        for host in &self.hosts {
            host.close();
        }
        for guest in topology::GUESTS.iter().filter(|guest| guest.ssh) {
            for via in self.nodes() {
                Host::new(&self.run_dir, &host::guest_alias(guest.name, *via)).close();
            }
        }
    }

    /// A nested host's dom0; one that [`Lab::nodes`] names.
    pub fn node(&self, node: Node) -> &Host {
        &self.hosts[node.index()]
    }

    /// A guest that runs sshd (`dom3`, `dom4`), reached through node A's dom0, wherever it runs.
    ///
    /// # Errors
    /// There is no such guest, or it runs no sshd.
    pub fn guest(&self, name: &str) -> Result<Host> {
        self.guest_via(name, Node::A)
    }

    /// Like [`Lab::guest`], through the dom0 of `via`.
    ///
    /// # Errors
    /// As [`Lab::guest`].
    pub fn guest_via(&self, name: &str, via: Node) -> Result<Host> {
        if !topology::guest(name)?.ssh {
            bail!("{name} runs no sshd");
        }
        Ok(Host::new(&self.run_dir, &host::guest_alias(name, via)))
    }

    /// Copies local files to all hosts, each with its permissions.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn install(&self, files: &[(&Path, &str)]) -> Result<()> {
        on_each(self.nodes(), |node| {
            files
                .iter()
                .try_for_each(|(local, remote)| self.node(node).put(local, remote, COPY_LIMIT))
        })
    }

    /// The domains on a host, dom0 included.
    ///
    /// # Errors
    /// `xl list` fails.
    pub fn domains(&self, node: Node) -> Result<Vec<Domain>> {
        Domain::parse_list(&self.node(node).check("xl list", COMMAND_LIMIT)?.stdout)
    }

    /// Runs an action for all hosts at once; returns when all have ended.
    ///
    /// # Errors
    /// The first that an action returned.
    pub fn on_each(&self, action: impl Fn(Node) -> Result<()> + Sync) -> Result<()> {
        on_each(self.nodes(), action)
    }

    /// Starts a domain from its configuration on a host and waits until it answers.
    ///
    /// # Errors
    /// There is no such guest, or it does not come up before the deadline.
    pub fn create(&self, node: Node, name: &str, deadline: Duration) -> Result<()> {
        create_guest(self.node(node), topology::guest(name)?, deadline)
    }

    /// Keeps each host's QEMU to one processor, as guests that spin need it (`processor`).
    ///
    /// # Errors
    /// A QEMU has ended.
    pub fn bind_processors(&self) -> Result<()> {
        self.machines.bind()
    }

    /// Starts a ping of an address from a host, 20 times a second.
    ///
    /// # Errors
    /// ssh cannot be started.
    pub fn ping_gap(&self, from: Node, ip: &str) -> Result<PingProbe> {
        PingProbe::start(self.node(from), ip)
    }

    /// Opens a TCP connection from a host to the memcheck at an address, and keeps it open.
    ///
    /// # Errors
    /// ssh cannot be started.
    pub fn watch_memcheck(&self, from: Node, ip: &str) -> Result<MemcheckProbe> {
        MemcheckProbe::start(self.node(from), ip)
    }

    /// Cuts (`false`) or mends the link between the hosts, at one host's end. Guests of the same
    /// host still reach each other; the hosts stay reachable from here.
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn set_link(&self, node: Node, up: bool) -> Result<()> {
        let state = if up { "on" } else { "off" };
        self.machines.monitor(node)?.human_silent(&format!("set_link link {state}"))
    }

    /// Freezes a host as if it had died, without a word to its peers, until [`Lab::thaw`].
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn freeze(&self, node: Node) -> Result<()> {
        self.machines.monitor(node)?.execute("stop", &Value::Null).map(drop)
    }

    /// Takes a host's power: what it had in memory is gone, and what it had not flushed. It stays
    /// off until [`Lab::restore_power`].
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn cut_power(&self, node: Node) -> Result<()> {
        self.node(node).close();
        let mut monitor = self.machines.monitor(node)?;
        monitor.execute("system_reset", &Value::Null)?;
        monitor.execute("stop", &Value::Null).map(drop)
    }

    /// Boots a host whose power was cut, and waits until its toolstack answers. Its guests are not
    /// started.
    ///
    /// # Errors
    /// It does not boot in time.
    pub fn restore_power(&self, node: Node) -> Result<()> {
        self.machines.monitor(node)?.execute("cont", &Value::Null)?;
        wait_for(&format!("{node} booting"), BOOT_LIMIT, || {
            let up =
                self.node(node).run("xl list && test -S /run/dbus/system_bus_socket", BOOT_LIMIT);
            Ok(up.is_ok_and(|output| output.success()).then_some(()))
        })?;
        set_clock(self.node(node))
    }

    /// Lets a frozen host run on.
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn thaw(&self, node: Node) -> Result<()> {
        self.machines.monitor(node)?.execute("cont", &Value::Null).map(drop)
    }

    /// Writes the hosts' logs to `dir`: console, journal, Xen's messages, `/var/log/xen` with the
    /// guests' consoles. What a host that is down cannot tell is left out.
    ///
    /// # Errors
    /// `dir` cannot be written to.
    pub fn collect_logs(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        on_each(self.nodes(), |node| {
            let console = qemu::console_path(&self.run_dir, node);
            fs::copy(&console, dir.join(format!("{node}.console")))
                .with_context(|| format!("copying {}", console.display()))?;
            let report = "xl list; xl dmesg; journalctl --boot --no-pager --output=short-precise; \
                          tail -n +1 /var/log/xen/*.log /var/log/xen/console/*.log";
            if let Ok(output) = self.node(node).run(report, COMMAND_LIMIT) {
                fs::write(dir.join(format!("{node}.log")), output.stdout)?;
            }
            Ok(())
        })
    }

    /// Ends the lab and removes its run directory.
    ///
    /// # Errors
    /// A QEMU does not end, or the directory cannot be removed.
    pub fn down(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if let Some(dir) = self.keep_logs.take() {
            self.collect_logs(&dir)?;
        }
        self.close_connections();
        self.machines.end()?;
        run_dir::destroy(&self.run_dir)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.life == Life::Owned
            && self.run_dir.exists()
            && let Err(error) = self.end()
        {
            eprintln!("lab: ending it: {error:#}");
        }
    }
}

pub(crate) fn watchdog(run_dir: &Path, nodes: &[Node]) -> Watchdog {
    Watchdog::start(nodes.iter().map(|node| qemu::monitor_path(run_dir, *node)).collect())
}

pub(crate) fn hosts(run_dir: &Path, nodes: &[Node]) -> Vec<Host> {
    nodes.iter().map(|node| Host::new(run_dir, node.name())).collect()
}

/// Waits until a host takes commands and gives it the present time: a snapshot brings its own time
/// back.
fn set_clock(host: &Host) -> Result<()> {
    wait_for(host.name(), ANSWER_LIMIT, || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        Ok(host.run(&format!("date -s @{now:.3}"), ANSWER_LIMIT)?.success().then_some(()))
    })
}

/// Starts a domain and waits until its sshd or its memcheck answers.
pub(crate) fn create_guest(host: &Host, guest: Guest, deadline: Duration) -> Result<()> {
    let end = Instant::now() + deadline;
    let Guest { name, ip, .. } = guest;
    host.check(&format!("xl create /etc/xen/{name}.cfg"), deadline)?;
    let probe = if guest.ssh {
        format!("ssh -o ConnectTimeout=10 {name} systemctl is-system-running --wait")
    } else {
        format!(
            "echo | socat -u TCP:{ip}:{MEMCHECK_PORT},connect-timeout=5 STDOUT | head -n 1 | grep \
             -q pages"
        )
    };
    loop {
        let said = match host.run(&probe, end.saturating_duration_since(Instant::now())) {
            Ok(said) if said.success() => return Ok(()),
            Ok(said) => format!("{} {}", said.stdout.trim(), said.stderr.trim()),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= end {
            let last = last_words(host, name);
            bail!(
                "{name} is not up on {} within {deadline:?}: {said}; its console ends: {last}",
                host.name()
            );
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The end of a guest's console.
fn last_words(host: &Host, guest: &str) -> String {
    let tail = format!("tail -n 4 /var/log/xen/console/guest-{guest}.log");
    host.run(&tail, ANSWER_LIMIT).map_or_else(|error| format!("{error:#}"), |said| said.stdout)
}
