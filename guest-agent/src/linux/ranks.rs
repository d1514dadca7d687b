//! Finds the ranks in /proc, and what they have started.

use std::collections::{BTreeMap, BTreeSet};

use procfs::process::Process;
use rxl_agent_protocol::{JobRow, Launcher, MAX_JOB_ROWS, MAX_ROW_RANKS, Rank, Reason, Token};

use super::explain::explain;
use super::judge::{Judged, Processes, judge_all, judge_some};
use super::launchers::is_launcher;
use super::proc::Proc;
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
    pub seen: BTreeSet<i32>,
    /// What the table says of them.
    pub judged: BTreeMap<i32, Judged>,
}

impl Found {
    /// Whether a process has been started since. To list the processes costs a small part of a look
    /// at each, which takes a slow processor from the ranks for a tenth of a second.
    pub fn is_outdated(&self) -> Result<bool, Refusal> {
        Ok(pids()?.any(|pid| !self.seen.contains(&pid)))
    }
}

fn pids() -> Result<impl Iterator<Item = i32>, Refusal> {
    let entries = std::fs::read_dir("/proc").map_err(Refusal::system("list processes"))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// Looks for ranks of this job, or of all, among the processes that have not been seen, which have
/// been from then on.
pub fn born(seen: &mut BTreeSet<i32>, job: Option<&Token>) -> Result<BTreeMap<i32, u64>, Refusal> {
    let new: Vec<i32> = pids()?.filter(|pid| !seen.contains(pid)).collect();
    if new.is_empty() {
        return Ok(BTreeMap::new());
    }
    seen.extend(&new);
    let processes = Proc::look()?;
    let judged = judge_some(new, &processes);
    Ok(find_judged(&processes, judged, job)?.processes)
}

/// Looks for the ranks of one job, or of all.
pub fn find(job: Option<&Token>) -> Result<Found, Refusal> {
    find_among(&Proc::look()?, job)
}

/// Looks for the ranks of all jobs, and for what looks like ranks besides.
pub fn survey() -> Result<Survey, Refusal> {
    survey_among(&Proc::look()?)
}

fn survey_among(processes: &Proc) -> Result<Survey, Refusal> {
    let found = find_among(processes, None)?;
    let foreign = with_descendants(found.foreign.iter().copied().collect(), processes)?;
    let is_claimed = |pid: &i32| {
        let is_rank = found.processes.contains_key(pid) || foreign.contains_key(pid);
        is_rank || processes.name(*pid).is_some_and(is_launcher)
    };
    let others = found.judged.keys().filter(|pid| !is_claimed(pid));
    let libraries = unclaimed::among(others.copied());
    let explanation = explain(&found.judged, &found.foreign, &libraries, processes);
    let unclaimed = unclaimed::summary(&libraries, processes);
    Ok(Survey { rows: found.rows, unclaimed, explanation })
}

fn find_among(processes: &Proc, job: Option<&Token>) -> Result<Found, Refusal> {
    find_judged(processes, judge_all(processes), job)
}

fn find_judged(
    processes: &Proc,
    judged: BTreeMap<i32, Judged>,
    job: Option<&Token>,
) -> Result<Found, Refusal> {
    let seen = processes.stats.keys().copied().collect();
    let mut found = Found { launchers: among(processes), seen, judged, ..Found::default() };
    let mut ranks = Ranks::new();
    let mut leaders = BTreeSet::new();
    let ours = own_namespace()?;
    for (&pid, judged) in &found.judged {
        let Ok(identity) = &judged.verdict else { continue };
        if job.is_some_and(|job| *job != identity.job) {
            continue;
        }
        if namespace(pid) != Some(ours) {
            found.foreign.push(pid);
            continue;
        }
        leaders.insert(pid);
        let key = (identity.job.clone(), identity.part, identity.launcher);
        let (size, pids) = ranks.entry(key).or_default();
        *size = identity.size;
        // A rank's children have its variables too. The lowest pid stands for it.
        pids.entry(identity.rank).or_insert(pid.unsigned_abs());
    }
    found.rows = rows(ranks)?;
    found.processes = with_descendants(leaders, processes)?;
    Ok(found)
}

/// The processes that start ranks and look after them.
pub fn launchers() -> Result<Vec<i32>, Refusal> {
    Proc::look().map(|processes| among(&processes))
}

fn among(processes: &Proc) -> Vec<i32> {
    let stats = processes.stats.values();
    stats.filter(|stat| is_launcher(&stat.comm)).map(|stat| stat.pid).collect()
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

/// By job, process group and launcher: the group's size, and each rank's number and pid.
type Ranks = BTreeMap<(Token, u32, Launcher), (u32, BTreeMap<u32, u32>)>;

fn rows(ranks: Ranks) -> Result<Vec<JobRow>, Refusal> {
    let mut rows = Vec::new();
    for ((id, part, launcher), (size, pids)) in ranks {
        let ranks: Vec<_> = pids.into_iter().map(|(number, pid)| Rank { number, pid }).collect();
        rows.extend(ranks.chunks(MAX_ROW_RANKS).map(|some| JobRow {
            id: id.clone(),
            launcher,
            size,
            part,
            ranks: some.into(),
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
    processes: &Proc,
) -> Result<BTreeMap<i32, u64>, Refusal> {
    let mut found = BTreeMap::new();
    let mut next: Vec<i32> = leaders.into_iter().collect();
    while let Some(pid) = next.pop() {
        let stat = processes.stats.get(&pid).filter(|stat| !is_launcher(&stat.comm));
        let Some(stat) = stat else { continue };
        if found.insert(pid, stat.starttime).is_none() {
            next.extend(processes.children(pid));
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
        let mut seen = found.seen.clone();
        let another = rank(&job, "2", "exec sleep 60");
        assert!(found.is_outdated().expect("proc"), "{} was started since", another.0.id());
        let other_job = rank(&format!("{job}.other"), "0", "exec sleep 60");
        [&another, &other_job].into_iter().for_each(await_sleep);
        let born = born(&mut seen, Some(&token)).expect("proc");
        assert_eq!(born.keys().copied().collect::<Vec<_>>(), [another.0.id() as i32]);
        assert!(super::born(&mut seen, Some(&token)).expect("proc").is_empty(), "seen by then");
        for pid in found.processes.keys().filter(|pid| !pids.contains(&(**pid as u32))) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(*pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }

    /// Waits until a shell has become `sleep`: while it does, its variables cannot be read.
    fn await_sleep(child: &Reaped) {
        let stat = || Process::new(child.0.id() as i32).and_then(|process| process.stat());
        while stat().expect("it runs").comm != "sleep" {
            std::thread::sleep(std::time::Duration::from_millis(5));
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
        await_sleep(&child);
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
        let processes = Proc::look().expect("proc").only(&[rank.0.id(), alone.0.id()]);
        let Survey { rows, unclaimed, explanation } = survey_among(&processes).expect("proc");
        assert_eq!(rows[0].ranks, [Rank { number: 0, pid: rank.0.id() }]);
        let unclaimed = unclaimed.expect("the other");
        assert_eq!((unclaimed.count, unclaimed.pid), (1, alone.0.id()));
        assert_eq!(unclaimed.library, Token::from_text(&name));
        let [of_alone, of_rank] = explanation.as_slice() else { panic!("{explanation:?}") };
        let alone = format!("{} sleep: no rank: its launcher has not made", alone.0.id());
        assert!(of_alone.starts_with(&alone) && of_alone.contains(&name), "{of_alone}");
        let rank = format!("{} sleep: rank 0 of unknown of job unclaimed; ", rank.0.id());
        assert!(of_rank.starts_with(&rank), "{of_rank}");
        assert!(of_rank.ends_with("launcher=- row=prrte by=PMIX_RANK,PMIX_NAMESPACE"), "{of_rank}");
    }

    /// As a container engine without a daemon starts them, and as another user.
    #[test]
    fn ranks_in_other_namespaces_but_the_networks_and_of_other_users_are_found() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let job = format!("spaces.{}", std::process::id());
        let start = |program: &str, arguments: &[&str], number: &str| {
            let mut command = Command::new(program);
            command.args(arguments).args(["sh", "-c", "sleep 60; :"]);
            command.env("PMIX_NAMESPACE", &job).env("PMIX_RANK", number);
            Reaped(command.spawn().expect("util-linux"))
        };
        let contained = start("unshare", &["--pid", "--mount", "--fork", "--kill-child"], "0");
        let others = start("setpriv", &["--reuid=65534", "--regid=65534", "--clear-groups"], "1");
        let token = Token::from_text(&job);
        let is_whole = |found: &Found| found.ranks() == 2 && found.processes.len() == 5;
        let mut found = Found::default();
        for _ in 0..400 {
            found = find(Some(&token)).expect("proc");
            if is_whole(&found) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(is_whole(&found) && found.foreign.is_empty(), "{:?}", found.processes);
        let pids: Vec<_> = found.rows[0].ranks.iter().map(|rank| rank.pid).collect();
        assert_eq!(pids, [contained.0.id(), others.0.id()]);
        for pid in found.processes.into_keys().map(nix::unistd::Pid::from_raw) {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}
