//! xenstore, through the crate xenstore-rs: by the kernel's device, or by a socket.
//!
//! Only the crate's tokio client knows watches. Its blocking one can wait for ever, and hides its
//! descriptor, so that nobody can poll it. What the tokio client (0.8.0) lacks is made good here:
//!
//! - It waits for an answer without a deadline, also after the connection was lost: its reader
//!   ends, and nobody tells those who wait. So each request has a deadline.
//! - To drop it ends none of its tasks: the device stays open, and the watch stays registered. So
//!   each client has a runtime of its own, which is dropped with it.
//! - While 8 events of a watch wait to be taken, it takes no more answers. So a task takes events
//!   at all times, also during a request.
//! - It matches answers by id, and the kernel answers WATCH itself, with id 0. So the watch is the
//!   first request of a client, which has id 0.
//! - A request longer than 4096 bytes ends its writer. So such a request is refused.
//! - A value that is not UTF-8 is an error. So the value is read as U+FFFD.
//!
//! The client allocates whatever length an answer's header tells. The device bounds it: the kernel
//! drops answers of more than 4096 bytes (`process_msg` in drivers/xen/xenbus/xenbus_comms.c).
//!
//! What the device (drivers/xen/xenbus/xenbus_dev_frontend.c) does and this file counts on:
//!
//! - A request may come in several write(2): the kernel collects it.
//! - The kernel holds the watches. After a resume on another host it registers them again with the
//!   same tokens, upon which each fires once. While the domain is being suspended, write(2) blocks.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::str::Utf8Error;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use rxl_agent_protocol::path;
use tokio::net::unix::pipe;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use xenstore_rs::tokio::XsTokio;
use xenstore_rs::{AsyncWatch, AsyncXs};

use super::{Store, wait_for_any};
use crate::deadlines::ANSWER_DEADLINE;

/// The kernel's device, through which a guest reaches its host's xenstored.
pub const DEVICE: &str = "/dev/xen/xenbus";

/// The environment's name for a socket to be used in place of the device. xenstore-rs reads it, as
/// Xen's own libxenstore does. Where it is not set, /run/xenstored/socket is tried first.
pub const SOCKET_VARIABLE: &str = "XENSTORED_PATH";

/// Longest request in bytes (XENSTORE_PAYLOAD_MAX in Xen's xen/include/public/io/xs_wire.h).
const MAX_PAYLOAD: usize = 4096;

/// The client opens the device on a thread, which then ends. Its stack is locked into memory.
const OPENER_STACK: usize = 64 << 10;

/// A connection to xenstore that watches what dom0 writes. After a lost or late answer it is made
/// anew at the next request.
pub struct Xenstore {
    client: Option<Client>,
}

/// The order of the fields matters: the runtime is dropped last.
struct Client {
    xenstore: XsTokio,
    changed: Arc<Notify>,
    runtime: Runtime,
}

impl Xenstore {
    /// Connects and watches what dom0 writes.
    pub fn open() -> io::Result<Self> {
        Ok(Self { client: Some(Client::open()?) })
    }

    fn request<T>(
        &mut self,
        request: impl AsyncFnOnce(&XsTokio) -> io::Result<T>,
    ) -> io::Result<T> {
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::open()?,
        };
        let answer = client.runtime.block_on(in_time(request(&client.xenstore)));
        if !answer.as_ref().is_err_and(is_of_connection) {
            self.client = Some(client);
        }
        answer
    }
}

impl Client {
    fn open() -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(1)
            .thread_stack_size(OPENER_STACK)
            .thread_keep_alive(Duration::ZERO)
            .build()?;
        let changed = Arc::new(Notify::new());
        let xenstore = runtime.block_on(in_time(connect(changed.clone())))?;
        // Whatever was written before the watch stood.
        changed.notify_one();
        Ok(Self { xenstore, changed, runtime })
    }
}

async fn connect(changed: Arc<Notify>) -> io::Result<XsTokio> {
    let xenstore = XsTokio::new().await?;
    let mut events = xenstore.watch(path::CONTROL).await?;
    tokio::spawn(async move {
        while events.next().await.is_some() {
            changed.notify_one();
        }
    });
    Ok(xenstore)
}

async fn in_time<T>(request: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(ErrorKind::TimedOut, "xenstore does not answer");
    timeout(ANSWER_DEADLINE, request).await.map_err(late)?
}

/// Whether an error came from the connection. Other errors are xenstored's answers.
fn is_of_connection(error: &io::Error) -> bool {
    let broken = [ErrorKind::TimedOut, ErrorKind::BrokenPipe, ErrorKind::InvalidData];
    broken.contains(&error.kind()) && !is_of_text(error)
}

fn is_of_text(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<Utf8Error>())
}

impl Store for Xenstore {
    fn read(&mut self, path: &str) -> io::Result<Option<String>> {
        match self.request(async |xenstore| xenstore.read(path).await) {
            Ok(value) => Ok(Some(value.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if is_of_text(&error) => Ok(Some(char::REPLACEMENT_CHARACTER.into())),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, path: &str, value: &str) -> io::Result<()> {
        if path.len() + 1 + value.len() > MAX_PAYLOAD {
            return Err(io::Error::new(ErrorKind::InvalidInput, "too long for xenstore"));
        }
        self.request(async |xenstore| xenstore.write(path, value).await)
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        match self.request(async |xenstore| xenstore.rm(path).await) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn wait(&mut self, other: BorrowedFd<'_>, longest: Duration) -> io::Result<bool> {
        let Some(client) = &self.client else {
            return wait_for_any(&[other], longest).map(|()| false);
        };
        let other = File::from(other.try_clone_to_owned()?);
        client.runtime.block_on(async {
            // tokio has no other safe way to wait for any descriptor that epoll takes.
            let other = pipe::Receiver::from_file_unchecked(other)?;
            tokio::select! {
                () = client.changed.notified() => Ok(true),
                readable = other.readable() => readable.map(|()| false),
                () = sleep(longest) => Ok(false),
            }
        })
    }
}
