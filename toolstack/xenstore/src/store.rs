//! A connection to xenstored, and watches over it.

use std::io;
use std::str::Utf8Error;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use xenstore_rs::tokio::XsTokio;
use xenstore_rs::{AsyncWatch, AsyncXs};

use crate::error::StoreError;
use rxl_core::deadlines;

/// Longest path in bytes (`XENSTORE_ABS_PATH_MAX` in Xen's xs_wire.h).
const MAX_PATH: usize = 3072;

/// Longest request, answer and value in bytes (`XENSTORE_PAYLOAD_MAX` in Xen's xs_wire.h).
const MAX_PAYLOAD: usize = 4096;

/// Most children of a node: each name takes two bytes of an answer at least.
const MAX_CHILDREN: usize = MAX_PAYLOAD / 2;

/// A connection to xenstored as dom0: all nodes of all domains can be read and written.
///
/// Its calls block their thread. So they must not be made inside of a task of a tokio runtime,
/// where tokio refuses to block.
///
/// Requests are made one at a time, so each has the id 0, which is also the id with which the
/// kernel's device answers a request to watch.
pub struct Store {
    connection: XsTokio,
    /// Dropped last, and with it the connection: xenstore-rs leaves its tasks running.
    runtime: Runtime,
    /// How long one call may take.
    longest: Duration,
}

impl Store {
    /// Connects. Each call takes at most [`deadlines::XENSTORE`].
    pub fn connect() -> Result<Self, StoreError> {
        Self::connect_within(deadlines::XENSTORE)
    }

    /// Connects. Each call, this one included, takes at most `longest`.
    pub fn connect_within(longest: Duration) -> Result<Self, StoreError> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(StoreError::Connect)?;
        let connected = runtime.block_on(async { timeout(longest, XsTokio::new()).await });
        let late = |_| StoreError::Connect(io::ErrorKind::TimedOut.into());
        let connection = connected.map_err(late)?.map_err(StoreError::Connect)?;
        Ok(Self { connection, runtime, longest })
    }

    /// The names of a node's children; none where there is no such node.
    pub fn list(&self, path: &str) -> Result<Vec<String>, StoreError> {
        match self.ask("list", path, self.connection.directory(path))? {
            Ok(names) if names.len() > MAX_CHILDREN => {
                Err(StoreError::TooMany { path: path.into(), count: names.len() })
            }
            Ok(names) => Ok(names.into_iter().map(String::from).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(StoreError::Failed { action: "list", path: path.into(), source }),
        }
    }

    /// The node's value; none where there is no such node, or where its value is not text.
    pub fn read(&self, path: &str) -> Result<Option<String>, StoreError> {
        match self.ask("read", path, self.connection.read(path))? {
            Ok(value) if value.len() > MAX_PAYLOAD => {
                Err(StoreError::TooLong { path: path.into(), length: value.len() })
            }
            Ok(value) => Ok(Some(value.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_of_text(&error) => Ok(None),
            Err(source) => Err(StoreError::Failed { action: "read", path: path.into(), source }),
        }
    }

    /// Writes a node. One that is new inherits its parent's permissions.
    pub fn write(&self, path: &str, value: &str) -> Result<(), StoreError> {
        // The client's writer ends at a longer one, and with it the connection.
        if path.len() + 1 + value.len() > MAX_PAYLOAD {
            return Err(StoreError::TooLong { path: path.into(), length: value.len() });
        }
        let failed = |source| StoreError::Failed { action: "write", path: path.into(), source };
        self.ask("write", path, self.connection.write(path, value))?.map_err(failed)
    }

    /// Watches a node and all below it. The node need not be there.
    ///
    /// xenstored fires the watch once at once, then with every change (docs/misc/xenstore.txt).
    pub fn watch(&self, path: &str) -> Result<Watch<'_>, StoreError> {
        let failed = |source| StoreError::Failed { action: "watch", path: path.into(), source };
        let mut events = self.ask("watch", path, self.connection.watch(path))?.map_err(failed)?;
        let changed = Arc::new(Notify::new());
        let change = changed.clone();
        let taker = self.runtime.spawn(async move {
            while events.next().await.is_some() {
                change.notify_one();
            }
        });
        Ok(Watch { store: self, changed, taker })
    }

    /// Runs one request to its end or to its deadline.
    fn ask<T>(
        &self,
        action: &'static str,
        path: &str,
        request: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        if path.is_empty() || path.len() > MAX_PATH || path.contains('\0') {
            return Err(StoreError::BadPath(path.len()));
        }
        let late = |_| StoreError::Late { action, path: path.into(), within: self.longest };
        self.runtime.block_on(async { timeout(self.longest, request).await }).map_err(late)
    }
}

/// A watch on a node and all below it. Dropping it ends it.
pub struct Watch<'a> {
    store: &'a Store,
    /// Changes that nobody has waited for yet count as one.
    changed: Arc<Notify>,
    /// Takes events at all times: when 8 of them wait, xenstore-rs takes no more answers.
    taker: JoinHandle<()>,
}

impl Watch<'_> {
    /// Waits for a change since the last wait, or until `longest` is over. The first wait sees the
    /// event with which xenstored confirms the watch.
    pub fn wait(&self, longest: Duration) {
        let changed = self.changed.notified();
        // Late or not, whoever waits looks again.
        let _ = self.store.runtime.block_on(async { timeout(longest, changed).await });
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.taker.abort();
        // xenstore-rs asks for the end of a watch when its stream is dropped, which the aborted
        // task does when it next runs: here. The request goes out with the store's next call.
        let _ = self.store.runtime.block_on(async { timeout(UNWATCH, &mut self.taker).await });
    }
}

/// How long the task of a watch that was aborted may take to be dropped: it waits for nothing.
const UNWATCH: Duration = Duration::from_secs(1);

/// Whether the error is about a value that is not UTF-8: xenstore-rs wraps the decoder's.
fn is_of_text(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<Utf8Error>())
}
