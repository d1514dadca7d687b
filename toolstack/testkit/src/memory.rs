//! A host in memory: domains with synthetic memory, saved as true libxl streams.
//!
//! It serves the tests of states and faults, and benchmarks of the data path. It knows nothing of
//! Xen's behaviour beyond what is written down here, so nothing that it does is evidence about Xen.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use migrate_stream::libxc::PAGE_SIZE;
use serde_json::{Map, Value};

use rxl_core::domain::Vif;
use rxl_core::domain::{DomId, Domain, GuestType, HostFacts, RunState};
use rxl_core::domain_config::DomainConfig;
use rxl_core::host_error::HostError;
use rxl_core::operation::{Abort, Operation};
use rxl_core::shutdown::ShutdownReason;
use rxl_core::state_dir::DomainLock;
use rxl_core::steering::Walker;
use rxl_host::guard_line::{Guard, Word};
use rxl_host::host::{Host, RestoreRequest, Save};
use rxl_host::watcher::NotStarted;

mod boot;
mod guard;
mod page;
mod restore;
mod save;
mod walked;
mod watch;

use guard::Heard;
use restore::read_stream;
use save::SyntheticSave;
use watch::Watching;

/// What a synthetic guest is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its memory, in pages of 4 KiB.
    pub pages: u64,
    /// Of 256 pages so many are all zero.
    pub zero_per_256: u8,
    /// Pages dirty after each live iteration. When the last is done the guest is suspended.
    pub dirty: Vec<u64>,
    /// Start over with `dirty` for ever: it can only be cancelled.
    pub endless: bool,
    /// Which contents its pages have.
    pub seed: u64,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A save fails after so many live iterations.
    pub save_after_iterations: Option<usize>,
    /// A save fails after the guest was suspended.
    pub save_after_suspend: bool,
    /// What a domain needs is taken by another between the check and the restore.
    pub memory_taken: bool,
    /// A restore fails after so many bytes.
    pub restore_after: Option<u64>,
    /// A restore fails when it has read everything.
    pub restore_at_end: bool,
    /// No domain can be renamed.
    pub rename: bool,
    /// No domain can be unpaused.
    pub unpause: bool,
    /// No domain can be booted.
    pub boot: bool,
    /// No domain can be destroyed.
    pub destroy: bool,
    /// A save cannot be started.
    pub save_start: bool,
    /// The guest crashes when it is to be suspended, and the save fails.
    pub crash: bool,
    /// Log-dirty mode cannot be switched off.
    pub logdirty: bool,
}

/// Something that happens in the middle of a host's call.
type Hook = Box<dyn FnOnce() + Send>;

/// A domain as the host keeps it.
#[derive(Clone, Debug)]
pub struct Kept {
    /// As it would be listed.
    pub domain: Domain,
    /// Log-dirty mode is on.
    pub log_dirty: bool,
    /// Length and CRC-32 of the last stream that was saved from it or restored into it.
    pub stream: Option<(u64, u32)>,
    /// What its agent was told.
    pub agent_command: Option<String>,
    /// The migration that it is marked with.
    pub mark: Option<String>,
    /// It was asked to suspend, and has not seen that yet.
    pub suspend_pending: bool,
    /// What its configuration holds beside name, number and memory.
    pub config: Map<String, Value>,
    /// What its balloon leaves it of its maximum, in KiB.
    target_kib: u64,
    /// Why its guest has ended, where it has.
    ended: Option<ShutdownReason>,
    /// Not to run before it is unpaused.
    paused: bool,
    guest: Option<Guest>,
}

/// A host in memory. A clone is the same host.
#[derive(Clone)]
pub struct MemoryHost(Arc<Mutex<State>>);

struct State {
    facts: HostFacts,
    domains: BTreeMap<DomId, Kept>,
    next: u32,
    faults: Faults,
    words: Option<Sender<Word>>,
    guard_exit: Duration,
    renamed: Option<Hook>,
    watching: Watching,
}

impl MemoryHost {
    /// A host without domains.
    pub fn new(free_memory_kib: u64) -> Self {
        let facts = HostFacts {
            xen_version: "4.17".into(),
            free_memory_kib,
            autoballoon: false,
            shadow_paging: false,
            hap: true,
        };
        let state = State {
            facts,
            domains: BTreeMap::new(),
            next: 1,
            faults: Faults::default(),
            words: None,
            guard_exit: Duration::ZERO,
            renamed: None,
            watching: Watching::default(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Starts a guest.
    pub fn start(&self, name: &str, guest_type: GuestType, guest: Guest) -> DomId {
        let mut state = self.lock();
        let max_memory_kib = guest.pages * (PAGE_SIZE as u64 / 1024);
        state.add(name, guest_type, RunState::Running, max_memory_kib, Some(guest))
    }

    /// Makes things go wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// What guards are told from now on comes out here.
    pub fn hear_guards(&self) -> Receiver<Word> {
        let (words, heard) = channel();
        self.lock().words = Some(words);
        heard
    }

    /// Each guard takes so long to exit once its session has left it.
    pub fn delay_guards(&self, exit: Duration) {
        self.lock().guard_exit = exit;
    }

    /// Runs once, in the call that renames a domain, when it is renamed.
    pub fn when_renamed(&self, hook: impl FnOnce() + Send + 'static) {
        self.lock().renamed = Some(Box::new(hook));
    }

    /// Puts a domain into a state.
    pub fn set_state(&self, domid: DomId, run_state: RunState) {
        if let Some(kept) = self.lock().domains.get_mut(&domid) {
            kept.domain.state = run_state;
        }
    }

    /// Asks a domain to suspend, as a save does that is then killed.
    pub fn ask_to_suspend(&self, domid: DomId) {
        if let Some(kept) = self.lock().domains.get_mut(&domid) {
            kept.suspend_pending = true;
        }
    }

    /// All domains, by their numbers.
    pub fn domains(&self) -> Vec<Kept> {
        self.lock().domains.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> Faults {
        self.lock().faults
    }

    fn change(&self, domid: DomId, change: impl FnOnce(&mut Kept)) -> Result<(), HostError> {
        let mut state = self.lock();
        let kept = state
            .domains
            .get_mut(&domid)
            .ok_or_else(|| HostError::NoSuchDomain(domid.to_string()))?;
        change(kept);
        Ok(())
    }
}

impl State {
    fn add(
        &mut self,
        name: &str,
        guest_type: GuestType,
        state: RunState,
        kib: u64,
        guest: Option<Guest>,
    ) -> DomId {
        let domid = DomId(self.next);
        self.next += 1;
        self.facts.free_memory_kib = self.facts.free_memory_kib.saturating_sub(kib);
        let domain =
            Domain { domid, name: name.into(), guest_type, state, max_memory_kib: kib, vcpus: 1 };
        let kept = Kept {
            domain,
            log_dirty: false,
            stream: None,
            agent_command: None,
            mark: None,
            suspend_pending: false,
            config: Map::new(),
            target_kib: kib,
            ended: None,
            paused: false,
            guest,
        };
        self.domains.insert(domid, kept);
        domid
    }

    fn remove(&mut self, domid: DomId) -> Option<Kept> {
        let kept = self.domains.remove(&domid)?;
        self.facts.free_memory_kib += kept.target_kib;
        Some(kept)
    }
}

impl Host for MemoryHost {
    fn facts(&self) -> Result<HostFacts, HostError> {
        Ok(self.lock().facts.clone())
    }

    fn memory_needed(&self, config: &DomainConfig) -> Result<u64, HostError> {
        Ok(boot::needed(config))
    }

    fn find(&self, name_or_domid: &str) -> Result<Domain, HostError> {
        let wanted = name_or_domid.parse().map(DomId).ok();
        let state = self.lock();
        let found = state.domains.values().find(|kept| match wanted {
            Some(domid) => kept.domain.domid == domid,
            None => kept.domain.name == name_or_domid,
        });
        found
            .map(|kept| kept.domain.clone())
            .ok_or_else(|| HostError::NoSuchDomain(name_or_domid.into()))
    }

    fn domain(&self, domid: DomId) -> Result<Domain, HostError> {
        self.find(&domid.to_string())
    }

    fn config_json(&self, domid: DomId) -> Result<String, HostError> {
        self.configuration(domid)
    }

    fn boot(&self, config: &DomainConfig) -> Result<DomId, HostError> {
        self.boot_paused(config)
    }

    fn save(&self, domid: DomId, save: Save) -> Result<Operation<()>, HostError> {
        let Save { stream, flags, walker, notes, steering, feed } = save;
        if self.faults().save_start {
            return Err(failed("save", "as asked, before it began"));
        }
        let guest = self.lock().domains.get(&domid).and_then(|kept| kept.guest.clone());
        let guest = guest.ok_or_else(|| HostError::NoSuchDomain(domid.to_string()))?;
        let (aborted, abort) = abort();
        let saving = SyntheticSave {
            host: self.clone(),
            domid,
            guest,
            output: Summing::new(File::from(stream)),
            notes,
            steering,
            aborted,
            generation: 0,
        };
        match walker {
            Walker::Rxl => Operation::spawn("save", abort, move || saving.walk(flags, feed)),
            Walker::Libxc | Walker::Stock => {
                Operation::spawn("save", abort, move || saving.run(flags))
            }
        }
    }

    fn restore(
        &self,
        request: RestoreRequest,
        stream: OwnedFd,
    ) -> Result<Operation<DomId>, HostError> {
        if self.faults().memory_taken {
            return Err(HostError::no_memory("another domain was faster"));
        }
        let most = request.config().max_memory_kib();
        let kib = request.config().target_memory_kib().or(most).unwrap_or(0);
        let domid = self.lock().add(request.name(), GuestType::Pvh, RunState::Paused, kib, None);
        let (aborted, abort) = abort();
        let host = self.clone();
        let Faults { restore_after: limit, restore_at_end, .. } = self.faults();
        Operation::spawn("restore", abort, move || {
            let _notes = request.notes;
            let restored = read_stream(Summing::new(File::from(stream)), &aborted, limit);
            let restored = restored.and_then(|sum| {
                if restore_at_end { Err(failed("restore", "as asked")) } else { Ok(sum) }
            });
            match restored {
                Ok(sum) => host.change(domid, |kept| kept.stream = Some(sum)).map(|()| domid),
                Err(error) => {
                    host.lock().remove(domid);
                    Err(error)
                }
            }
        })
    }

    fn resume(&self, domid: DomId) -> Result<(), HostError> {
        let resumed =
            |kept: &mut Kept| if kept.paused { RunState::Paused } else { RunState::Running };
        self.change(domid, |kept| kept.domain.state = resumed(kept))
    }

    fn guard(&self, _lock: &DomainLock) -> std::io::Result<Guard> {
        let state = self.lock();
        let (words, exit) = (state.words.clone(), state.guard_exit);
        Ok(words.map_or_else(Guard::none, |words| Guard::new(Heard { words, exit })))
    }

    fn watch(&self, domid: DomId) -> Result<(), NotStarted> {
        self.lock().watching.started.push(domid);
        Ok(())
    }

    fn note_watched(&self, domid: DomId) -> Result<(), NotStarted> {
        let mut state = self.lock();
        state.watching.noted.retain(|noted| *noted != domid);
        if state.watching.is_watched(domid) {
            state.watching.noted.push(domid);
        }
        Ok(())
    }

    fn watch_again(&self, domid: DomId) -> Result<(), NotStarted> {
        let was = self.lock().watching.noted.contains(&domid);
        if was { self.watch(domid) } else { Ok(()) }
    }

    fn rename(&self, domid: DomId, from: &str, to: &str) -> Result<(), HostError> {
        if self.faults().rename {
            return Err(failed("rename", "as asked"));
        }
        if self.find(to).is_ok() {
            return Err(HostError::NameTaken(to.into()));
        }
        let mut same = false;
        self.change(domid, |kept| {
            same = kept.domain.name == from;
            if same {
                kept.domain.name = to.into();
            }
        })?;
        if !same {
            return Err(failed("rename", format!("it is not named {from}")));
        }
        let hook = self.lock().renamed.take();
        if let Some(hook) = hook {
            hook();
        }
        Ok(())
    }

    fn pause(&self, domid: DomId) -> Result<(), HostError> {
        self.change(domid, |kept| {
            kept.paused = true;
            if kept.domain.state == RunState::Running {
                kept.domain.state = RunState::Paused;
            }
        })
    }

    fn unpause(&self, domid: DomId) -> Result<(), HostError> {
        if self.faults().unpause {
            return Err(failed("unpause", "as asked"));
        }
        self.change(domid, |kept| {
            kept.paused = false;
            kept.domain.state = RunState::Running;
        })
    }

    fn destroy(&self, domid: DomId) -> Result<(), HostError> {
        if self.faults().destroy {
            return Err(failed("destroy", "as asked"));
        }
        let removed = self.lock().remove(domid);
        removed.map(|_| ()).ok_or_else(|| HostError::NoSuchDomain(domid.to_string()))
    }

    fn vifs(&self, _domid: DomId) -> Result<Vec<Vif>, HostError> {
        Ok(Vec::new())
    }

    fn tell_agent(&self, domid: DomId, command: &str) -> Result<(), HostError> {
        self.change(domid, |kept| kept.agent_command = Some(command.into()))
    }

    fn withdraw_suspend(&self, domid: DomId) -> Result<bool, HostError> {
        let mut pending = false;
        self.change(domid, |kept| pending = std::mem::take(&mut kept.suspend_pending))?;
        Ok(pending)
    }

    fn mark(&self, domid: DomId, migration: &str) -> Result<(), HostError> {
        self.change(domid, |kept| kept.mark = Some(migration.into()))
    }

    fn mark_of(&self, domid: DomId) -> Result<Option<String>, HostError> {
        let state = self.lock();
        let kept = state.domains.get(&domid);
        let kept = kept.ok_or_else(|| HostError::NoSuchDomain(domid.to_string()))?;
        Ok(kept.mark.clone())
    }

    fn logdirty_off(&self, domid: DomId) -> Result<(), HostError> {
        if self.faults().logdirty {
            return Err(failed("log-dirty mode", "as asked"));
        }
        self.change(domid, |kept| kept.log_dirty = false)
    }
}

fn failed(operation: &'static str, reason: impl ToString) -> HostError {
    HostError::failed(operation, reason.to_string())
}

fn abort() -> (Arc<AtomicBool>, Abort) {
    let aborted = Arc::new(AtomicBool::new(false));
    let flag = aborted.clone();
    (aborted, Abort::new(move || flag.store(true, Ordering::SeqCst)))
}

/// Counts and sums what passes.
struct Summing<F> {
    file: F,
    bytes: u64,
    crc: crc32fast::Hasher,
}

impl<F> Summing<F> {
    fn new(file: F) -> Self {
        Self { file, bytes: 0, crc: crc32fast::Hasher::new() }
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.crc.update(bytes);
    }

    fn sum(self) -> (u64, u32) {
        (self.bytes, self.crc.finalize())
    }
}
