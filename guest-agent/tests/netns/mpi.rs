//! An MPI job over both domains: tests/guest/mpi-audit.c, two ranks in each.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::world::{ADDRESSES, World};

pub struct Job {
    mpirun: Child,
    output: PathBuf,
    /// Ends the job when it is there.
    stop: PathBuf,
}

/// How long a job runs that nobody ends, in seconds.
const LONGEST: &str = "60";

/// mpi-audit's last line.
#[derive(Debug, Deserialize)]
pub struct Verdict {
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub corrupt: u64,
    pub longest_stall_ms: f64,
}

#[derive(Deserialize)]
struct Progress {
    progress: u64,
}

impl Job {
    /// Starts the job and waits until it makes progress.
    pub fn start(world: &World, more: &[&str]) -> Result<Self> {
        let [output, stop] = ["job", "stop"].map(|name| world.scratch.path().join(name));
        let _ = fs::remove_file(&stop);
        let file = fs::File::create(&output)?;
        let mut command = world.domains[0].command("mpirun");
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        let network = "10.77.0.0/24";
        let hosts = ADDRESSES.map(|address| format!("{address}:2")).join(",");
        for (name, value) in [
            ("plm_rsh_agent", rsh(world)?.to_str().context("a path that is not UTF-8")?),
            ("btl", "tcp,self"),
            ("btl_tcp_if_include", network),
            ("oob_tcp_if_include", network),
            ("mpi_yield_when_idle", "1"),
        ] {
            command.args(["--mca", name, value]);
        }
        command.args(["--host", &hosts, "-n", "4"]).arg(build()?);
        command.args([LONGEST, "7", "--until"]).arg(&stop).args(more);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let job = Self { mpirun: command.spawn().context("mpirun (openmpi-bin)")?, output, stop };
        job.wait_for_progress()?;
        Ok(job)
    }

    fn wait_for_progress(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        while self.progress()? == 0 {
            ensure!(Instant::now() < until, "the job does not start:\n{}", fs::read_to_string(&self.output)?);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Iterations that rank 0 has told of.
    pub fn progress(&self) -> Result<u64> {
        let text = fs::read_to_string(&self.output)?;
        Ok(text
            .lines()
            .rev()
            .find_map(|line| serde_json::from_str::<Progress>(line).ok())
            .map_or(0, |line| line.progress))
    }

    /// Ends the job, waits for its end, no longer than this, and returns its last line and whether it calls itself good.
    pub fn end(mut self, patience: Duration) -> Result<(Verdict, bool)> {
        fs::write(&self.stop, "")?;
        let until = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.mpirun.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < until, "the job hangs:\n{}", fs::read_to_string(&self.output)?);
            std::thread::sleep(Duration::from_millis(20));
        };
        let text = fs::read_to_string(&self.output)?;
        let verdict = text.lines().rev().find_map(|line| serde_json::from_str(line).ok());
        match verdict {
            Some(verdict) => Ok((verdict, status.success())),
            None => bail!("the job ended with {status} and no last line:\n{text}"),
        }
    }

    /// The same, and all must be well.
    pub fn end_well(self) -> Result<Verdict> {
        let (verdict, good) = self.end(Duration::from_secs(30))?;
        let Verdict { lost, duplicated, reordered, corrupt, .. } = verdict;
        ensure!(
            good && [lost, duplicated, reordered, corrupt] == [0; 4] && verdict.sent == verdict.received,
            "{verdict:?}"
        );
        Ok(verdict)
    }
}

/// mpirun ends its daemons and ranks itself; what is left after a failure ends with the namespaces' agents gone.
impl Drop for Job {
    fn drop(&mut self) {
        if matches!(self.mpirun.try_wait(), Ok(None)) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(self.mpirun.id() as i32),
                nix::sys::signal::Signal::SIGTERM,
            );
            let _ = self.mpirun.wait();
        }
    }
}

/// What mpirun calls in place of ssh: `rsh ADDRESS COMMAND...` enters the namespace of that address.
fn rsh(world: &World) -> Result<PathBuf> {
    let path = world.scratch.path().join("rsh");
    let namespace = world.domains[0].namespace.strip_suffix('1').context("a namespace without number")?;
    let script =
        format!("#!/bin/sh\nn=${{1##*.}}\nshift\nexec nsenter --net=/run/netns/{namespace}$n -- sh -c \"$*\"\n");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// mpi-audit, compiled once.
fn build() -> Result<&'static Path> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program);
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mpi-audit");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/guest/mpi-audit.c");
    let mut mpicc = Command::new("mpicc");
    mpicc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(source);
    let status = mpicc.status().context("mpicc (libopenmpi-dev)")?;
    ensure!(status.success(), "mpicc failed");
    Ok(PROGRAM.get_or_init(|| program))
}
