//! `rxl jobs`: one view over all hosts of the cluster.

use std::collections::HashSet;

use comfy_table::{Table, presets};
use futures::future::join_all;
use serde::Serialize;

use crate::error::AgentsError;
use crate::host::AgentHost;
use rxl_agent_protocol::{PROTOCOL_VERSION, State};
use rxl_core::boot::BootId;
use rxl_core::error::Failure;
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
    /// Ranks in all.
    pub size: u32,
    /// Ranks in this domain.
    pub ranks: Vec<u32>,
}

/// Asks all hosts at once. One that does not answer is left out, with a warning.
pub fn list(hosts: &[AgentHost]) -> Result<Vec<AgentRow>, Failure> {
    let runtime = runtime().map_err(|error| Failure::internal("runtime", &error))?;
    let mut rows = Vec::new();
    let asked = runtime.block_on(join_all(hosts.iter().map(rows_of)));
    let mut seen = HashSet::new();
    for (host, found) in hosts.iter().zip(asked) {
        match found {
            // By another of its names it was asked, too.
            Ok((boot, _)) if !seen.insert(boot.clone()) => {}
            Ok((_, found)) => rows.extend(found),
            Err(error) => tracing::warn!("{}: {error}", host.name),
        }
    }
    Ok(rows)
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
        let ranks: Vec<String> =
            row.jobs.iter().map(|job| format!("{} of {}", numbers(&job.ranks), job.size)).collect();
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

/// The word that stands for a state in its node.
fn status_name(state: &State) -> String {
    state.to_string().split(' ').nth(2).unwrap_or("?").to_owned()
}
