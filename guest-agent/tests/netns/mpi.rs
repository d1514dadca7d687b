//! An MPI job over both domains: tests/guest/mpi-audit.c, two ranks in each.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::world::{ADDRESSES, World, enter};

/// A running mpirun. Dropping it ends it, which ends its daemons and ranks. What a failure leaves
/// of them ends when their connections do.
pub struct Mpirun(pub Child);

impl Mpirun {
    /// Waits for its end, no longer than this. `output`: what tells how far the job has come.
    pub fn wait(&mut self, patience: Duration, output: &Path) -> Result<ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            let said = || fs::read_to_string(output).unwrap_or_default();
            ensure!(Instant::now() < until, "the job hangs:\n{}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Mpirun {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(self.0.id() as i32),
                nix::sys::signal::Signal::SIGTERM,
            );
            let _ = self.0.wait();
        }
    }
}

pub struct Job {
    mpirun: Mpirun,
    output: PathBuf,
    /// A file whose presence ends the job.
    stop: PathBuf,
}

/// Seconds that a job runs if nobody ends it.
const LONGEST: &str = "60";

/// The last line of mpi-audit.
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

/// The MPI library that a job runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    OpenMpi,
    /// MPICH over UCX, as Debian builds it.
    Mpich,
}

impl Library {
    /// The ending that Debian gives the library's programs.
    fn suffix(self) -> &'static str {
        match self {
            Self::OpenMpi => "openmpi",
            Self::Mpich => "mpich",
        }
    }

    /// The command of mpirun in the first domain, for two ranks in each domain.
    pub fn mpirun<const N: usize>(self, world: &World<N>) -> Result<Command> {
        let mut command = world.domains[0].command(format!("mpirun.{}", self.suffix()));
        let rsh = rsh(world)?.to_str().context("a path that is not UTF-8")?.to_owned();
        let addresses = &ADDRESSES[..N];
        match self {
            Self::OpenMpi => {
                command
                    .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
                    .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
                for (name, value) in [
                    ("plm_rsh_agent", rsh.as_str()),
                    ("btl", "tcp,vader,self"),
                    ("btl_tcp_if_include", NETWORK),
                    ("oob_tcp_if_include", NETWORK),
                    ("mpi_yield_when_idle", "1"),
                ] {
                    command.args(["--mca", name, value]);
                }
                let hosts: Vec<_> =
                    addresses.iter().map(|address| format!("{address}:2")).collect();
                let hosts = hosts.join(",");
                command.args(["--host", &hosts]);
            }
            Self::Mpich => {
                command.args([
                    "-launcher",
                    "rsh",
                    "-launcher-exec",
                    &rsh,
                    "-localhost",
                    addresses[0],
                ]);
                command.args(["-hosts", &addresses.join(","), "-ppn", "2"]);
                command.env("UCX_TLS", "tcp,self").env("UCX_NET_DEVICES", "eth0");
            }
        }
        command.args(["-n", &(2 * N).to_string()]);
        Ok(command)
    }
}

const NETWORK: &str = "10.77.0.0/24";

impl Job {
    /// Starts the job and waits until it makes progress.
    pub fn start(world: &World, more: &[&str]) -> Result<Self> {
        Self::start_on(Library::OpenMpi, world, more)
    }

    /// Starts the job on this library and waits until it makes progress.
    pub fn start_on(library: Library, world: &World, more: &[&str]) -> Result<Self> {
        let [output, stop] = ["job", "stop"].map(|name| world.scratch.path().join(name));
        let _ = fs::remove_file(&stop);
        let file = fs::File::create(&output)?;
        let mut command = library.mpirun(world)?;
        command.arg(build(library)?);
        command.args([LONGEST, "7", "--until"]).arg(&stop).args(more);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let job = Self {
            mpirun: Mpirun(command.spawn().with_context(|| format!("mpirun of {library:?}"))?),
            output,
            stop,
        };
        job.wait_for_progress()?;
        Ok(job)
    }

    fn wait_for_progress(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        while self.progress()? == 0 {
            ensure!(
                Instant::now() < until,
                "the job does not start:\n{}",
                fs::read_to_string(&self.output)?
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The number of iterations that rank 0 has told of.
    pub fn progress(&self) -> Result<u64> {
        let text = fs::read_to_string(&self.output)?;
        Ok(text
            .lines()
            .rev()
            .find_map(|line| serde_json::from_str::<Progress>(line).ok())
            .map_or(0, |line| line.progress))
    }

    /// Ends the job, waits for its end no longer than this, and returns its last line and whether
    /// it calls itself good.
    pub fn end(mut self, patience: Duration) -> Result<(Verdict, bool)> {
        fs::write(&self.stop, "")?;
        let status = self.mpirun.wait(patience, &self.output)?;
        let text = fs::read_to_string(&self.output)?;
        match Verdict::find(&text) {
            Some(verdict) => Ok((verdict, status.success())),
            None => bail!("the job ended with {status} and no last line:\n{text}"),
        }
    }

    /// Ends the job, which must call itself good.
    pub fn end_well(self) -> Result<Verdict> {
        let (verdict, good) = self.end(Duration::from_secs(30))?;
        verdict.check(good)
    }

    /// Ends the job and waits for its last line, not for its end: between two hosts Debian's MPICH
    /// (4.0.2 over UCX) hangs in MPI_Finalize, whatever has been done to it before.
    pub fn last_words(self) -> Result<Verdict> {
        fs::write(&self.stop, "")?;
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let text = fs::read_to_string(&self.output)?;
            if let Some(verdict) = Verdict::find(&text) {
                return verdict.check(true);
            }
            ensure!(Instant::now() < until, "the job hangs:\n{text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Verdict {
    /// Looks for a line in what the job has said so far.
    fn find(text: &str) -> Option<Self> {
        text.lines().rev().find_map(|line| serde_json::from_str(line).ok())
    }

    fn check(self, good: bool) -> Result<Self> {
        let Self { lost, duplicated, reordered, corrupt, .. } = self;
        ensure!(
            good && [lost, duplicated, reordered, corrupt] == [0; 4] && self.sent == self.received,
            "{self:?}"
        );
        Ok(self)
    }
}

/// Makes what mpirun calls in place of ssh: `rsh ADDRESS COMMAND...` enters the namespace of that
/// address.
fn rsh<const N: usize>(world: &World<N>) -> Result<PathBuf> {
    let path = world.scratch.path().join("rsh");
    let namespace =
        world.domains[0].namespace.strip_suffix('1').context("a namespace without number")?;
    let script = format!(
        "#!/bin/sh\nn=${{1##*.}}\nshift\nexec unshare --uts -- sh -c '{}' sh sh -c \"$*\"\n",
        enter(&format!("{namespace}'$n'"))
    );
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Compiles mpi-audit, once for each library.
fn build(library: Library) -> Result<PathBuf> {
    static BUILT: Mutex<Vec<Library>> = Mutex::new(Vec::new());
    let program =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mpi-audit.{}", library.suffix()));
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if !built.contains(&library) {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/guest/mpi-audit.c");
        let mpicc = format!("mpicc.{}", library.suffix());
        let mut command = Command::new(&mpicc);
        command.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(source);
        let status =
            command.status().with_context(|| format!("{mpicc}: `make deps` installs it"))?;
        ensure!(status.success(), "{mpicc} failed");
        built.push(library);
    }
    Ok(program)
}
