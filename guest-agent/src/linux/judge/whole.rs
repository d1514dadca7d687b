//! Judges all processes: what one process alone does not show.

use std::collections::{BTreeMap, BTreeSet};

use rxl_agent_protocol::Launcher;

use super::{Identity, Judged, MAX_DEPTH, Processes, Why, judge};
use crate::linux::launchers;

/// Which rank of which job each process is, or why it is none.
pub fn judge_all(processes: &impl Processes) -> BTreeMap<i32, Judged> {
    judge_some(processes.pids(), processes)
}

/// As [`judge_all`] does, for these processes alone.
pub fn judge_some(pids: Vec<i32>, processes: &impl Processes) -> BTreeMap<i32, Judged> {
    let all = pids.into_iter().map(|pid| (pid, judge(pid, processes)));
    let mut judged: BTreeMap<_, _> = all.collect();
    drop_tasks_without_mpi(&mut judged, processes);
    adopt_singletons(&mut judged, processes);
    judged
}

/// A task of Slurm's may be anything, a shell too (`srun --pty bash`). It is a rank unless it has
/// no MPI library and either is alone in its step or has started a launcher. A program that MPI was
/// linked into statically has no library either, so tasks with others beside them are ranks.
fn drop_tasks_without_mpi(judged: &mut BTreeMap<i32, Judged>, processes: &impl Processes) {
    let with_launchers = ancestors_of_launchers(judged, processes);
    for (pid, one) in judged {
        let Ok(Identity { launcher: Launcher::Slurm, size, .. }) = one.verdict else { continue };
        if (size == 1 || with_launchers.contains(pid)) && !processes.has_mpi(*pid) {
            one.verdict = Err(Why::NoMpi);
        }
    }
}

fn ancestors_of_launchers(
    judged: &BTreeMap<i32, Judged>,
    processes: &impl Processes,
) -> BTreeSet<i32> {
    let is_launcher =
        |pid: &&i32| processes.name(**pid).is_some_and(|name| launchers::role(name).is_some());
    let ancestors = |pid: &i32| {
        let parents = std::iter::successors(Some(*pid), |pid| processes.parent(*pid)).skip(1);
        parents.take(MAX_DEPTH).collect::<Vec<_>>()
    };
    judged.keys().filter(is_launcher).flat_map(ancestors).collect()
}

/// A program that nobody has launched starts a daemon when it calls MPI_Comm_spawn: Open MPI 4
/// `orted --singleton-died-pipe`, Open MPI 5 `prte --singleton`. It is rank 0 of 1 in the job of
/// those that the daemon has started here.
fn adopt_singletons(judged: &mut BTreeMap<i32, Judged>, processes: &impl Processes) {
    let spawned: BTreeMap<i32, Identity> = judged
        .values()
        .filter_map(|one| Some((one.launcher?, one.verdict.clone().ok()?)))
        .collect();
    for (daemon, identity) in spawned {
        let is_singletons = |argument: &String| argument.starts_with("--singleton");
        if !processes.arguments(daemon).iter().any(is_singletons) {
            continue;
        }
        let single = processes.parent(daemon).and_then(|parent| judged.get_mut(&parent));
        let Some(single) = single.filter(|single| single.verdict.is_err()) else { continue };
        if single.verdict != Err(Why::Launcher) {
            single.row = launchers::rows_of(processes.name(daemon).unwrap_or_default()).next();
            single.by = vec!["--singleton"];
            single.verdict = Ok(Identity { part: 0, rank: 0, size: 1, ..identity });
        }
    }
}
