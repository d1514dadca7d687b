//! What a session needs of a Xen host, and nothing more.
//!
//! Sessions know Xen only through [`Host`]. [`libxl`] drives a real one; [`memory`] emits true
//! libxl streams from synthetic guest memory, for state machines, faults and benchmarks. No claim
//! about Xen rests on the second.
//!
//! Every method blocks its thread until libxl has answered. The long ones take an [`Abort`], which
//! another thread may pull.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::announce::Vif;
use crate::data::Broken;
use crate::data::feed::Feed;
use crate::guard::Guard;
use crate::io::Cancel;
use crate::state_dir::DomainLock;

pub mod libxl;
pub mod memory;

/// A domain's number on its host. It changes with every migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomId(pub u32);

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How Xen runs the guest (libxl's `libxl_domain_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestType {
    /// Paravirtualised. Its log-dirty mode needs shadow paging in Xen.
    Pv,
    /// Hardware-virtualised without a device model.
    Pvh,
    /// Hardware-virtualised with QEMU as the device model.
    Hvm,
}

/// What a domain is doing (libxl's `libxl_dominfo` flags, most urgent first).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Being torn down.
    Dying,
    /// Shut down to be suspended: its memory stands still, `resume` would run it on.
    Suspended,
    /// Shut down for any other reason (power off, reboot, crash).
    Shutdown,
    /// Paused by the toolstack.
    Paused,
    /// Running or runnable (blocked vCPUs included).
    Running,
}

/// A domain as its host lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its number here.
    pub domid: DomId,
    /// Its name here, unique on this host.
    pub name: String,
    /// How Xen runs it.
    pub guest_type: GuestType,
    /// What it is doing.
    pub state: RunState,
    /// Memory it may have, in KiB.
    pub max_memory_kib: u64,
    /// Online and offline vCPUs.
    pub vcpus: u32,
}

/// Facts about a host that decide whether a domain may come or go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// `MAJOR.MINOR` of the running Xen.
    pub xen_version: String,
    /// Memory that Xen can still give to domains, in KiB (free plus scrubbing, less outstanding
    /// claims).
    pub free_memory_kib: u64,
    /// dom0 gives memory back when a domain needs it (xl.conf's `autoballoon`): what is free says
    /// little then.
    pub autoballoon: bool,
    /// Xen has shadow paging: PV guests can be migrated live.
    pub shadow_paging: bool,
    /// Xen has hardware-assisted paging: PVH and HVM guests can be migrated live.
    pub hap: bool,
}

/// Something that libxl told while an operation ran, with the time at which it was told.
#[derive(Clone, Debug)]
pub struct Note {
    /// This host's monotonic clock.
    pub at: Instant,
    /// What was told.
    pub what: NoteKind,
}

/// What libxl tells while it saves or restores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// libxc's progress: `what` is one of xg_sr_save.c's strings, such as `Frames iteration 2`;
    /// counts are pfns. Single events carry 0 of 0.
    Progress {
        /// The string.
        what: String,
        /// pfns handled so far in this pass: none when it begins, all when it ends; what lies
        /// between is not told.
        done: u64,
        /// pfns of this pass: the dirty count when the pass began.
        total: u64,
    },
    /// libxl asked the guest to suspend (it wrote `control/shutdown`).
    SuspendRequested,
    /// The guest acknowledged the request.
    SuspendAcknowledged,
    /// The guest's vCPUs have stopped.
    Suspended,
    /// Who walks over the memory, once that is known.
    Walker(Walker),
    /// A log line of libxl's, of level warning or worse, for people.
    Message(String),
}

/// Where notes go. Sending never blocks.
pub type Notes = Sender<Note>;

/// How to save (libxl's `LIBXL_SUSPEND_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveFlags {
    /// Copy memory while the guest runs.
    pub live: bool,
    /// Send all memory again after the suspend, for the receiver to compare (`xl migrate --debug`).
    pub debug: bool,
}

/// What is known when a live pass has been made and the next one might be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrecopyStats {
    /// Live passes made.
    pub iteration: u32,
    /// Pages sent in all of them.
    pub written: u64,
    /// Pages dirty now: those of the next pass.
    pub dirty: u64,
}

/// What is to come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Another pass while the guest runs.
    Continue,
    /// Suspend the guest and send the rest.
    StopAndCopy,
    /// Give the save up; the guest runs on.
    Abort,
}

/// Who decides about a save while it runs. Called on threads of the save, which waits for the
/// answer.
pub trait Steering: Send {
    /// After each live pass, when it is known what was dirtied meanwhile.
    fn precopy(&mut self, stats: &PrecopyStats) -> Decision;

    /// Whether pre-copy is to end now, without waiting for the pass under way.
    fn is_due(&self) -> bool;

    /// Right before the guest is asked to suspend. On an error, one line, it is not asked, and the
    /// save fails.
    fn suspend(&mut self) -> Result<(), String>;
}

/// Where nobody steers: all is as libxl would have it.
pub struct Unsteered;

impl Steering for Unsteered {
    fn precopy(&mut self, _stats: &PrecopyStats) -> Decision {
        Decision::Continue
    }

    fn is_due(&self) -> bool {
        false
    }

    fn suspend(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// Who walks over the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Walker {
    /// rxl itself; PVH guests.
    Rxl,
    /// libxenguest's xc_domain_save, in rxl's save helper; every guest.
    Libxc,
    /// libxl's own save helper, with its own policy: five passes, or fewer than 50 dirty pages.
    Stock,
}

/// A save to be made.
pub struct Save {
    /// A blocking pipe of libxl's own.
    pub stream: OwnedFd,
    /// How.
    pub flags: SaveFlags,
    /// Who is to walk, if this host and the guest allow it. What was done is told by
    /// [`NoteKind::Walker`].
    pub walker: Walker,
    /// Where to tell what happens.
    pub notes: Notes,
    /// Whom to ask.
    pub steering: Box<dyn Steering>,
    /// Past the pipe, for [`Walker::Rxl`]: see [`crate::data::feed`]. Dropped where it is not used.
    pub feed: Feed,
}

/// The pages through which a PVH guest talks to xenstored and xenconsoled, by their numbers in the
/// guest (gfns). They are the guest's for as long as it lives, wherever that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialPages {
    /// xenstore's ring.
    pub store: u64,
    /// The console's ring.
    pub console: u64,
}

/// Who puts the pages of a domain that is received into its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Restorer {
    /// rxl itself, while libxl attaches the domain's devices; PVH guests.
    Rxl,
    /// libxl's own save helper, before libxl attaches them; every guest.
    Libxc,
}

/// Takes a libxl stream, in order. Errors as those of the data path.
pub trait StreamSink: Send {
    /// The next bytes; a record of pages comes whole.
    fn put(&mut self, raw: &[u8]) -> Result<(), Broken>;
    /// After the last.
    fn finish(&mut self) -> Result<(), Broken>;
}

/// A restore whose stream goes past libxl. The operation may end before the stream does: the domain
/// is complete when both have.
pub struct RestoreAhead {
    /// libxl's part.
    pub operation: Operation<DomId>,
    /// Where the stream goes.
    pub sink: Box<dyn StreamSink>,
}

/// How a restored domain's configuration differs from the one that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreAs {
    /// Name on this host while it is being received.
    pub name: String,
    /// Keep this domid, or fail (`xl migrate -D`).
    pub domid: Option<DomId>,
}

/// Why a host did not do what was asked. One line: what, where and, when known, why.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No domain of that name or number.
    #[error("no domain {0} here; `xl list` shows those that are")]
    NoSuchDomain(String),
    /// There is a domain of that name already.
    #[error("a domain named {0} is here already")]
    NameTaken(String),
    /// The operation was aborted as asked.
    #[error("{0} was aborted")]
    Aborted(&'static str),
    /// Xen or its toolstack is not there, not reachable or not the one that rxl was built for.
    #[error("{0}")]
    NoXen(String),
    /// The operation failed: its name, what libxl returned and its last error lines.
    #[error("{operation} failed: {reason}")]
    Failed {
        /// Which, in libxl's terms.
        operation: &'static str,
        /// What libxl said.
        reason: String,
    },
}

/// Aborts one running operation, from any thread, at most once.
#[derive(Clone)]
pub struct Abort(Arc<dyn Fn() + Send + Sync>);

impl Abort {
    /// Wraps what aborts.
    pub fn new(pull: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(pull))
    }

    /// Asks the operation to stop. It still has to be waited for.
    pub fn pull(&self) {
        (self.0)();
    }
}

/// How long an aborted operation may take to end: libxl first lets its save helper clean up.
const ABORT_PATIENCE: Duration = Duration::from_secs(90);

/// A long operation on a thread of its own. Dropping it aborts it and waits for its end.
pub struct Operation<T> {
    name: &'static str,
    abort: Abort,
    thread: Option<JoinHandle<Result<T, HostError>>>,
}

impl<T: Send + 'static> Operation<T> {
    /// Runs `work` on a new thread; `abort` makes it return early.
    pub fn spawn(
        name: &'static str,
        abort: Abort,
        work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
    ) -> Result<Self, HostError> {
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(work)
            .map_err(|e| HostError::Failed { operation: name, reason: e.to_string() })?;
        Ok(Self { name, abort, thread: Some(thread) })
    }

    /// Waits for its end. Call it when the operation's notes have ended: then it returns at once.
    pub fn wait(mut self) -> Result<T, HostError> {
        let name = self.name;
        let panicked =
            |_| Err(HostError::Failed { operation: name, reason: "its thread panicked".into() });
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or_else(panicked),
            None => panicked(Box::new(())),
        }
    }

    /// Aborts it and waits for its end, with a deadline.
    pub fn abort_and_wait(mut self) -> Result<T, HostError> {
        self.abort.pull();
        match self.thread.as_ref() {
            Some(thread) if ends_within(thread, ABORT_PATIENCE) => self.wait(),
            _ => {
                // Nobody can end a thread that libxl holds; the rest of the session must go on.
                self.thread = None;
                let seconds = ABORT_PATIENCE.as_secs();
                Err(HostError::Failed {
                    operation: self.name,
                    reason: format!("did not end {seconds} s after an abort"),
                })
            }
        }
    }
}

fn ends_within<T>(thread: &JoinHandle<T>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

impl<T> Drop for Operation<T> {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.abort.pull();
        if ends_within(&thread, ABORT_PATIENCE) {
            // A panic there has been printed by its own thread; dropping must not panic again.
            let _ = thread.join();
        } else {
            tracing::error!("{} did not end after an abort", self.name);
        }
    }
}

/// A Xen host: this one.
///
/// Failure contract: a call that fails has changed nothing that a later `destroy` or `resume` would
/// not set right.
pub trait Host: Send + Sync + 'static {
    /// Version, memory, paging modes.
    fn facts(&self) -> Result<HostFacts, HostError>;

    /// Starts the process that puts a domain right when this one is killed. It shares the domain's
    /// lock.
    fn guard(&self, _lock: &DomainLock) -> io::Result<Guard> {
        Ok(Guard::none())
    }

    /// Finds a domain by name or by number, as xl does: a number is a domid.
    fn find(&self, name_or_domid: &str) -> Result<Domain, HostError>;

    /// The domain as it is now.
    fn domain(&self, domid: DomId) -> Result<Domain, HostError>;

    /// Its configuration, as libxl's JSON (`libxl_retrieve_domain_configuration`).
    fn config_json(&self, domid: DomId) -> Result<String, HostError>;

    /// Starts `libxl_domain_suspend` into `save.stream`.
    ///
    /// Every clone of `notes` is dropped when the operation's thread ends: the channel's closing is
    /// how a session hears of it. When the operation ends well the guest is suspended and its
    /// stream is complete; when it fails the guest may be running or suspended, and stays what it
    /// is: ask [`Host::domain`]. The caller must go on reading until the operation has ended, even
    /// after an abort: the stock save helper dies of SIGPIPE without switching log-dirty off.
    fn save(&self, domid: DomId, save: Save) -> Result<Operation<()>, HostError>;

    /// Starts `libxl_domain_create_restore` from `stream`, which must be a pipe: its first bytes
    /// are looked at before libxl is called. The domain is created once they are there and stays
    /// paused. On failure nothing of it is left.
    fn restore(
        &self,
        config_json: &str,
        restore_as: &RestoreAs,
        stream: OwnedFd,
        notes: Notes,
    ) -> Result<Operation<DomId>, HostError>;

    /// The domain's special pages, where it has them.
    fn special_pages(&self, _domid: DomId) -> Result<Option<SpecialPages>, HostError> {
        Ok(None)
    }

    /// Starts `libxl_domain_create_restore` for a domain whose memory rxl itself fills, while libxl
    /// attaches its devices ([`crate::restorer`]). None, for a reason that has been logged, where
    /// that cannot be done: [`Host::restore`] can.
    fn restore_ahead(
        &self,
        _config_json: &str,
        _restore_as: &RestoreAs,
        _special: SpecialPages,
        _cancel: &Cancel,
        _notes: &Notes,
    ) -> Result<Option<RestoreAhead>, HostError> {
        Ok(None)
    }

    /// Runs a suspended domain on in place (`libxl_domain_resume`, with the guest told that the
    /// suspend was cancelled).
    fn resume(&self, domid: DomId) -> Result<(), HostError>;

    /// Renames a domain, if it still has the old name.
    fn rename(&self, domid: DomId, from: &str, to: &str) -> Result<(), HostError>;

    /// Keeps a domain from running until it is unpaused, also one that is suspended and will be
    /// resumed.
    fn pause(&self, domid: DomId) -> Result<(), HostError>;

    /// Lets a paused domain run.
    fn unpause(&self, domid: DomId) -> Result<(), HostError>;

    /// Ends a domain and gives its resources back.
    fn destroy(&self, domid: DomId) -> Result<(), HostError>;

    /// The domain's network interfaces on this host.
    fn vifs(&self, domid: DomId) -> Result<Vec<Vif>, HostError>;

    /// Writes a command for the agent of a domain that does not run yet (rxl-agent-protocol:
    /// `control/rxl/command`).
    fn tell_agent(&self, domid: DomId, command: &str) -> Result<(), HostError>;

    /// Switches log-dirty mode off, wherever a save that died has left it on. Harmless when it is
    /// off.
    fn logdirty_off(&self, domid: DomId) -> Result<(), HostError>;
}
