//! The hosts but this one: all asked at once, and waited for as long as ranks are missing.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;

use super::visit::Part;
use super::{Jobs, Search, complete};
use crate::error::{AgentsError, NotFound};
use rxl_core::boot::BootId;
use rxl_core::deadlines;

/// What the other hosts have told.
#[derive(Default)]
pub(super) struct Elsewhere {
    pub(super) parts: Vec<Part>,
    /// Why other hosts could not be asked.
    pub(super) troubles: Vec<String>,
}

impl Search<'_> {
    /// Finds the domains of these jobs on the other hosts. A host that is slow or dead is waited
    /// for as long as ranks are missing; a target always, as its agents are needed later.
    pub(super) async fn elsewhere(&self, home: &Part, jobs: &Jobs) -> Result<Elsewhere, NotFound> {
        let Some(here) = self.hosts.first() else { return Ok(Elsewhere::default()) };
        let seen = RefCell::new(HashSet::from([here.boot().await?]));
        let (home_epoch, seen) = (home.epoch, &seen);
        let visit =
            |index| async move { (index, self.visit_other(index, home_epoch, jobs, seen).await) };
        let mut visits: FuturesUnordered<_> = (1..self.hosts.len()).map(visit).collect();
        let mut elsewhere = Elsewhere::default();
        let mut targets: BTreeSet<_> = self.movers.iter().map(|mover| mover.to).collect();
        targets.retain(|target| (1..self.hosts.len()).contains(target));
        while !(targets.is_empty() && complete::is_all(home, &elsewhere.parts, jobs)) {
            let Some((index, visited)) = visits.next().await else { break };
            targets.remove(&index);
            match visited {
                Ok(part) => elsewhere.parts.extend(part),
                Err(NotFound::Not(problem)) if !self.is_target(index) => {
                    elsewhere.troubles.push(problem.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        drop(visits);
        self.leave_others(&elsewhere).await;
        Ok(elsewhere)
    }

    /// Ends the lines to hosts that have no part in the epoch: whatever becomes of them delays it
    /// no more.
    async fn leave_others(&self, elsewhere: &Elsewhere) {
        let parts = elsewhere.parts.iter().flat_map(|part| &part.mine);
        let needed: BTreeSet<_> = parts.map(|found| found.host).collect();
        for (index, host) in self.hosts.iter().enumerate().skip(1) {
            if !needed.contains(&index) && !self.is_target(index) {
                host.leave().await;
            }
        }
    }

    /// None where the host has been asked by another name.
    async fn visit_other(
        &self,
        index: usize,
        epoch: u64,
        jobs: &Jobs,
        seen: &RefCell<HashSet<BootId>>,
    ) -> Result<Option<Part>, NotFound> {
        let Some(host) = self.hosts.get(index) else { return Ok(None) };
        let deadline = deadlines::SURVEY_ELSEWHERE;
        let visit = async {
            let boot = host.boot().await?;
            if !seen.borrow_mut().insert(boot) {
                return Ok(None);
            }
            let settled = self.settle(index, Some(epoch), |_| Ok(jobs.clone())).await;
            settled.map(|(part, _)| Some(part))
        };
        let late = |_| AgentsError::Late { host: host.name.clone(), deadline };
        timeout(deadline, visit).await.map_err(late)?
    }
}
