//! One QEMU per nested host: its command line and its life.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::accelerator::Accelerator;
use crate::monitor::{Monitor, forwarded_port};
use crate::process::{ProcessId, wait_for};
use crate::topology::Node;

/// Debian's name for the emulator of this machine type.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// Xen's command line. Its last three options take work from an emulated processor:
/// - credit2 lets a domain run for 5 ms (1 ms by default) before it gives the processor to another.
///   A switch empties the emulator's caches of what it has translated; with 1 ms on a host with two
///   spinning ranks and a dom0 that copies, Xen had half of the processor.
/// - Timers that are due within 0.5 ms of each other (0.05 ms by default) share an interrupt.
/// - Branch predictors that are not there are not protected: Xen fills no return stack when it is
///   entered, and no indirect branch goes through a thunk.
pub(crate) const XEN_ARGUMENTS: &str = "console=com1 com1=115200,8n1 dom0_mem=1024M,max:1024M \
                                        dom0_max_vcpus=1 sched_ratelimit_us=5000 \
                                        timer_slop=500000 spec-ctrl=no";

/// The dom0 kernel's command line, less what tells the hosts apart. Like Xen it protects no branch
/// predictor, and the guests' kernels do not either.
pub(crate) const DOM0_ARGUMENTS: &str =
    "console=hvc0 root=/dev/vda rw net.ifnames=0 mitigations=off";

/// The tag of the snapshot in the hosts' golden disks.
pub(crate) const SNAPSHOT: &str = "golden";

/// Longest wait for an answer of the monitor; loading a snapshot takes two seconds on an idle
/// machine.
const MONITOR_LIMIT: Duration = Duration::from_secs(180);
const START_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(30);

/// Directories of the built parts that a host is made of.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// Xen, dom0's kernel and root disk.
    pub(crate) dom0: PathBuf,
    /// The root disk of `dom3` and `dom4`.
    pub(crate) big: PathBuf,
    /// The guests' kernel and initramfs.
    pub(crate) boot: PathBuf,
}

/// How a host starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// From power-on, with nothing but a disk.
    Boot,
    /// Stopped, at the snapshot in its disk.
    Golden,
}

/// Who ends a QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// This process: it does so on drop, and the kernel does should the process be killed.
    Owned,
    /// Whoever runs `lab down`.
    Detached,
}

/// A running QEMU.
pub(crate) struct Qemu {
    id: ProcessId,
    /// Present where the QEMU ends with this process.
    child: Option<Child>,
    monitor: PathBuf,
    /// What it says on its standard output and error.
    log: PathBuf,
}

impl Qemu {
    /// Starts the QEMU of `node` in its run directory, which holds its disk, and waits until its
    /// monitor answers.
    ///
    /// `nodes` are all that the lab has, for the links between them.
    pub(crate) fn start(
        node: Node,
        nodes: &[Node],
        run_dir: &Path,
        parts: &Parts,
        accelerator: Accelerator,
        start: Start,
        life: Life,
    ) -> Result<Self> {
        let mut command = match life {
            Life::Owned => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", PROGRAM]);
                command
            }
            Life::Detached => Command::new(PROGRAM),
        };
        machine(&mut command, accelerator, start);
        host(&mut command, node, run_dir, parts);
        link(&mut command, node, nodes, run_dir);
        let log = File::create(log_path(run_dir, node)).context("QEMU's log")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = match life {
            Life::Owned => crate::process::spawn_from_lasting_thread(command)?,
            Life::Detached => command
                .process_group(0)
                .spawn()
                .with_context(|| format!("cannot start {PROGRAM}"))?,
        };
        let id = ProcessId::of(child.id()).context("QEMU ended at once")?;
        let mut qemu = Self::existing(id, run_dir, node);
        qemu.child = (life == Life::Owned).then_some(child);
        qemu.ready(node)
    }

    /// Takes over a QEMU that another process started.
    pub(crate) fn existing(id: ProcessId, run_dir: &Path, node: Node) -> Self {
        Self { id, child: None, monitor: monitor_path(run_dir, node), log: log_path(run_dir, node) }
    }

    fn ready(mut self, node: Node) -> Result<Self> {
        let started = wait_for("QEMU's monitor", START_LIMIT, || {
            if !self.is_alive() {
                bail!("QEMU ended");
            }
            Ok(listens(&self.monitor).then_some(()))
        });
        if let Err(error) = started {
            let said = self.said();
            let _ = self.end();
            return Err(error.context(format!("{node}: {said}")));
        }
        Ok(self)
    }

    /// Its identity, to record.
    pub(crate) fn id(&self) -> ProcessId {
        self.id
    }

    fn is_alive(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => self.id.is_alive(),
        }
    }

    /// A new connection to its monitor; it is answered once the machine is set up.
    pub(crate) fn monitor(&self) -> Result<Monitor> {
        Monitor::connect(&self.monitor, MONITOR_LIMIT)
            .with_context(|| format!("QEMU says: {}", self.said()))
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default().trim_end().to_owned()
    }

    /// The port on 127.0.0.1 that leads to the host's sshd.
    pub(crate) fn ssh_port(&self) -> Result<u16> {
        forwarded_port(&self.monitor()?.human("info usernet")?)
    }

    /// Kills and reaps it.
    pub(crate) fn end(&mut self) -> Result<()> {
        match self.child.take() {
            Some(mut child) => {
                let _ = child.kill();
                child.wait().context("reaping QEMU")?;
                Ok(())
            }
            None => self.id.kill(END_LIMIT),
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if self.child.is_some() {
            // Waiting for a killed child cannot fail in a way that leaves it behind.
            let _ = self.end();
        }
    }
}

/// The disk of a host, in a run directory or a golden one.
pub(crate) fn disk_path(dir: &Path, node: Node) -> PathBuf {
    dir.join(format!("{node}.qcow2"))
}

/// What a host's serial console printed.
pub(crate) fn console_path(run_dir: &Path, node: Node) -> PathBuf {
    run_dir.join(format!("{node}.console"))
}

pub(crate) fn monitor_path(run_dir: &Path, node: Node) -> PathBuf {
    run_dir.join(format!("{node}.qmp"))
}

fn log_path(run_dir: &Path, node: Node) -> PathBuf {
    run_dir.join(format!("{node}.qemu.log"))
}

/// The sockets of the links between these hosts, at which the first of them listens.
pub(crate) fn links(nodes: &[Node], run_dir: &Path) -> Vec<PathBuf> {
    nodes.iter().skip(1).map(|node| link_path(run_dir, *node)).collect()
}

/// The socket of the link between the first host and this one.
fn link_path(run_dir: &Path, node: Node) -> PathBuf {
    run_dir.join(format!("{node}.link"))
}

fn machine(command: &mut Command, accelerator: Accelerator, start: Start) {
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc"])
        .args(["-accel", accelerator.name(), "-cpu", accelerator.cpu_model()])
        // With more than one CPU under TCG, PVH guests that move between them triple-fault while
        // they boot.
        .args(["-smp", "1", "-m", "3072"]);
    if start == Start::Golden {
        command.args(["-S", "-loadvm", SNAPSHOT]);
    }
}

fn host(command: &mut Command, node: Node, run_dir: &Path, parts: &Parts) {
    let number = node.number();
    let dom0 = &parts.dom0;
    let kernel = dom0.join("vmlinuz");
    command
        .arg("-kernel")
        .arg(dom0.join("xen"))
        .args(["-append", XEN_ARGUMENTS])
        .arg("-initrd")
        .arg(format!(
            "{} {DOM0_ARGUMENTS} systemd.hostname={node} lab.number={number},{}",
            kernel.display(),
            dom0.join("initrd.img").display()
        ));
    disk(command, "qcow2,cache=unsafe,discard=unmap", &disk_path(run_dir, node));
    disk(command, "raw,readonly=on", &parts.big.join("big.ext4"));
    disk(command, "raw,readonly=on", &parts.boot.join("boot.ext4"));
    command
        .args(["-netdev", "user,id=management,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"])
        .args([
            "-device",
            &format!("virtio-net-pci,netdev=management,mac=52:54:00:77:00:0{number}"),
        ])
        .args(["-device", &format!("virtio-net-pci,netdev=link,mac=52:54:00:77:02:0{number}")])
        .args(["-serial", &format!("file:{}", console_path(run_dir, node).display())])
        .args([
            "-qmp",
            &format!("unix:{},server=on,wait=off", monitor_path(run_dir, node).display()),
        ]);
}

/// The hosts' network: a link where there are two, a hub in the first host's QEMU where there are
/// more. A host alone has a hub to itself.
fn link(command: &mut Command, node: Node, nodes: &[Node], run_dir: &Path) {
    let mut stream = |id: &str, server: &str, of: Node| {
        let path = link_path(run_dir, of);
        command.arg("-netdev");
        command.arg(format!(
            "stream,id={id},server={server},addr.type=unix,addr.path={}",
            path.display()
        ));
    };
    match nodes.split_first() {
        Some((first, _)) if *first != node => stream("link", "off", node),
        Some((_, [other])) => stream("link", "on", *other),
        Some((_, others)) => {
            for other in others {
                stream(other.name(), "on", *other);
            }
            command.args(["-netdev", "hubport,id=link,hubid=0"]);
            for other in others {
                command.args(["-netdev", &format!("hubport,id=to-{other},hubid=0,netdev={other}")]);
            }
        }
        None => {}
    }
}

fn disk(command: &mut Command, options: &str, path: &Path) {
    command.arg("-drive").arg(format!("if=virtio,format={options},file={}", path.display()));
}

/// Whether something listens on a Unix socket. Connecting to find out would take the place of the
/// peer.
pub(crate) fn listens(socket: &Path) -> bool {
    const ACCEPTS_CONNECTIONS: &str = "00010000";
    let path = socket.to_string_lossy();
    fs::read_to_string("/proc/net/unix").is_ok_and(|table| {
        table.lines().any(|line| {
            let mut fields = line.split_ascii_whitespace();
            fields.nth(3) == Some(ACCEPTS_CONNECTIONS) && fields.nth(3) == Some(&*path)
        })
    })
}

/// QEMU's version: another may refuse a snapshot, or load it wrongly.
pub(crate) fn version() -> Result<String> {
    let output =
        crate::process::check(Command::new(PROGRAM).arg("--version"), Duration::from_secs(10))?;
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_listening_socket_is_seen_without_connecting() {
        let path = std::env::temp_dir().join(format!("rxl-lab-listens-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        assert!(!listens(&path));
        let listener = UnixListener::bind(&path).unwrap();
        assert!(listens(&path));
        drop(listener);
        assert!(!listens(&path));
        fs::remove_file(&path).unwrap();
    }
}
