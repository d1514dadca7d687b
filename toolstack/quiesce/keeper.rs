//! Renews the leases of frozen domains while the session waits for other things.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rxl_agent_protocol::Lease;

use super::cluster::AgentHost;

/// How often: a small part of [`super::coordinator::LEASE`].
const EVERY: Duration = Duration::from_secs(3);

/// The hosts, for the coordinator and the keeper in turn.
#[derive(Clone)]
pub struct Hosts(Arc<Mutex<Vec<AgentHost>>>);

impl Hosts {
    /// Shares them.
    pub fn new(hosts: Vec<AgentHost>) -> Self {
        Self(Arc::new(Mutex::new(hosts)))
    }

    /// Uses them alone.
    pub fn lock(&self) -> MutexGuard<'_, Vec<AgentHost>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running keeper. Dropping it ends the renewing.
pub struct Keeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Renews the epoch's leases of these domains: index of the host, number of the domain.
    pub fn start(hosts: Hosts, epoch: u64, domains: Vec<(usize, u32)>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let work = move || {
            for count in 1.. {
                match stopped.recv_timeout(EVERY) {
                    Err(RecvTimeoutError::Timeout) => renew(&hosts, Lease { epoch, count }, &domains),
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("leases".into()).spawn(work)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

fn renew(hosts: &Hosts, lease: Lease, domains: &[(usize, u32)]) {
    let mut hosts = hosts.lock();
    for (host, domid) in domains {
        if let Some(host) = hosts.get_mut(*host)
            && let Err(error) = host.nodes.renew(*domid, &lease)
        {
            // The agent then thaws by itself, which is what leases are for.
            tracing::warn!("lease of domain {domid} on {}: {error}", host.name);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
