//! Renews the leases of frozen domains, and keeps the lines to other hosts alive, while the session
//! waits for other things.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::host::{AgentHost, Hosts};
use rxl_agent_protocol::Lease;
use rxl_core::deadlines;

/// One renewal in so many also greets all hosts: their servers hold locks, and end where nothing is
/// heard.
const GREETING: u64 = 5;

/// Where the frozen domains are: index of the host, number of the domain.
#[derive(Clone, Default)]
pub struct Places(Arc<Mutex<Vec<(usize, u32)>>>);

impl Places {
    /// These are the frozen domains from here on.
    pub fn are(&self, places: Vec<(usize, u32)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = places;
    }

    /// One has moved: what it has left is soon destroyed, and nothing is to be written there any
    /// more.
    pub fn moved(&self, from: (usize, u32), to: (usize, u32)) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.iter_mut().filter(|place| **place == from).for_each(|place| *place = to);
    }

    fn on(&self, host: usize) -> Vec<u32> {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.iter().filter(|(at, _)| *at == host).map(|(_, domid)| *domid).collect()
    }
}

/// A running keeper: a task of the runtime. Dropping it ends the renewing.
pub struct Keeper {
    places: Places,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    runtime: Handle,
}

impl Keeper {
    /// Renews the epoch's leases of the domains in its places: none at first.
    pub fn start(runtime: &Handle, hosts: Hosts, epoch: u64) -> Self {
        let (stop, stopped) = oneshot::channel();
        let places = Places::default();
        let task = runtime.spawn(keep(hosts, epoch, places.clone(), stopped));
        Self { places, stop: Some(stop), task, runtime: runtime.clone() }
    }

    /// The domains whose leases it renews.
    pub fn places(&self) -> &Places {
        &self.places
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        let task = &mut self.task;
        // A request that is under way is ended by its own deadline: cut off, it would leave the
        // line to its host unusable.
        let _ = self.runtime.block_on(task);
    }
}

async fn keep(hosts: Hosts, epoch: u64, places: Places, mut stopped: oneshot::Receiver<()>) {
    for count in 1.. {
        if timeout(deadlines::LEASE_RENEWAL, &mut stopped).await.is_ok() {
            return;
        }
        let lease = Lease { epoch, count };
        let all = hosts.iter().enumerate();
        join_all(all.map(|(index, host)| renew(host, places.on(index), lease))).await;
    }
}

/// One host's part of a renewal. A host that does not answer delays no other.
async fn renew(host: &AgentHost, domids: Vec<u32>, lease: Lease) {
    for domid in domids {
        if let Err(error) = host.renew(domid, &lease).await {
            // The agent then thaws by itself, which is what leases are for.
            tracing::warn!("lease of domain {domid} on {}: {error}", host.name);
        }
    }
    if lease.count.is_multiple_of(GREETING)
        && let Err(error) = host.greet().await
    {
        tracing::warn!("{error}");
    }
}
