//! A thread that belongs to a value: it is told to stop, and joined, when the value is dropped.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use crate::io::Cancel;

/// A thread that panicked, and what it said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} panicked: {message}")]
pub struct Panicked {
    /// Name of the thread, or of the part of its work that panicked.
    pub name: &'static str,
    /// The panic's message, or a placeholder where its payload is not text.
    pub message: String,
}

/// A running thread. Dropping it asks the thread to stop and waits until it has ended, however
/// long that takes: give it work that ends soon after `stop`, by deadlines of its own.
pub struct Worker<T = ()> {
    name: &'static str,
    stop: Box<dyn Fn() + Send + Sync>,
    thread: Option<JoinHandle<Result<T, Panicked>>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Runs `work` on a new thread of this name, of which Linux shows the first 15 bytes. `stop`
    /// makes `work` return soon; it may be called more than once.
    pub fn start(
        name: &'static str,
        stop: impl Fn() + Send + Sync + 'static,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Self> {
        let thread =
            std::thread::Builder::new().name(name.into()).spawn(move || catch(name, work))?;
        Ok(Self { name, stop: Box::new(stop), thread: Some(thread) })
    }

    /// Like [`Worker::start`], for work whose every wait ends when `cancel` is pulled.
    pub fn with_cancel(
        name: &'static str,
        cancel: Cancel,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Self> {
        Self::start(name, move || cancel.pull(), work)
    }
}

impl<T> Worker<T> {
    /// Asks the thread to stop, without waiting for it.
    pub fn stop(&self) {
        (self.stop)();
    }

    /// Waits until the thread ends by itself, and returns what it made.
    pub fn join(mut self) -> Result<T, Panicked> {
        self.wait()
    }

    fn wait(&mut self) -> Result<T, Panicked> {
        let lost = |message: &str| Panicked { name: self.name, message: message.into() };
        let thread = self.thread.take().ok_or_else(|| lost("it was joined before"))?;
        // `catch` holds every panic of the work: what can still panic is a payload's own drop.
        thread.join().map_err(|payload| lost(message_of(&*payload)))?
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        if self.thread.is_none() {
            return;
        }
        self.stop();
        if let Err(panicked) = self.wait() {
            tracing::error!("{panicked}");
        }
    }
}

/// Runs `work` and turns its panic into an error. What `work` shares with other threads must bear
/// an end in the middle: a mutex, for instance, whose poison its users pass over.
pub fn catch<T>(name: &'static str, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|payload| Panicked { name, message: message_of(&*payload).into() })
}

/// The text of a panic: `panic!` gives a `&str` or a `String`.
fn message_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    #[test]
    fn what_it_made_is_returned() {
        let name = || std::thread::current().name().map(String::from);
        let worker = Worker::start("count", || {}, name).unwrap();
        assert_eq!(worker.join(), Ok(Some("count".into())));
    }

    #[test]
    fn dropping_it_stops_and_joins_it() {
        let cancel = Cancel::new().unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let (pulled, told) = (cancel.clone(), ended.clone());
        let work = move || {
            while !pulled.pulled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            told.store(true, Ordering::SeqCst);
        };
        drop(Worker::with_cancel("wait", cancel, work).unwrap());
        assert!(ended.load(Ordering::SeqCst));
    }

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let number = 7;
        let worker: Worker = Worker::start("fall", || {}, move || panic!("at {number}")).unwrap();
        assert_eq!(worker.join().unwrap_err().to_string(), "fall panicked: at 7");
        let worker: Worker = Worker::start("fall", || {}, || panic!("flat")).unwrap();
        assert_eq!(worker.join().unwrap_err().to_string(), "fall panicked: flat");
    }
}
