//! Judges a process by the table of launchers: which rank of which job it is, or why it is none.

use std::collections::HashMap;
use std::fmt;

use rxl_agent_protocol::{Launcher, Token};

use super::launchers::{self, FIRST_SPECIAL_STEP, Role, Row, Source, TABLE};

/// Most ancestors of a process that are looked at.
const MAX_DEPTH: usize = 64;

/// The processes that a table's row may ask about.
pub trait Processes {
    /// All of them, kernel threads and zombies left out.
    fn pids(&self) -> Vec<i32>;

    /// The parent of a process. None if that is not known.
    fn parent(&self, pid: i32) -> Option<i32>;

    /// The processes that a process has started.
    fn children(&self, pid: i32) -> Vec<i32>;

    /// The kernel's name for a process (`/proc/PID/comm`).
    fn name(&self, pid: i32) -> Option<&str>;

    /// The command line. Empty if it cannot be read.
    fn arguments(&self, pid: i32) -> Vec<String>;

    /// The variables that the process was started with. Empty if they cannot be read.
    fn variables(&self, pid: i32) -> Variables;

    /// Whether the process has a library of MPI's in memory.
    fn has_mpi(&self, pid: i32) -> bool;
}

/// Variables by name, those whose values are text.
pub type Variables = HashMap<String, String>;

/// What the table says of a process.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The nearest launcher above it.
    pub launcher: Option<i32>,
    /// The row that decided.
    pub row: Option<&'static Row>,
    /// The variables and arguments that decided.
    pub by: Vec<&'static str>,
    /// Which rank it is, or why it is none.
    pub verdict: Result<Identity, Why>,
}

/// Which rank of which job a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The job's id, the same on all nodes.
    pub job: Token,
    /// Which of the job's process groups it belongs to: 0 the one that was launched, others those
    /// that MPI_Comm_spawn has added.
    pub part: u32,
    /// What started the job.
    pub launcher: Launcher,
    /// The rank's number in the group.
    pub rank: u32,
    /// The number of ranks in the group. 0 when it is not known.
    pub size: u32,
}

/// Why a process is no rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is a launcher, or carries a launcher's messages.
    Launcher,
    /// The launcher above it starts no ranks itself.
    StartsNoRanks,
    /// The launcher above it has not made it a rank.
    NoRank,
    /// It has a rank's number, and nothing says of which job.
    NoJob,
    /// It belongs to a step of Slurm's own: an interactive shell's, or a batch script's.
    SpecialStep,
    /// It is a task of Slurm's that runs no MPI, and has none beside it or has started a launcher.
    NoMpi,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Launcher => "a launcher",
            Self::StartsNoRanks => "its launcher starts no ranks itself",
            Self::NoRank => "its launcher has not made it a rank",
            Self::NoJob => "nothing says of which job it is a rank",
            Self::SpecialStep => "its step is an interactive shell's or a batch script's",
            Self::NoMpi => "a task without MPI",
        })
    }
}

/// Which rank of which job a process is, or why it is none, by itself and its ancestors alone.
pub fn judge(pid: i32, processes: &impl Processes) -> Judged {
    let no = |launcher, why| Judged { launcher, row: None, by: Vec::new(), verdict: Err(why) };
    if processes.name(pid).is_some_and(launchers::is_launcher) {
        return no(nearest(pid, processes), Why::Launcher);
    }
    let launcher = nearest(pid, processes);
    let name = launcher.and_then(|launcher| processes.name(launcher));
    match (launcher, name.and_then(launchers::role)) {
        (Some(_), Some(Role::Helper)) => no(launcher, Why::StartsNoRanks),
        (Some(starter), Some(Role::Starter)) => {
            let place = Place { variables: processes.variables(pid), starter: Some(starter) };
            place.best(launchers::rows_of(name.unwrap_or_default()), processes)
        }
        _ => {
            let place = Place { variables: processes.variables(pid), starter: None };
            place.best(TABLE.iter(), processes)
        }
    }
}

/// The nearest launcher among a process's ancestors.
pub fn nearest(pid: i32, processes: &impl Processes) -> Option<i32> {
    let ancestors = std::iter::successors(Some(pid), |pid| processes.parent(*pid)).skip(1);
    let mut ancestors = ancestors.take(MAX_DEPTH);
    ancestors.find(|pid| processes.name(*pid).is_some_and(|name| launchers::role(name).is_some()))
}

/// What a row is asked about.
struct Place {
    variables: Variables,
    starter: Option<i32>,
}

/// A job's id, the group within it, and what told them.
struct Named {
    job: Token,
    part: u32,
    by: Vec<&'static str>,
}

impl Place {
    /// The first of these rows that makes the process a rank, or else the last that had a rank's
    /// number.
    fn best(&self, rows: impl Iterator<Item = &'static Row>, processes: &impl Processes) -> Judged {
        let none =
            Judged { launcher: self.starter, row: None, by: Vec::new(), verdict: Err(Why::NoRank) };
        let mut best = none;
        for row in rows {
            let judged = self.read(row, processes);
            if judged.verdict.is_ok() {
                return judged;
            }
            if judged.verdict != Err(Why::NoRank) || best.row.is_none() {
                best = judged;
            }
        }
        best
    }

    fn read(&self, row: &'static Row, processes: &impl Processes) -> Judged {
        let judged = |by, verdict| Judged { launcher: self.starter, row: Some(row), by, verdict };
        let Some((by_rank, rank)) = self.first_number(row.rank) else {
            return judged(Vec::new(), Err(Why::NoRank));
        };
        let mut by = vec![by_rank];
        let size = self.first_number(row.size);
        by.extend(size.map(|(name, _)| name));
        match self.named(row, processes) {
            Ok(named) => {
                by.extend(named.by);
                let launcher = self.launcher(row);
                let size = size.map_or(0, |(_, size)| size);
                judged(by, Ok(Identity { job: named.job, part: named.part, launcher, rank, size }))
            }
            Err(why) => judged(by, Err(why)),
        }
    }

    /// PRRTE also starts what is not Open MPI's.
    fn launcher(&self, row: &Row) -> Launcher {
        let is_openmpi = self.variables.contains_key("OMPI_COMM_WORLD_SIZE");
        if row.launcher == Launcher::Pmix && is_openmpi { Launcher::OpenMpi } else { row.launcher }
    }

    fn named(&self, row: &Row, processes: &impl Processes) -> Result<Named, Why> {
        let mut why = Why::NoJob;
        for source in row.job {
            match self.source(source, processes) {
                Ok(named) => return Ok(named),
                Err(Why::NoJob) => {}
                Err(other) => why = other,
            }
        }
        Err(why)
    }

    fn source(&self, source: &Source, processes: &impl Processes) -> Result<Named, Why> {
        let named = |by: &[&'static str], id: String| {
            let (part_by, part) = self.spawned();
            let by = by.iter().copied().chain(part_by).collect();
            Named { job: Token::from_text(&id), part, by }
        };
        match *source {
            Source::Namespace(name) => {
                let (id, part) = namespace(self.text(name)?);
                Ok(Named { job: Token::from_text(&id), part, by: vec![name] })
            }
            Source::Variable(prefix, name) => {
                Ok(named(&[name], format!("{prefix}{}", self.text(name)?)))
            }
            Source::Pair(prefix, [one, other]) => {
                let id = format!("{prefix}{}:{}", self.text(one)?, self.text(other)?);
                Ok(named(&[one, other], id))
            }
            Source::Argument(prefix, word) => {
                let arguments = self.starter.map(|starter| first_group(starter, processes));
                let value = arguments.as_deref().and_then(|all| after(all, word));
                let value = value.ok_or(Why::NoJob)?;
                Ok(named(&[word], format!("{prefix}{value}")))
            }
            Source::Step => self.step(),
            Source::Starter(prefix) => {
                let starter = self.starter.ok_or(Why::NoJob)?;
                Ok(named(&[], format!("{prefix}{}.{starter}", boot_id())))
            }
        }
    }

    fn step(&self) -> Result<Named, Why> {
        let (job, step) = (self.text("SLURM_JOB_ID")?, self.text("SLURM_STEP_ID")?);
        match step.parse::<u32>() {
            Ok(number) if number < FIRST_SPECIAL_STEP => {
                let job = Token::from_text(&format!("slurm.{job}.{step}"));
                Ok(Named { job, part: 0, by: vec!["SLURM_JOB_ID", "SLURM_STEP_ID"] })
            }
            _ => Err(Why::SpecialStep),
        }
    }

    /// The process group that MPI_Comm_spawn has made, by Hydra's variables. MPICH does not number
    /// them, so all that it has spawned is 1.
    fn spawned(&self) -> (Option<&'static str>, u32) {
        match self.first_number(&["HYDRA_BSTRAP_PGID"]) {
            Some((name, group)) => (Some(name), group),
            None if self.variables.contains_key("PMI_SPAWNED") => (Some("PMI_SPAWNED"), 1),
            None => (None, 0),
        }
    }

    fn text(&self, name: &str) -> Result<&str, Why> {
        self.variables.get(name).map(String::as_str).ok_or(Why::NoJob)
    }

    fn first_number(&self, names: &[&'static str]) -> Option<(&'static str, u32)> {
        names.iter().find_map(|name| Some((*name, self.variables.get(*name)?.parse().ok()?)))
    }
}

/// The command line of a proxy of Hydra's, or that of its job's first process group if this is
/// another's: up to MPICH 4.1 each group that MPI_Comm_spawn makes has proxies of its own, with a
/// port of its own. They have one parent on mpiexec's host. On others nothing connects them.
fn first_group(starter: i32, processes: &impl Processes) -> Vec<String> {
    let group = |arguments: &[String]| after(arguments, "--pgid").map(str::to_owned);
    let own = processes.arguments(starter);
    if group(&own).is_none_or(|group| group == "0") {
        return own;
    }
    let siblings = processes.parent(starter).map(|parent| processes.children(parent));
    let siblings = siblings.into_iter().flatten().map(|sibling| processes.arguments(sibling));
    siblings.into_iter().find(|all| group(all).is_some_and(|group| group == "0")).unwrap_or(own)
}

/// The word after this one.
fn after<'a>(arguments: &'a [String], word: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == word)?;
    arguments.get(at + 1).map(String::as_str)
}

/// The job's id and the process group, by a namespace of PMIx's.
///
/// ORTE's (Open MPI 4) is a number: the launch in its upper half, the process group in its lower,
/// from 1. PRRTE's (Open MPI 5) is `prterun-HOST-PID@GROUP`, from 1. `prte-HOST-PID@GROUP` is of a
/// standing PRRTE, or one that a process started without a launcher has made to spawn: there, too,
/// all that it runs counts as one job, as nothing tells a process group from a job of its own.
/// Others are taken as they are, such as Slurm's.
fn namespace(text: &str) -> (String, u32) {
    if let Ok(number) = text.parse::<u32>()
        && number >> 16 > 0
        && let Some(part) = (number & 0xffff).checked_sub(1)
    {
        return ((number - part).to_string(), part);
    }
    match text.rsplit_once('@').map(|(launch, group)| (launch, group.parse::<u32>())) {
        Some((launch, Ok(group))) if launch.starts_with("prterun-") && group > 0 => {
            (format!("{launch}@1"), group - 1)
        }
        Some((launch, Ok(group))) if launch.starts_with("prte-") => (launch.to_owned(), group),
        _ => (text.to_owned(), 0),
    }
}

/// This boot's id, which no other domain has.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

mod whole;

pub use whole::{judge_all, judge_some};

#[cfg(test)]
mod tests;
