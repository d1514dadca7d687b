//! Aborts one operation of libxl, whenever that is asked for.

use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rxl_core::deadlines;

/// An operation of libxl that is under way.
pub(super) trait Running: Send + Sync {
    /// Asks libxl to abort it. Harmless when it has ended.
    fn abort(&self);
}

/// Aborts one operation, whenever it is pulled: before the operation begins, while it runs, or
/// after it has ended.
#[derive(Clone, Default)]
pub struct Canceller(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pulled: bool,
    running: Option<Arc<dyn Running>>,
    /// libxl has a child process, the first of which is the save helper.
    forked: bool,
}

impl State {
    /// libxl calls a null pointer where it is aborted before its save helper runs: see the crate's
    /// documentation.
    fn cannot_be_aborted_yet(&mut self) -> bool {
        self.running.is_some() && !self.forked
    }
}

impl Canceller {
    /// Asks the operation to stop; it still has to be waited for. Only the first call does
    /// anything.
    ///
    /// An operation that has just begun is aborted when its helper runs, and this waits for that.
    pub fn pull(&self) {
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.pulled, true) {
            return;
        }
        let waited = self.0.changed.wait_timeout_while(
            state,
            deadlines::HELPER_FORK,
            State::cannot_be_aborted_yet,
        );
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.cannot_be_aborted_yet() {
            tracing::error!(
                "libxl did not start its helper within {:?}: nothing can be aborted",
                deadlines::HELPER_FORK
            );
            return;
        }
        let running = state.running.clone();
        // libxl may be telling of another child just now, with its context locked.
        drop(state);
        if let Some(running) = running {
            running.abort();
        }
    }

    /// Whether it was pulled.
    pub fn is_pulled(&self) -> bool {
        self.0.lock().pulled
    }

    /// Begins the operation; false where it was cancelled before.
    pub(super) fn begin(&self, running: Arc<dyn Running>) -> bool {
        let mut state = self.0.lock();
        if !state.pulled {
            state.running = Some(running);
        }
        !state.pulled
    }

    /// The operation has ended: from now on a pull aborts nothing.
    pub(super) fn end(&self) {
        self.0.lock().running = None;
        self.0.changed.notify_all();
    }

    /// What [`on_fork`] is to be called with. It is valid as long as this or a clone of it.
    fn as_user(&self) -> *mut c_void {
        Arc::as_ptr(&self.0).cast_mut().cast()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a canceller of libxl's children. libxl keeps its address, so it stays boxed.
pub(super) struct ForkWatch {
    raw: libxl_sys::xlshim_fork_watch,
    canceller: Canceller,
}

impl ForkWatch {
    pub(super) fn new(canceller: Canceller) -> Box<Self> {
        let owner = nix::unistd::getpid().as_raw();
        let user = canceller.as_user();
        let raw = libxl_sys::xlshim_fork_watch { owner, forked: Some(on_fork), user };
        Box::new(Self { raw, canceller })
    }

    pub(super) fn canceller(&self) -> &Canceller {
        &self.canceller
    }

    /// What the shim's `fork` takes. It is valid as long as this box.
    pub(super) fn as_user(&self) -> *mut c_void {
        (&raw const self.raw).cast_mut().cast()
    }
}

/// Called by the shim when libxl has forked, in the parent, with the context locked: it must not
/// call libxl.
unsafe extern "C" fn on_fork(user: *mut c_void) {
    // SAFETY: `user` comes from `Canceller::as_user`, and the context that forks owns a
    // `ForkWatch`, which keeps a clone of that canceller and so the pointee alive.
    let shared = unsafe { &*user.cast::<Shared>() };
    shared.lock().forked = true;
    shared.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_before_the_beginning_is_kept_and_does_not_wait() {
        let canceller = Canceller::default();
        assert!(!canceller.is_pulled());
        canceller.clone().pull();
        canceller.pull();
        assert!(canceller.is_pulled());
    }

    struct Aborted(Mutex<u32>);

    impl Running for Aborted {
        fn abort(&self) {
            *self.0.lock().unwrap() += 1;
        }
    }

    #[test]
    fn an_operation_is_aborted_once_and_only_while_it_runs() {
        let (canceller, running) = (Canceller::default(), Arc::new(Aborted(Mutex::new(0))));
        assert!(canceller.begin(running.clone()));
        // SAFETY: the pointer is this canceller's own, and it lives.
        unsafe { on_fork(canceller.as_user()) };
        canceller.pull();
        canceller.pull();
        assert_eq!(*running.0.lock().unwrap(), 1);
        canceller.end();
        assert!(!canceller.begin(running.clone()), "it was pulled");
        assert_eq!(*running.0.lock().unwrap(), 1);
    }
}
