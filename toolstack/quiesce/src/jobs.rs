//! `rxl jobs`: one view over all hosts of the cluster.

use std::collections::HashSet;

use comfy_table::{Table, presets};
use futures::future::join_all;
use serde::Serialize;

use crate::error::AgentsError;
use crate::host::AgentHost;
use rxl_agent_protocol::{
    MAX_EXPLANATION_CHUNKS, PROTOCOL_VERSION, State, path, unpack_explanation,
};
use rxl_core::boot::BootId;
use rxl_core::error::{Exit, Failure};
use rxl_core::text::one_line;
use rxl_link::runtime::runtime;

/// A domain with an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AgentRow {
    /// The host that the domain runs on.
    pub host: String,
    /// The domain's number on its host.
    pub domid: u32,
    /// The domain's name, fit for one line.
    pub domain: String,
    /// The agent's version.
    pub agent: String,
    /// The agent's state; `?` where it does not say, or speaks another protocol.
    pub state: String,
    /// Jobs with ranks in it, as its agent last found them.
    pub jobs: Vec<JobRow>,
}

/// A job in a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobRow {
    /// The launcher's name for it.
    pub id: String,
    /// The launcher that started it, as its agent names it.
    pub launcher: String,
    /// Ranks in all; 0 where the launcher does not tell.
    pub size: u32,
    /// Which of the job's process groups this is: 0 the one that was launched, others those that
    /// MPI_Comm_spawn has added.
    pub part: u32,
    /// Ranks in this domain.
    pub ranks: Vec<u32>,
}

/// Why an agent takes processes for ranks, or does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Explained {
    /// The host that the domain runs on.
    pub host: String,
    /// The domain's number on its host.
    pub domid: u32,
    /// The domain's name, fit for one line.
    pub domain: String,
    /// Lines of the agent's, for people. None after a migration, or before any survey.
    pub lines: Vec<String>,
}

/// Asks all hosts at once. One that does not answer is left out, with a warning.
pub fn list(hosts: &[AgentHost]) -> Result<Vec<AgentRow>, Failure> {
    let runtime = runtime().map_err(|error| Failure::internal("runtime", &error))?;
    Ok(each_once(hosts, runtime.block_on(join_all(hosts.iter().map(rows_of)))))
}

/// What the agents of the domains of this name said at their last survey, on all hosts. Digits are
/// also a domid on the first host.
pub fn explain(hosts: &[AgentHost], domain: &str) -> Result<Vec<Explained>, Failure> {
    let runtime = runtime().map_err(|error| Failure::internal("runtime", &error))?;
    let asked = hosts.iter().enumerate();
    let asked = asked.map(|(index, host)| explained_at(host, domain, index == 0));
    let found: Vec<Explained> = each_once(hosts, runtime.block_on(join_all(asked)));
    if found.is_empty() {
        let what = format!("no domain {} with an agent on these hosts", one_line(domain));
        return Err(Failure::new(Exit::NoSuchDomain, what).next("rxl jobs lists them"));
    }
    Ok(found)
}

/// What each host said, once for each: by another of its names it was asked, too.
fn each_once<T>(hosts: &[AgentHost], asked: Vec<Result<(BootId, Vec<T>), AgentsError>>) -> Vec<T> {
    let (mut rows, mut seen) = (Vec::new(), HashSet::new());
    for (host, found) in hosts.iter().zip(asked) {
        match found {
            Ok((boot, _)) if !seen.insert(boot.clone()) => {}
            Ok((_, found)) => rows.extend(found),
            Err(error) => tracing::warn!("{}: {error}", host.name),
        }
    }
    rows
}

async fn explained_at(
    host: &AgentHost,
    domain: &str,
    is_first: bool,
) -> Result<(BootId, Vec<Explained>), AgentsError> {
    let boot = host.boot().await?;
    let mut found = Vec::new();
    for guest in host.guests().await? {
        let is_meant = guest.name == domain || is_first && guest.domid.to_string() == domain;
        if !is_meant || guest.agent_info().is_none() {
            continue;
        }
        found.push(Explained {
            host: host.name.clone(),
            domid: guest.domid,
            domain: one_line(&guest.name),
            lines: explanation(host, guest.domid).await?,
        });
    }
    Ok((boot, found))
}

/// The agent's own lines, as far as they can be read.
async fn explanation(host: &AgentHost, domid: u32) -> Result<Vec<String>, AgentsError> {
    let mut lines = Vec::new();
    for n in 0..MAX_EXPLANATION_CHUNKS {
        let Some(chunk) = host.read(domid, path::explain(n)).await? else { break };
        lines.extend(unpack_explanation(&chunk).unwrap_or_default());
    }
    Ok(lines)
}

async fn rows_of(host: &AgentHost) -> Result<(BootId, Vec<AgentRow>), AgentsError> {
    let boot = host.boot().await?;
    let mut rows = Vec::new();
    for guest in host.guests().await? {
        let Some(info) = guest.agent_info() else { continue };
        let understood = info.protocol == PROTOCOL_VERSION;
        let state = if understood { host.state(guest.domid).await? } else { None };
        let jobs = if understood { host.jobs(guest.domid).await? } else { Vec::new() };
        let job = |row: rxl_agent_protocol::JobRow| JobRow {
            id: row.id.to_string(),
            launcher: row.launcher.to_string(),
            size: row.size,
            part: row.part,
            ranks: row.ranks.iter().map(|rank| rank.number).collect(),
        };
        rows.push(AgentRow {
            host: host.name.clone(),
            domid: guest.domid,
            domain: one_line(&guest.name),
            agent: info.version.to_string(),
            state: state.map_or_else(|| "?".into(), |state| status_name(&state)),
            jobs: jobs.into_iter().map(job).collect(),
        });
    }
    Ok((boot, rows))
}

/// The rows as a table for people.
pub fn table(rows: &[AgentRow]) -> String {
    if rows.is_empty() {
        return "no domain of these hosts has an agent\n".into();
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["host", "domain", "agent", "state", "job", "ranks"]);
    for row in rows {
        let jobs: Vec<String> =
            row.jobs.iter().map(|job| format!("{} ({})", job.id, job.launcher)).collect();
        let numbers =
            |ranks: &[u32]| ranks.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let ranks: Vec<String> = row
            .jobs
            .iter()
            .map(|job| format!("{} of {}{}", numbers(&job.ranks), size(job), spawned(job)))
            .collect();
        table.add_row([
            &row.host,
            &row.domain,
            &row.agent,
            &row.state,
            &jobs.join("\n"),
            &ranks.join("\n"),
        ]);
    }
    format!("{table}\n")
}

/// The explanations for people.
pub fn explanations(all: &[Explained]) -> String {
    let lines = all.iter().flat_map(|one| {
        let title = format!("{} on {}:", one.domain, one.host);
        let none = "  the last survey is over; in the domain, `rxl-guest-agent explain` tells anew";
        let none = one.lines.is_empty().then(|| none.to_owned());
        let lines = one.lines.iter().map(|line| format!("  {line}"));
        std::iter::once(title).chain(lines).chain(none)
    });
    lines.map(|line| line + "\n").collect()
}

fn size(job: &JobRow) -> String {
    if job.size == 0 { "?".into() } else { job.size.to_string() }
}

fn spawned(job: &JobRow) -> String {
    if job.part == 0 { String::new() } else { format!(" (spawned, {})", job.part) }
}

/// The word that stands for a state in its node.
fn status_name(state: &State) -> String {
    state.to_string().split(' ').nth(2).unwrap_or("?").to_owned()
}
