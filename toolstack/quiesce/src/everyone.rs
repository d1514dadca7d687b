//! One command to all domains of a job, on all their hosts at once.
//!
//! A job stands still while its agents are asked. Asked one after the other they would cost it a
//! round trip between hosts for each domain and each question; so all hosts are asked together,
//! each once for all of its domains:
//!
//! ```text
//!  coordinator          host 1: domains a, b            host 2: domain c
//!    | obey [a, b] -------> | command a, command b        |
//!    | obey [c] --------------------------------------->  | command c
//!    |                      | answers of a and b          | answer of c
//!    | <------------------- |                             |
//!    | <------------------------------------------------- |
//! ```
//! All of a host's domains have the command before the first of their answers is waited for.

use std::time::Duration;

use futures::future::join_all;

use crate::error::{AgentsError, NotQuiesced};
use crate::host::AgentHost;
use crate::members::JobMember;
use rxl_agent_protocol::{Command, State};

/// Results of some of the domains, each with the domain's place among all of them.
pub(crate) type Each<T> = Vec<(usize, T)>;

/// Tells all but those that are away, and waits for no answer.
pub(crate) async fn tell(
    hosts: &[AgentHost],
    members: &[JobMember],
    command: &Command,
) -> Result<(), NotQuiesced> {
    let tell = async |host: &AgentHost, here: &[&JobMember]| {
        for member in here {
            host.command(member.domid, command).await?;
        }
        Ok::<_, NotQuiesced>(here.iter().map(|_| ()).collect())
    };
    at_hosts(hosts, members, where_it_runs, tell).await.map(drop)
}

/// Tells all but those that are away, waits for all answers, and has `take` fetch what belongs to
/// each. The order is the members'.
pub(crate) async fn ask<T>(
    hosts: &[AgentHost],
    members: &[JobMember],
    command: &Command,
    deadline: Duration,
    take: impl AsyncFn(&AgentHost, &JobMember, State) -> Result<T, AgentsError>,
) -> Result<Each<T>, NotQuiesced> {
    let ask = async |host: &AgentHost, here: &[&JobMember]| {
        let domids = here.iter().map(|member| member.domid).collect();
        let answers = host.obey(domids, command, deadline).await?;
        let mut taken = Vec::new();
        for (member, answer) in here.iter().zip(answers) {
            let silent = || NotQuiesced::Silent { name: member.name.clone(), deadline };
            taken.push(take(host, member, answer.ok_or_else(silent)?).await?);
        }
        Ok(taken)
    };
    at_hosts(hosts, members, where_it_runs, ask).await
}

fn where_it_runs(member: &JobMember) -> Option<usize> {
    (!member.away).then_some(member.host)
}

/// Works at all hosts at once on what is there. `place` says where an item is; none leaves it out.
/// `work` yields one result for each item that it was given. The first error is returned when all
/// hosts are done.
pub(crate) async fn at_hosts<I, T, E>(
    hosts: &[AgentHost],
    items: &[I],
    place: impl Fn(&I) -> Option<usize>,
    work: impl AsyncFn(&AgentHost, &[&I]) -> Result<Vec<T>, E>,
) -> Result<Each<T>, E> {
    let works = hosts.iter().enumerate().map(async |(index, host)| {
        let is_here = |(_, item): &(usize, &I)| place(item) == Some(index);
        let (places, here): (Vec<_>, Vec<_>) = items.iter().enumerate().filter(is_here).unzip();
        if here.is_empty() {
            return Ok(Vec::new());
        }
        let done = work(host, &here).await?;
        Ok(places.into_iter().zip(done).collect())
    });
    let ended: Vec<Result<Each<T>, E>> = join_all(works).await;
    let mut each = Vec::new();
    for at_one in ended {
        each.extend(at_one?);
    }
    each.sort_by_key(|(index, _)| *index);
    Ok(each)
}
