//! The agent's nodes in the store.

use std::io;

use rxl_agent_protocol::{AgentInfo, path};

use super::record::Record;
use crate::store::Store;

/// What the agent has written, so that leftovers can be removed and a new tree be noticed.
pub struct Notices {
    info: AgentInfo,
    state: String,
    rows: usize,
    chunks: usize,
}

impl Notices {
    pub fn new(info: AgentInfo) -> Self {
        Self { info, state: String::new(), rows: 0, chunks: 0 }
    }

    /// Removes what an earlier agent has written.
    pub fn start(&mut self, store: &mut impl Store) -> io::Result<()> {
        store.remove(path::DATA)?;
        store.write(path::AGENT, &self.info.to_string())
    }

    /// Rows first, the state last: who has read the state finds the rows that belong to it.
    pub fn publish(&mut self, store: &mut impl Store, record: &Record) -> io::Result<()> {
        // Should this fail half way, the next step finds another state than this and begins again.
        self.state = record.state().to_string();
        write_all(store, path::job, &record.rows, &mut self.rows)?;
        store.write(path::JOBS, &record.rows.len().to_string())?;
        write_all(store, path::cut, &record.chunks, &mut self.chunks)?;
        store.write(path::STATE, &self.state)
    }

    /// Writes all anew where it is not as it was written: in the fresh tree of another host, or after a failure.
    pub fn renew(&mut self, store: &mut impl Store, record: &Record) -> io::Result<()> {
        // An answer that was being written while the guest was suspended stands in the fresh tree alone.
        if store.read(path::AGENT)?.is_none() {
            store.write(path::AGENT, &self.info.to_string())?;
            return self.publish(store, record);
        }
        if store.read(path::STATE)?.as_deref() == Some(&self.state) {
            return Ok(());
        }
        self.publish(store, record)
    }

    /// Takes all away but the state, whose stamp is for the next agent.
    pub fn retire(&mut self, store: &mut impl Store) -> io::Result<()> {
        store.remove(path::AGENT)?;
        write_all(store, path::job, &[], &mut self.rows)?;
        store.remove(path::JOBS)?;
        write_all(store, path::cut, &[], &mut self.chunks)
    }
}

/// Writes the values as numbered nodes and removes those that were written beyond them.
fn write_all(
    store: &mut impl Store,
    name: fn(usize) -> String,
    values: &[String],
    written: &mut usize,
) -> io::Result<()> {
    for (n, value) in values.iter().enumerate() {
        store.write(&name(n), value)?;
    }
    for n in values.len()..*written {
        store.remove(&name(n))?;
    }
    *written = values.len();
    Ok(())
}
