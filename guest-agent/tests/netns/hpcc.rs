//! hpcc, the HPC Challenge benchmark, as Debian builds it: kernels of every kind of communication,
//! each of which verifies its own result.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::mpi::Library;
use crate::world::World;

/// Longest time for the whole benchmark, on a machine that is busy with other things.
const LONGEST: Duration = Duration::from_secs(240);

/// Small problems: what is wanted is the traffic, not the figures.
const CHANGES: [(usize, &str); 4] = [(6, "256 Ns"), (8, "32 NBs"), (11, "2 Ps"), (12, "4 Qs")];

/// What each kernel that verifies its result says of it when it is right.
const VERIFIED: [(&str, usize); 4] = [
    ("(passed)", 4),
    ("5 tests completed and passed residual checks", 1),
    ("1 tests completed and passed residual checks", 1),
    ("Success=1", 1),
];

/// What a kernel says when its result is wrong.
const WRONG: [&str; 3] = ["FAILED", "(failed)", "Success=0"];

pub struct Hpcc {
    mpirun: Child,
    output: PathBuf,
}

impl Hpcc {
    /// Starts hpcc with two ranks in each domain.
    pub fn start<const N: usize>(world: &World<N>) -> Result<Self> {
        let directory = world.scratch.path().join("hpcc");
        fs::create_dir(&directory)?;
        fs::write(directory.join("hpccinf.txt"), input()?)?;
        let mut command: Command = Library::OpenMpi.mpirun(world)?;
        command.args(["-wdir"]).arg(&directory).arg("hpcc");
        let mpirun = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        Ok(Self { mpirun, output: directory.join("hpccoutf.txt") })
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Waits until another kernel has begun.
    pub fn await_next_section(&self) -> Result<()> {
        let sections = |text: &str| text.matches("Begin of").count();
        let (before, until) = (sections(&self.said()), Instant::now() + LONGEST / 4);
        while sections(&self.said()) == before {
            ensure!(Instant::now() < until, "hpcc makes no progress:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Waits for its end; every kernel must have verified its result. One line about it.
    pub fn end_well(mut self) -> Result<String> {
        let until = Instant::now() + LONGEST;
        let status = loop {
            match self.mpirun.try_wait()? {
                Some(status) => break status,
                None if Instant::now() >= until => bail!("hpcc hangs:\n{}", self.said()),
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        let said = self.said();
        ensure!(status.success(), "{status}:\n{said}");
        for (right, times) in VERIFIED {
            ensure!(said.matches(right).count() >= times, "no {times} of '{right}' in\n{said}");
        }
        ensure!(!WRONG.iter().any(|wrong| said.contains(wrong)), "{said}");
        Ok(format!("hpcc: {} kernels, all results verified", said.matches("End of").count()))
    }
}

/// Debian's example with smaller problems.
fn input() -> Result<String> {
    let example = "/usr/share/doc/hpcc/examples/_hpccinf.txt";
    let example = fs::read_to_string(example).context("hpcc: `make deps` installs it")?;
    let line = |(index, line): (usize, &str)| {
        let changed = CHANGES.iter().find(|(number, _)| *number == index + 1);
        changed.map_or(line, |(_, changed)| changed).to_owned() + "\n"
    };
    Ok(example.lines().enumerate().map(line).collect())
}

/// Ends mpirun, which ends its daemons and ranks.
impl Drop for Hpcc {
    fn drop(&mut self) {
        if matches!(self.mpirun.try_wait(), Ok(None)) {
            let pid = nix::unistd::Pid::from_raw(self.mpirun.id() as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = self.mpirun.wait();
        }
    }
}
