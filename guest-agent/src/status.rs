//! What `rxl-guest-agent status` shows to a person.

use std::io;

use rxl_agent_protocol::{JobRow, State, Unclaimed, path};

use crate::guest::Refusal;
use crate::linux::ranks;
use crate::store::Store;

/// Returns lines that tell why processes are ranks or are none.
pub fn explain() -> Result<Vec<String>, Refusal> {
    let found = ranks::survey()?;
    if found.explanation.is_empty() {
        return Ok(vec!["no process looks like a rank".into()]);
    }
    Ok(found.explanation)
}

/// Returns lines about the agent, its state, dom0's last command, and the ranks that are found now.
pub fn describe(store: &mut impl Store) -> io::Result<Vec<String>> {
    let agent = store.read(path::AGENT)?;
    let state = store.read(path::STATE)?.map(|text| describe_state(&text));
    let command = store.read(path::COMMAND)?;
    let mut lines = vec![
        format!("agent: {}", agent.as_deref().unwrap_or("not running")),
        format!("state: {}", state.as_deref().unwrap_or("none")),
        format!("last command: {}", command.as_deref().unwrap_or("none")),
    ];
    match ranks::survey() {
        Ok(found) => {
            if found.rows.is_empty() {
                lines.push("ranks: none found".into());
            }
            lines.extend(found.rows.iter().map(describe_row));
            lines.extend(found.unclaimed.as_ref().map(describe_unclaimed));
        }
        Err(refusal) => lines.push(format!("ranks: {refusal}")),
    }
    Ok(lines)
}

fn describe_state(text: &str) -> String {
    match text.parse::<State>() {
        Ok(State { stamp, status }) => {
            format!("{status} (epoch {}, command {})", stamp.epoch, stamp.sequence)
        }
        Err(error) => format!("cannot be read: {error}"),
    }
}

fn describe_row(row: &JobRow) -> String {
    let ranks: Vec<_> =
        row.ranks.iter().map(|rank| format!("{} (pid {})", rank.number, rank.pid)).collect();
    format!(
        "job {} ({}, {} ranks in all): rank {}",
        row.id,
        row.launcher,
        row.size,
        ranks.join(", ")
    )
}

fn describe_unclaimed(unclaimed: &Unclaimed) -> String {
    let Unclaimed { count, pid, comm, library } = unclaimed;
    format!("unclaimed: {count} with an MPI library, the first: {comm} (pid {pid}, {library})")
}
