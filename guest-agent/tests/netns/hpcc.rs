//! hpcc on plain Linux, over all domains of a world.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::hpcc_words;
use crate::mpi::{Library, Mpirun};
use crate::world::World;

/// Longest time for the whole benchmark, on a machine that is busy with other things.
const LONGEST: Duration = Duration::from_secs(240);

pub struct Hpcc {
    mpirun: Mpirun,
    output: PathBuf,
}

impl Hpcc {
    /// Starts hpcc with two ranks in each domain.
    pub fn start<const N: usize>(world: &World<N>) -> Result<Self> {
        let directory = world.scratch.path().join("hpcc");
        fs::create_dir(&directory)?;
        fs::write(directory.join("hpccinf.txt"), hpcc_words::input()?)?;
        let mut command: Command = Library::OpenMpi.mpirun(world)?;
        command.args(["-wdir"]).arg(&directory).arg("hpcc");
        let mpirun = Mpirun(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
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
        let status = self.mpirun.wait(LONGEST, &self.output)?;
        let said = self.said();
        ensure!(status.success(), "{status}:\n{said}");
        hpcc_words::verify(&said)
    }
}
