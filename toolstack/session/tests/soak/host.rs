//! A host as one process uses it: each call has a boundary before and after it.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use rxl_core::domain::{DomId, Domain, HostFacts, RunState, Vif};
use rxl_core::domain_config::DomainConfig;
use rxl_core::host_error::HostError;
use rxl_core::operation::Operation;
use rxl_core::state_dir::DomainLock;
use rxl_core::steering::{Decision, PrecopyStats, Steering, SuspendRefused};
use rxl_host::guard_line::{Guard, Word};
use rxl_host::host::{Host, RestoreRequest, Save};
use rxl_host::watcher::NotStarted;
use rxl_testkit::memory::MemoryHost;

use crate::guard::Line;
use crate::node::Node;
use crate::places::When;
use crate::proc::Proc;
use crate::truth::{Copied, Truth};
use crate::world::World;

/// The host as one process uses it.
pub struct ProcHost {
    pub proc: Arc<Proc>,
    /// What its guard was told last.
    pub word: Arc<Mutex<Option<Word>>>,
}

impl ProcHost {
    pub fn new(proc: &Arc<Proc>) -> Self {
        Self { proc: proc.clone(), word: Arc::default() }
    }

    fn world(&self) -> &Arc<World> {
        &self.proc.world
    }

    /// A call that changes nothing.
    fn look<T>(
        &self,
        name: &'static str,
        act: impl FnOnce(&MemoryHost) -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        self.proc.call(name, || self.world().nodes[self.proc.side as usize].call(name, act))
    }

    /// A call that changes a domain. What has to hold of the two hosts is looked at before anybody
    /// else changes them.
    fn change<T>(
        &self,
        name: &'static str,
        domid: Option<DomId>,
        act: impl FnOnce(&MemoryHost) -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        self.proc.gate(name, When::Before);
        let done = self.changed(name, domid, act);
        self.proc.gate(name, When::After);
        done
    }

    /// The node, as long as nobody else changes a domain, and its boot. An error where it is off.
    fn powered(&self) -> Result<(&Node, MutexGuard<'_, Truth>, usize), HostError> {
        let node = &self.world().nodes[self.proc.side as usize];
        let truth = self.world().truth.lock().unwrap();
        let Some(boot) = node.power() else {
            drop(truth);
            self.proc.check();
            return Err(HostError::failed("call", "it is off"));
        };
        Ok((node, truth, boot))
    }

    fn booted(&self, config: &DomainConfig) -> Result<DomId, HostError> {
        let side = self.proc.side;
        let (node, mut truth, boot) = self.powered()?;
        let domid = node.call("boot", |host| host.boot(config))?;
        truth.booted.push(Copied { side, boot, domid });
        Ok(domid)
    }

    fn changed<T>(
        &self,
        name: &'static str,
        domid: Option<DomId>,
        act: impl FnOnce(&MemoryHost) -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        let side = self.proc.side;
        let (node, mut truth, boot) = self.powered()?;
        let state = |domid| node.memory().domain(domid).ok().map(|domain| domain.state);
        let before: Option<RunState> = domid.and_then(state);
        let done = node.call(name, act);
        truth.look(&self.world().nodes, before, domid.map(|domid| Copied { side, boot, domid }));
        done
    }
}

impl Host for ProcHost {
    fn facts(&self) -> Result<HostFacts, HostError> {
        self.look("facts", MemoryHost::facts)
    }

    fn memory_needed(&self, config: &DomainConfig) -> Result<u64, HostError> {
        self.look("memory-needed", |host| host.memory_needed(config))
    }

    fn guard(&self, _lock: &DomainLock) -> std::io::Result<Guard> {
        let line = Line { proc: self.proc.clone(), word: self.word.clone() };
        Ok(self.proc.call("guard", || Guard::new(line)))
    }

    fn watch(&self, _domid: DomId) -> Result<(), NotStarted> {
        self.proc.call("watch", || Ok(()))
    }

    fn find(&self, name_or_domid: &str) -> Result<Domain, HostError> {
        self.look("find", |host| host.find(name_or_domid))
    }

    fn domain(&self, domid: DomId) -> Result<Domain, HostError> {
        self.look("domain", |host| host.domain(domid))
    }

    fn config_json(&self, domid: DomId) -> Result<String, HostError> {
        self.look("config", |host| host.config_json(domid))
    }

    fn save(&self, domid: DomId, save: Save) -> Result<Operation<()>, HostError> {
        let steering = Box::new(Steered { proc: self.proc.clone(), inner: save.steering });
        self.change("save", Some(domid), |host| host.save(domid, Save { steering, ..save }))
    }

    fn restore(
        &self,
        request: RestoreRequest,
        stream: OwnedFd,
    ) -> Result<Operation<DomId>, HostError> {
        self.change("restore", None, |host| host.restore(request, stream))
    }

    fn boot(&self, config: &DomainConfig) -> Result<DomId, HostError> {
        self.proc.gate("boot", When::Before);
        let done = self.booted(config);
        self.proc.gate("boot", When::After);
        done
    }

    fn resume(&self, domid: DomId) -> Result<(), HostError> {
        self.change("resume", Some(domid), |host| host.resume(domid))
    }

    fn mark(&self, domid: DomId, migration: &str) -> Result<(), HostError> {
        self.change("mark", Some(domid), |host| host.mark(domid, migration))
    }

    fn mark_of(&self, domid: DomId) -> Result<Option<String>, HostError> {
        self.look("mark-of", |host| host.mark_of(domid))
    }

    fn rename(&self, domid: DomId, from: &str, to: &str) -> Result<(), HostError> {
        self.change("rename", Some(domid), |host| host.rename(domid, from, to))
    }

    fn pause(&self, domid: DomId) -> Result<(), HostError> {
        self.change("pause", Some(domid), |host| host.pause(domid))
    }

    fn unpause(&self, domid: DomId) -> Result<(), HostError> {
        self.change("unpause", Some(domid), |host| host.unpause(domid))
    }

    fn destroy(&self, domid: DomId) -> Result<(), HostError> {
        self.change("destroy", Some(domid), |host| host.destroy(domid))
    }

    fn vifs(&self, _domid: DomId) -> Result<Vec<Vif>, HostError> {
        Ok(Vec::new())
    }

    fn tell_agent(&self, domid: DomId, command: &str) -> Result<(), HostError> {
        self.look("tell-agent", |host| host.tell_agent(domid, command))
    }

    fn logdirty_off(&self, domid: DomId) -> Result<(), HostError> {
        self.look("logdirty", |host| host.logdirty_off(domid))
    }
}

/// A save's questions to a session that may be dead.
struct Steered {
    proc: Arc<Proc>,
    inner: Box<dyn Steering>,
}

impl Steered {
    /// A dead session answers nothing; one that dies meanwhile empties its queue.
    fn ask<T>(&mut self, refused: T, ask: impl FnOnce(&mut dyn Steering) -> T) -> T {
        self.proc.asking.fetch_add(1, Ordering::SeqCst);
        let answer = if self.proc.is_dead() { refused } else { ask(&mut *self.inner) };
        self.proc.asking.fetch_sub(1, Ordering::SeqCst);
        answer
    }
}

impl Steering for Steered {
    fn precopy(&mut self, stats: &PrecopyStats) -> Decision {
        self.ask(Decision::Abort, |inner| inner.precopy(stats))
    }

    fn is_due(&self) -> bool {
        self.inner.is_due()
    }

    fn suspend(&mut self) -> Result<(), SuspendRefused> {
        self.ask(Err(SuspendRefused::Unanswered), |inner| inner.suspend())
    }
}
