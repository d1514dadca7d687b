//! Finds the ranks in /proc, and what they have started.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;

use procfs::process::{self, Process, Stat};
use rxl_agent_protocol::{JobRow, Launcher, MAX_JOB_ROWS, MAX_ROW_RANKS, Rank, Reason, Token};

use super::environment::{Identity, hydra_job, identify, is_launcher};
use super::unclaimed;
use crate::guest::{Refusal, Survey};

/// Most processes that an agent freezes together.
const MAX_PROCESSES: usize = 16_384;

/// What a search of /proc has found.
#[derive(Debug, Default)]
pub struct Found {
    /// The ranks, by job.
    pub rows: Vec<JobRow>,
    /// The ranks' processes and their descendants: pid, and start time in clock ticks since boot.
    pub processes: BTreeMap<i32, u64>,
    /// Ranks in other network namespaces than the agent's.
    pub foreign: Vec<i32>,
    /// The processes that start ranks and look after them.
    pub launchers: Vec<i32>,
    /// All processes that were looked at.
    seen: BTreeSet<i32>,
}

impl Found {
    /// Whether a process has been started since. To list the processes costs a small part of a look
    /// at each, which takes a slow processor from the ranks for a tenth of a second.
    pub fn is_outdated(&self) -> Result<bool, Refusal> {
        let entries = std::fs::read_dir("/proc").map_err(Refusal::system("list processes"))?;
        let mut pids =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(pids.any(|pid| !self.seen.contains(&pid)))
    }
}

/// Looks for the ranks of one job, or of all.
pub fn find(job: Option<&Token>) -> Result<Found, Refusal> {
    find_among(&all_stats()?, job)
}

/// Looks for the ranks of all jobs, and for what looks like ranks besides.
pub fn survey() -> Result<Survey, Refusal> {
    survey_among(&all_stats()?)
}

fn survey_among(stats: &BTreeMap<i32, Stat>) -> Result<Survey, Refusal> {
    let found = find_among(stats, None)?;
    let foreign = with_descendants(found.foreign.iter().copied().collect(), stats)?;
    let is_claimed = |stat: &Stat| {
        let is_rank = found.processes.contains_key(&stat.pid) || foreign.contains_key(&stat.pid);
        is_rank || is_launcher(&stat.comm)
    };
    let unclaimed = unclaimed::among(stats.values().filter(|stat| !is_claimed(stat)));
    Ok(Survey { rows: found.rows, unclaimed })
}

fn find_among(stats: &BTreeMap<i32, Stat>, job: Option<&Token>) -> Result<Found, Refusal> {
    let mut found = Found {
        launchers: among(stats),
        seen: stats.keys().copied().collect(),
        ..Found::default()
    };
    let mut ranks = Ranks::new();
    let mut leaders = BTreeSet::new();
    let ours = own_namespace()?;
    for (&pid, stat) in stats {
        let Some((id, identity)) = rank_of(pid, stat, stats) else { continue };
        if job.is_some_and(|job| *job != id) {
            continue;
        }
        if namespace(pid) != Some(ours) {
            found.foreign.push(pid);
            continue;
        }
        leaders.insert(pid);
        let (size, pids) = ranks.entry((id, identity.launcher)).or_default();
        *size = identity.size;
        // A rank's children have its variables too. The lowest pid stands for it.
        pids.entry(identity.rank).or_insert(pid as u32);
    }
    found.rows = rows(ranks)?;
    found.processes = with_descendants(leaders, stats)?;
    Ok(found)
}

fn all_stats() -> Result<BTreeMap<i32, Stat>, Refusal> {
    let all = process::all_processes().map_err(Refusal::system("list processes"))?;
    // Those that end meanwhile are left out.
    Ok(all
        .flatten()
        .filter_map(|process| process.stat().ok())
        .map(|stat| (stat.pid, stat))
        .collect())
}

/// The processes that start ranks and look after them.
pub fn launchers() -> Result<Vec<i32>, Refusal> {
    all_stats().map(|stats| among(&stats))
}

fn among(stats: &BTreeMap<i32, Stat>) -> Vec<i32> {
    stats.values().filter(|stat| is_launcher(&stat.comm)).map(|stat| stat.pid).collect()
}

/// The job and identity of a process that is a rank.
fn rank_of(pid: i32, stat: &Stat, stats: &BTreeMap<i32, Stat>) -> Option<(Token, Identity)> {
    if is_launcher(&stat.comm) || stat.vsize == 0 {
        return None;
    }
    let environment = Process::new(pid).ok()?.environ().ok()?;
    let identity = identify(|name| {
        std::str::from_utf8(environment.get(name.as_ref() as &std::ffi::OsStr)?.as_bytes()).ok()
    })?;
    let id = identity.job.clone().or_else(|| proxy_job(stat, stats))?;
    Some((id, identity))
}

/// The job, by the command line of the nearest ancestor that is Hydra's proxy.
fn proxy_job(stat: &Stat, stats: &BTreeMap<i32, Stat>) -> Option<Token> {
    const MAX_DEPTH: usize = 64;
    let ancestors =
        std::iter::successors(Some(stat), |stat| stats.get(&stat.ppid)).skip(1).take(MAX_DEPTH);
    let proxy = ancestors.into_iter().find(|stat| stat.comm == "hydra_pmi_proxy")?;
    hydra_job(&Process::new(proxy.pid).ok()?.cmdline().ok()?)
}

/// The network namespace that the agent lives in, by inode.
pub fn own_namespace() -> Result<u64, Refusal> {
    let ours = namespace(std::process::id() as i32);
    ours.ok_or_else(|| Refusal::new(Reason::System, "cannot tell the agent's network namespace"))
}

fn namespace(pid: i32) -> Option<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/net"))
        .ok()
        .map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
}

/// By job and launcher: the job's size, and each rank's number and pid.
type Ranks = BTreeMap<(Token, Launcher), (u32, BTreeMap<u32, u32>)>;

fn rows(ranks: Ranks) -> Result<Vec<JobRow>, Refusal> {
    let mut rows = Vec::new();
    for ((id, launcher), (size, pids)) in ranks {
        let ranks: Vec<_> = pids.into_iter().map(|(number, pid)| Rank { number, pid }).collect();
        rows.extend(ranks.chunks(MAX_ROW_RANKS).map(|part| JobRow {
            id: id.clone(),
            launcher,
            size,
            ranks: part.into(),
        }));
    }
    if rows.len() > MAX_JOB_ROWS {
        return Err(Refusal::new(
            Reason::TooMany,
            format!("{} rows of ranks, at most {MAX_JOB_ROWS}", rows.len()),
        ));
    }
    Ok(rows)
}

/// The leaders and their descendants, but for launchers. Children are frozen with their parents: a
/// rank may wait for them, or share memory with them.
fn with_descendants(
    leaders: BTreeSet<i32>,
    stats: &BTreeMap<i32, Stat>,
) -> Result<BTreeMap<i32, u64>, Refusal> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for stat in stats.values() {
        children.entry(stat.ppid).or_default().push(stat.pid);
    }
    let mut found = BTreeMap::new();
    let mut next: Vec<i32> = leaders.into_iter().collect();
    while let Some(pid) = next.pop() {
        let Some(stat) = stats.get(&pid).filter(|stat| !is_launcher(&stat.comm)) else { continue };
        if found.insert(pid, stat.starttime).is_none() {
            next.extend(children.get(&pid).into_iter().flatten());
        }
    }
    if found.len() > MAX_PROCESSES {
        return Err(Refusal::new(
            Reason::TooMany,
            format!("{} processes, at most {MAX_PROCESSES}", found.len()),
        ));
    }
    Ok(found)
}

/// The first of these processes with a thread in uninterruptible sleep.
pub fn uninterruptible(processes: impl IntoIterator<Item = i32>) -> Option<i32> {
    processes.into_iter().find(|&pid| thread_states(pid).contains(&'D'))
}

/// The states of a process's threads, as in /proc/PID/stat. Empty if it is gone.
pub fn thread_states(pid: i32) -> Vec<char> {
    let tasks = Process::new(pid).and_then(|process| process.tasks());
    tasks
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| task.stat().ok())
        .map(|stat| stat.state)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    impl Found {
        fn ranks(&self) -> usize {
            self.rows.iter().map(|row| row.ranks.len()).sum()
        }
    }

    struct Reaped(Child);

    impl Drop for Reaped {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn rank(job: &str, number: &str, script: &str) -> Reaped {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("PMIX_NAMESPACE", job).env("PMIX_RANK", number);
        Reaped(command.spawn().expect("sh"))
    }

    #[test]
    fn ranks_are_found_with_what_they_have_started() {
        let job = format!("test.{}", std::process::id());
        let ranks =
            [rank(&job, "0", "sleep 60"), rank(&job, "1", "env -i /bin/sleep 60 & exec sleep 60")];
        let token = Token::from_text(&job);
        let mut found = Found::default();
        for _ in 0..200 {
            found = find(Some(&token)).expect("proc");
            if found.ranks() == 2 && found.processes.len() > 2 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let pids: Vec<_> = found.rows[0].ranks.iter().map(|rank| rank.pid).collect();
        assert_eq!(pids, ranks.each_ref().map(|rank| rank.0.id()));
        assert!(
            found.processes.len() > 2,
            "the child without variables is missing: {:?}",
            found.processes
        );
        assert!(found.foreign.is_empty());
        let another = rank(&job, "2", "sleep 60");
        assert!(found.is_outdated().expect("proc"), "{} was started since", another.0.id());
        for pid in found.processes.keys().filter(|pid| !pids.contains(&(**pid as u32))) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(*pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }

    /// A process with a library of this name in memory, as if it had been linked to it.
    fn with_library(directory: &std::path::Path, name: &str, command: &mut Command) -> Reaped {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let any = maps.lines().find_map(|line| {
            line.find('/').map(|at| &line[at..]).filter(|path| path.contains("/libgcc_s"))
        });
        let library = directory.join(name);
        std::fs::copy(any.expect("a library"), &library).expect("copy");
        let mut ready = command.env("LD_PRELOAD", &library);
        ready = ready.args(["-c", "echo; exec sleep 60"]).stdout(std::process::Stdio::piped());
        let mut child = Reaped(ready.spawn().expect("sh"));
        let stdout = child.0.stdout.as_mut().expect("a pipe");
        std::io::Read::read_exact(stdout, &mut [0]).expect("it has started");
        child
    }

    #[test]
    fn a_process_with_an_mpi_library_that_is_no_rank_is_unclaimed() {
        let directory = tempfile::tempdir().expect("directory");
        let name = format!("libmpi.so.{}", std::process::id());
        let mut rank = Command::new("sh");
        rank.env("PMIX_NAMESPACE", "unclaimed").env("PMIX_RANK", "0");
        let rank = with_library(directory.path(), &name, &mut rank);
        let alone = with_library(directory.path(), &name, &mut Command::new("sh"));
        let mut stats = all_stats().expect("proc");
        stats.retain(|pid, _| [rank.0.id(), alone.0.id()].contains(&pid.unsigned_abs()));
        let Survey { rows, unclaimed } = survey_among(&stats).expect("proc");
        assert_eq!(rows[0].ranks, [Rank { number: 0, pid: rank.0.id() }]);
        let unclaimed = unclaimed.expect("the other");
        assert_eq!((unclaimed.count, unclaimed.pid), (1, alone.0.id()));
        assert_eq!(unclaimed.library, Token::from_text(&name));
    }
}
