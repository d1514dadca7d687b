//! A host's locks in memory, for scripted agents.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rxl_core::boot::BootId;
use rxl_quiesce::error::AgentsError;
use rxl_quiesce::nodes::Lock;

/// A host's locks in memory. A clone is another coordinator's view of the same host.
#[derive(Debug, Default)]
pub struct MemoryLocks {
    all: Arc<Mutex<Vec<Lock>>>,
    mine: Vec<Lock>,
}

impl MemoryLocks {
    /// What [`rxl_quiesce::nodes::Nodes::lock`] answers.
    pub fn take(&mut self, lock: Lock) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = !all.contains(&lock);
        if is_free {
            all.push(lock);
            self.mine.push(lock);
        }
        is_free
    }

    /// What [`rxl_quiesce::nodes::Nodes::boot`] answers: the same for all views of one host.
    pub fn boot(&self) -> Result<BootId, AgentsError> {
        let id = format!("{:p}", Arc::as_ptr(&self.all));
        BootId::try_from(id).map_err(|error| AgentsError::NoBootId(io::Error::other(error)))
    }

    /// What [`rxl_quiesce::nodes::Nodes::unlock`] does.
    pub fn give_back(&mut self, lock: Lock) {
        if self.mine.contains(&lock) {
            self.mine.retain(|mine| *mine != lock);
            self.all.lock().unwrap_or_else(PoisonError::into_inner).retain(|held| *held != lock);
        }
    }

    /// Those that anyone has.
    pub fn held(&self) -> Vec<Lock> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Clone for MemoryLocks {
    fn clone(&self) -> Self {
        Self { all: self.all.clone(), mine: Vec::new() }
    }
}

impl Drop for MemoryLocks {
    fn drop(&mut self) {
        for lock in self.mine.clone() {
            self.give_back(lock);
        }
    }
}
