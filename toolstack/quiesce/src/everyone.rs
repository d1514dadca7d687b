//! One command to all domains of a job, on all their hosts at once.
//!
//! A job stands still while its agents are asked. Asked one after the other they would cost it a
//! round trip between hosts for each domain and each question; so every host is asked on a thread
//! of its own, once for all of its domains:
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

use std::thread::ScopedJoinHandle;
use std::time::Duration;

use crate::coordinator::{Member, Outcome, not};
use crate::keeper::Hosts;
use crate::nodes::Nodes;
use rxl_agent_protocol::{Command, State};

/// Which domain of the job, and what came of it.
pub(super) type Each<T> = Vec<(usize, T)>;

/// Tells all but those that are away, and waits for no answer.
pub(super) fn tell(hosts: &Hosts, members: &[Member], command: &Command) -> Outcome<()> {
    let tell = |nodes: &mut dyn Nodes, here: &[&Member]| {
        here.iter().map(|member| nodes.command(member.domid, command).map_err(not)).collect()
    };
    at_hosts(hosts, members, tell).map(drop)
}

/// Tells all but those that are away, waits for all answers, and has `take` fetch what belongs to
/// each. The order is the members'.
pub(super) fn ask<T: Send>(
    hosts: &Hosts,
    members: &[Member],
    command: &Command,
    patience: Duration,
    take: impl Fn(&mut dyn Nodes, &Member, State) -> Result<T, String> + Sync,
) -> Outcome<Each<T>> {
    at_hosts(hosts, members, |nodes, here| {
        let domids: Vec<u32> = here.iter().map(|member| member.domid).collect();
        let answers = nodes.obey(&domids, command, patience).map_err(not)?;
        let taken = here.iter().zip(answers).map(|(member, answer)| {
            let silent = || {
                not(format!(
                    "the agent of {} did not answer in {} s",
                    member.name,
                    patience.as_secs()
                ))
            };
            take(nodes, member, answer.ok_or_else(silent)?).map_err(not)
        });
        taken.collect()
    })
}

fn at_hosts<T: Send>(
    hosts: &Hosts,
    members: &[Member],
    work: impl Fn(&mut dyn Nodes, &[&Member]) -> Outcome<Vec<T>> + Sync,
) -> Outcome<Each<T>> {
    let mut hosts = hosts.lock();
    let ended: Vec<Outcome<Each<T>>> = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (host, agents) in hosts.iter_mut().enumerate() {
            let is_here = |(_, member): &(usize, &Member)| member.host == host && !member.away;
            let (places, here): (Vec<_>, Vec<_>) =
                members.iter().enumerate().filter(is_here).unzip();
            if !here.is_empty() {
                let work = &work;
                threads.push((places, scope.spawn(move || work(&mut *agents.nodes, &here))));
            }
        }
        let join = |(places, thread): (Vec<usize>, ScopedJoinHandle<'_, Outcome<Vec<T>>>)| {
            let done = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(places.into_iter().zip(done).collect())
        };
        threads.into_iter().map(join).collect()
    });
    let mut each =
        ended.into_iter().collect::<Outcome<Vec<_>>>()?.into_iter().flatten().collect::<Each<T>>();
    each.sort_by_key(|(index, _)| *index);
    Ok(each)
}
