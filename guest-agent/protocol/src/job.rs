//! The ranks in a domain.

use std::fmt;
use std::str::FromStr;

use crate::fields::{Fields, Malformed, Number};
use crate::token::Token;

/// Most ranks in one row, so that it stays below [`crate::MAX_VALUE`]. A job with more has several
/// rows with the same id.
pub const MAX_ROW_RANKS: usize = 32;

/// Most rows in a domain.
pub const MAX_JOB_ROWS: usize = 256;

/// Some of a job's ranks in this domain: `id=ID launcher=L size=N ranks=R:PID,R:PID...`, and
/// `part=N` where they belong to a process group that the job has spawned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// The job's id, the same in all domains that the job has ranks in.
    pub id: Token,
    /// What started the job, as far as its environment tells.
    pub launcher: Launcher,
    /// The number of ranks in the job, or in this process group of it. 0 when it is not known.
    pub size: u32,
    /// Which of the job's process groups the row is of: 0 the one that was launched, others those
    /// that MPI_Comm_spawn has added. Each numbers its ranks from 0, and has a size of its own.
    pub part: u32,
    /// 1 to [`MAX_ROW_RANKS`] ranks.
    pub ranks: Vec<Rank>,
}

/// A rank's number and process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// The rank's number in the job.
    pub number: u32,
    /// The rank's process id in the guest.
    pub pid: u32,
}

/// What started a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Launcher {
    /// Open MPI's mpirun.
    OpenMpi,
    /// Something else with PMIx.
    Pmix,
    /// MPICH's or another mpiexec, Hydra.
    Hydra,
    /// Slurm's srun, with PMI2 or PMIx.
    Slurm,
}

impl FromStr for JobRow {
    type Err = Malformed;

    fn from_str(value: &str) -> Result<Self, Malformed> {
        let mut fields = Fields::of(value)?;
        let row = Self {
            id: fields.parsed("id")?,
            launcher: fields.parsed("launcher")?,
            size: fields.number_field("size")?,
            part: part(&mut fields)?,
            ranks: parse_ranks(fields.field("ranks")?)?,
        };
        fields.end()?;
        Ok(row)
    }
}

fn part(fields: &mut Fields) -> Result<u32, Malformed> {
    let Some(text) = fields.optional("part") else { return Ok(0) };
    u32::parse(text).filter(|part| *part > 0).ok_or(Malformed::Bad("part"))
}

fn parse_ranks(list: &str) -> Result<Vec<Rank>, Malformed> {
    let ranks: Vec<_> = list
        .split(',')
        .take(MAX_ROW_RANKS + 1)
        .map(parse_rank)
        .collect::<Option<_>>()
        .ok_or(BAD)?;
    if ranks.len() > MAX_ROW_RANKS { Err(BAD) } else { Ok(ranks) }
}

const BAD: Malformed = Malformed::Bad("ranks");

fn parse_rank(word: &str) -> Option<Rank> {
    let (number, pid) = word.split_once(':')?;
    Some(Rank { number: u32::parse(number)?, pid: u32::parse(pid)? })
}

impl fmt::Display for JobRow {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "id={} launcher={} size={} ", self.id, self.launcher, self.size)?;
        if self.part > 0 {
            write!(f, "part={} ", self.part)?;
        }
        f.write_str("ranks=")?;
        for (n, rank) in self.ranks.iter().enumerate() {
            write!(f, "{}{}:{}", if n > 0 { "," } else { "" }, rank.number, rank.pid)?;
        }
        Ok(())
    }
}

impl FromStr for Launcher {
    type Err = Malformed;

    fn from_str(word: &str) -> Result<Self, Malformed> {
        match word {
            "openmpi" => Ok(Self::OpenMpi),
            "pmix" => Ok(Self::Pmix),
            "hydra" => Ok(Self::Hydra),
            "slurm" => Ok(Self::Slurm),
            _ => Err(Malformed::Bad("launcher")),
        }
    }
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::OpenMpi => "openmpi",
            Self::Pmix => "pmix",
            Self::Hydra => "hydra",
            Self::Slurm => "slurm",
        })
    }
}
