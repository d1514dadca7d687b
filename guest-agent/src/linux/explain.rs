//! Tells people why a process is a rank or is none.

use std::collections::BTreeMap;

use rxl_agent_protocol::{MAX_EXPLANATION, Token};

use super::judge::{Identity, Judged, Processes, Why};
use super::unclaimed::Library;

/// A line for each process that looks like a rank: first those that are none, then the ranks. Of
/// too many the last are only counted.
pub fn explain(
    judged: &BTreeMap<i32, Judged>,
    foreign: &[i32],
    unclaimed: &[Library],
    processes: &impl Processes,
) -> Vec<String> {
    let library = |pid: i32| unclaimed.iter().find(|library| library.pid == pid);
    let all = judged.iter().filter_map(|(pid, judged)| {
        let verdict = match (&judged.verdict, library(*pid)) {
            (Ok(identity), _) => rank(identity, foreign.contains(pid)),
            (Err(why), Some(library)) => format!("no rank: {why}, but it has {}", library.name),
            (Err(why @ (Why::NoJob | Why::SpecialStep | Why::NoMpi)), _) => {
                format!("no rank: {why}")
            }
            (Err(_), None) => return None,
        };
        Some((judged.verdict.is_ok(), line(*pid, judged, &verdict, processes)))
    });
    let mut all: Vec<_> = all.collect();
    all.sort_by_key(|(is_rank, _)| *is_rank);
    bounded(all.into_iter().map(|(_, line)| line).collect())
}

fn bounded(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > MAX_EXPLANATION {
        let more = lines.len() - (MAX_EXPLANATION - 1);
        lines.truncate(MAX_EXPLANATION - 1);
        lines.push(format!("and {more} more"));
    }
    lines
}

fn rank(identity: &Identity, is_foreign: bool) -> String {
    let Identity { job, part, rank, size, .. } = identity;
    let size = if *size == 0 { "unknown".into() } else { size.to_string() };
    let group = if *part == 0 { String::new() } else { format!(", spawned group {part}") };
    let where_ = if is_foreign { ", in another network namespace" } else { "" };
    format!("rank {rank} of {size} of job {job}{group}{where_}")
}

fn line(pid: i32, judged: &Judged, verdict: &str, processes: &impl Processes) -> String {
    let name = |pid: i32| Token::from_text(processes.name(pid).unwrap_or_default());
    let launcher = match judged.launcher {
        Some(launcher) => format!("{}({launcher})", name(launcher)),
        None => "-".into(),
    };
    let row = judged.row.map_or("-", |row| row.name);
    let by = if judged.by.is_empty() { "-".into() } else { judged.by.join(",") };
    format!("{pid} {}: {verdict}; launcher={launcher} row={row} by={by}", name(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_lines_are_counted() {
        let lines = |count: usize| bounded((0..count).map(|n| n.to_string()).collect());
        assert_eq!(lines(MAX_EXPLANATION).last().map(String::as_str), Some("31"));
        let more = lines(MAX_EXPLANATION + 1);
        assert_eq!(more.len(), MAX_EXPLANATION);
        assert_eq!(more.last().map(String::as_str), Some("and 2 more"));
    }
}
