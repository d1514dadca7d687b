//! The agent's nodes in the store.

use std::collections::BTreeMap;
use std::io;

use rxl_agent_protocol::{AgentInfo, path};

use super::record::Record;
use crate::store::Store;

/// The nodes that the agent has written. A node that holds its value already is not written again:
/// a request takes a guest tenths of a second when it has just moved, and a job waits for the last
/// of them.
pub struct Advertisement {
    info: AgentInfo,
    written: BTreeMap<String, String>,
}

impl Advertisement {
    pub fn new(info: AgentInfo) -> Self {
        Self { info, written: BTreeMap::new() }
    }

    /// Removes what an earlier agent has written.
    pub fn start(&mut self, store: &mut impl Store) -> io::Result<()> {
        store.remove(path::DATA)?;
        self.put(store, path::AGENT, &self.info.to_string())
    }

    /// Writes the rows first and the state last: who has read the state finds the rows that belong
    /// to it.
    pub fn publish(&mut self, store: &mut impl Store, record: &Record) -> io::Result<()> {
        self.put_all(store, path::job, &record.rows)?;
        self.put(store, path::JOBS, &record.rows.len().to_string())?;
        self.put_optional(store, path::UNCLAIMED, record.unclaimed.as_deref())?;
        self.put_all(store, path::explain, &record.explanation)?;
        self.put_all(store, path::cut, &record.cut_chunks)?;
        self.put(store, path::STATE, &record.state().to_string())
    }

    /// Writes all nodes anew in the fresh tree of another host, and those that could not be written
    /// before.
    pub fn renew(&mut self, store: &mut impl Store, record: &Record) -> io::Result<()> {
        // An answer that was being written while the guest was suspended stands in the fresh tree
        // alone.
        if store.read(path::AGENT)?.is_none() {
            self.written.clear();
        } else if self.written.get(path::STATE) == Some(&record.state().to_string()) {
            return Ok(());
        }
        self.put(store, path::AGENT, &self.info.to_string())?;
        self.publish(store, record)
    }

    /// Removes all nodes but the state, whose stamp is for the next agent.
    pub fn retire(&mut self, store: &mut impl Store) -> io::Result<()> {
        store.remove(path::AGENT)?;
        self.put_all(store, path::job, &[])?;
        store.remove(path::JOBS)?;
        self.put_optional(store, path::UNCLAIMED, None)?;
        self.put_all(store, path::explain, &[])?;
        self.put_all(store, path::cut, &[])
    }

    /// Writes the values as numbered nodes, and removes those of a longer list before.
    fn put_all(
        &mut self,
        store: &mut impl Store,
        name: fn(usize) -> String,
        values: &[String],
    ) -> io::Result<()> {
        for (n, value) in values.iter().enumerate() {
            self.put(store, &name(n), value)?;
        }
        let surplus = (values.len()..).map(name);
        for (node, _) in surplus.map_while(|node| self.written.remove_entry(&node)) {
            store.remove(&node)?;
        }
        Ok(())
    }

    /// Writes a node, or removes it where there is no value.
    fn put_optional(
        &mut self,
        store: &mut impl Store,
        node: &str,
        value: Option<&str>,
    ) -> io::Result<()> {
        match value {
            Some(value) => self.put(store, node, value),
            None if self.written.remove(node).is_some() => store.remove(node),
            None => Ok(()),
        }
    }

    /// Writes a node, unless it holds the value already. A node whose write failed counts as not
    /// written.
    fn put(&mut self, store: &mut impl Store, node: &str, value: &str) -> io::Result<()> {
        if self.written.get(node).is_some_and(|written| written == value) {
            return Ok(());
        }
        self.written.remove(node);
        store.write(node, value)?;
        self.written.insert(node.to_owned(), value.to_owned());
        Ok(())
    }
}
