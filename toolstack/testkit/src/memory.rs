//! A host in memory: domains with synthetic memory, saved as true libxl streams.
//!
//! It serves the tests of states and faults, and benchmarks of the data path. It knows nothing of
//! Xen's behaviour beyond what is written down here, so nothing that it does is evidence about Xen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use migrate_stream::libxc::PAGE_SIZE;
use serde_json::{Map, Value};

use rxl_core::domain::{DomId, Domain, GuestType, HostFacts, RunState};
use rxl_core::host_error::HostError;
use rxl_core::operation::Abort;
use rxl_core::shutdown::ShutdownReason;
use rxl_host::guard_line::Word;

mod boot;
mod guard;
mod host;
mod page;
mod restore;
mod save;
mod walked;
mod watch;

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
