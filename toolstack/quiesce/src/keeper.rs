//! Renews the leases of frozen domains, and keeps the lines to other hosts alive, while the session
//! waits for other things.

use rxl_core::deadlines;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::cluster::AgentHost;
use rxl_agent_protocol::Lease;

/// One renewal in so many also greets all hosts: their servers hold locks, and end where nothing is
/// heard.
const GREETING: u64 = 5;

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

/// Where the frozen domains are: index of the host, number of the domain.
#[derive(Clone, Default)]
pub struct Places(Arc<Mutex<Vec<(usize, u32)>>>);

impl Places {
    /// From here on.
    pub fn are(&self, places: Vec<(usize, u32)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = places;
    }

    /// One has moved: what it has left is soon destroyed, and nothing is to be written there any
    /// more.
    pub fn moved(&self, from: (usize, u32), to: (usize, u32)) {
        for place in self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter_mut()
            .filter(|place| **place == from)
        {
            *place = to;
        }
    }

    fn now(&self) -> Vec<(usize, u32)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A running keeper. Dropping it ends the renewing.
pub struct Keeper {
    places: Places,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Renews the epoch's leases of the domains in its places: none at first.
    pub fn start(hosts: Hosts, epoch: u64) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let places = Places::default();
        let theirs = places.clone();
        let work = move || {
            for count in 1.. {
                match stopped.recv_timeout(deadlines::LEASE_RENEWAL) {
                    Err(RecvTimeoutError::Timeout) => {
                        renew(&hosts, Lease { epoch, count }, &theirs);
                        if count % GREETING == 0 {
                            greet(&hosts);
                        }
                    }
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("leases".into()).spawn(work)?;
        Ok(Self { places, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it renews them.
    pub fn places(&self) -> &Places {
        &self.places
    }
}

fn renew(hosts: &Hosts, lease: Lease, places: &Places) {
    let mut hosts = hosts.lock();
    for (host, domid) in places.now() {
        if let Some(host) = hosts.get_mut(host)
            && let Err(error) = host.nodes.renew(domid, &lease)
        {
            // The agent then thaws by itself, which is what leases are for.
            tracing::warn!("lease of domain {domid} on {}: {error}", host.name);
        }
    }
}

fn greet(hosts: &Hosts) {
    for host in hosts.lock().iter_mut() {
        if let Err(error) = host.nodes.greet() {
            tracing::warn!("agents on {}: {error}", host.name);
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
