//! A host: its Xen in memory, its records on a disk, and what fails on it.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rxl_core::boot::BootId;
use rxl_core::host_error::HostError;
use rxl_core::state_dir::StateDir;
use rxl_handover::Journal;
use rxl_handover::source::SourceState;
use rxl_handover::target::TargetState;
use rxl_host::host::Host;
use rxl_recover::{Place, RecoverError, Settling};
use rxl_testkit::memory::MemoryHost;

use std::time::Duration;

use crate::plan::Failing;

/// How long things may change by themselves: not at all, as what a killed session had begun has
/// ended before its guard begins.
const AT_ONCE: Settling = Settling {
    suspended: Duration::ZERO,
    settled: Duration::ZERO,
    asked: Duration::ZERO,
    limit: Duration::from_millis(2),
    interval: Duration::from_micros(500),
};

pub struct Node {
    pub state: StateDir,
    inner: Mutex<Inner>,
    /// Which boot this is, from 1; 0 while the host is off.
    power: AtomicUsize,
    boots: AtomicUsize,
    /// How many processes run on it.
    active: AtomicUsize,
}

struct Inner {
    memory: MemoryHost,
    failing: Vec<Failing>,
}

fn new_memory() -> MemoryHost {
    MemoryHost::new(1 << 20)
}

impl Node {
    pub fn new(dir: &Path) -> Self {
        let node = Self {
            state: StateDir::at(dir),
            inner: Mutex::new(Inner { memory: new_memory(), failing: Vec::new() }),
            power: AtomicUsize::new(1),
            boots: AtomicUsize::new(1),
            active: AtomicUsize::new(0),
        };
        std::fs::create_dir_all(node.lasting("disk")).unwrap();
        node.bring_disk();
        node
    }

    pub fn memory(&self) -> MemoryHost {
        self.inner.lock().unwrap().memory.clone()
    }

    /// Which boot this is; none while the host is off.
    pub fn power(&self) -> Option<usize> {
        Some(self.power.load(Ordering::SeqCst)).filter(|power| *power > 0)
    }

    /// False where it was off.
    pub fn power_off(&self) -> bool {
        self.power.swap(0, Ordering::SeqCst) > 0
    }

    /// Nothing but its disk is left. Nothing may run on it any more.
    pub fn power_on(&self) {
        self.inner.lock().unwrap().memory = new_memory();
        let boot = self.boots.fetch_add(1, Ordering::SeqCst) + 1;
        self.power.store(boot, Ordering::SeqCst);
    }

    pub fn active(&self) -> &AtomicUsize {
        &self.active
    }

    /// How often it has been switched on.
    pub fn boots(&self) -> usize {
        self.boots.load(Ordering::SeqCst)
    }

    pub fn journal(&self) -> Journal {
        let journal = Journal::of(&self.state).unwrap();
        match self.boots() {
            1 => journal,
            boot => journal.in_boot(BootId::try_from(format!("boot-{boot}")).unwrap()),
        }
    }

    pub fn place<'a>(&self, host: &'a dyn Host, journal: &'a Journal) -> Place<'a> {
        Place { host, journal, settling: AT_ONCE }
    }

    pub fn fail(&self, failing: Failing) {
        self.inner.lock().unwrap().failing.push(failing);
    }

    pub fn heal(&self) {
        self.inner.lock().unwrap().failing.clear();
        self.memory().set_faults(Default::default());
        self.bring_disk();
    }

    /// Calls the host, or fails as asked.
    pub fn call<T>(
        &self,
        name: &str,
        act: impl FnOnce(&MemoryHost) -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        let (failing, memory) = {
            let mut inner = self.inner.lock().unwrap();
            let failing = inner.failing.iter_mut().find(|f| f.call == name && f.times > 0);
            let failing = failing.map(|failing| {
                failing.times -= 1;
                *failing
            });
            (failing, inner.memory.clone())
        };
        let failed = || HostError::failed("call", "as asked");
        match failing {
            None => act(&memory),
            Some(failing) if failing.though_done => act(&memory).and_then(|_| Err(failed())),
            Some(_) => Err(failed()),
        }
    }

    /// The file system of the records fails: where it was mounted is a file.
    pub fn lose_disk(&self) {
        let _one_at_a_time = self.inner.lock().unwrap();
        let file = self.lasting("no-disk");
        std::fs::write(&file, "").unwrap();
        std::fs::rename(file, self.lasting("migrations")).unwrap();
    }

    /// It is there again.
    pub fn bring_disk(&self) {
        let _one_at_a_time = self.inner.lock().unwrap();
        let link = self.lasting("link");
        std::os::unix::fs::symlink("disk", &link).unwrap();
        std::fs::rename(link, self.lasting("migrations")).unwrap();
    }

    /// What outlives a loss of power.
    fn lasting(&self, name: &str) -> PathBuf {
        self.state.lasting().join(name)
    }

    /// Removes all records, for the next session.
    pub fn sweep(&self) {
        for entry in std::fs::read_dir(self.lasting("disk")).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    pub fn source_state(&self, id: &str) -> Result<Option<SourceState>, RecoverError> {
        let record = self.journal().find::<SourceState>(id)?;
        Ok(record.map(|record| record.state()).transpose()?)
    }

    pub fn target_state(&self, id: &str) -> Result<Option<TargetState>, RecoverError> {
        let record = self.journal().find::<TargetState>(id)?;
        Ok(record.map(|record| record.state()).transpose()?)
    }
}
