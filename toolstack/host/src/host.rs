//! What a session needs of a Xen host, and nothing more.
//!
//! Sessions know Xen only through [`Host`]. [`crate::libxl`] drives a real one. The crate
//! `rxl-testkit` has one in memory, which makes true libxl streams from synthetic guest memory, for
//! state machines, faults and benchmarks; no claim about Xen rests on it.
//!
//! Every method blocks its thread until libxl has answered. The long ones return an [`Operation`],
//! which another thread may abort.

use std::io;
use std::os::fd::OwnedFd;

use crate::guard_line::Guard;
use crate::watcher::NotStarted;
use rxl_core::domain::{DomId, Domain, HostFacts, RestoreAs, SpecialPages, Vif};
use rxl_core::domain_config::DomainConfig;
use rxl_core::host_error::HostError;
use rxl_core::io::Cancel;
use rxl_core::notes::Notes;
use rxl_core::operation::Operation;
use rxl_core::state_dir::DomainLock;
use rxl_core::steering::{SaveFlags, Steering, Walker};
use rxl_datapath::feed::Feed;
use rxl_datapath::sink::StreamSink;

/// A save to be made.
pub struct Save {
    /// The pipe that libxl writes into: blocking, and not shared with anybody.
    pub stream: OwnedFd,
    pub flags: SaveFlags,
    /// Who walks over the guest's memory, if this host and the guest allow it. The walker that was
    /// chosen is told as [`rxl_core::notes::NoteKind::Walker`].
    pub walker: Walker,
    /// Hears what libxl tells while it saves.
    pub notes: Notes,
    /// Decides when pre-copy ends and when the guest may be suspended.
    pub steering: Box<dyn Steering>,
    /// Takes pages past the pipe, for [`Walker::Rxl`]: see [`rxl_datapath::feed`]. The other
    /// walkers drop it.
    pub feed: Feed,
}

/// A restore to be made.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    config: DomainConfig,
    /// Hears what libxl tells while it restores. It is dropped with the request.
    pub notes: Notes,
}

impl RestoreRequest {
    /// A domain of this configuration, libxl's JSON, to be restored under another name.
    pub fn new(config_json: &str, restore_as: &RestoreAs, notes: Notes) -> Result<Self, HostError> {
        let parsed = DomainConfig::parse(config_json)
            .and_then(|mut config| config.restore_as(restore_as).map(|()| config));
        let config = parsed.map_err(|error| {
            HostError::failed("restore", format!("the domain's configuration {error}"))
        })?;
        Ok(Self { config, notes })
    }

    /// The configuration, with name and number as they are to be here.
    pub fn config(&self) -> &DomainConfig {
        &self.config
    }

    /// The domain's name while it is being restored.
    pub fn name(&self) -> &str {
        self.config.name().unwrap_or_default()
    }
}

/// A restore whose stream goes past libxl. The operation may end before the stream does: the domain
/// is complete when both have.
pub struct RestoreAhead {
    /// Ends when libxl has attached the devices.
    pub operation: Operation<DomId>,
    /// Takes the stream of the domain's memory and state.
    pub sink: Box<dyn StreamSink>,
}

/// This Xen host.
///
/// Failure contract: a call that fails has changed nothing that a later `destroy` or `resume` would
/// not set right.
pub trait Host: Send + Sync + 'static {
    /// Version, memory, paging modes.
    fn facts(&self) -> Result<HostFacts, HostError>;

    /// Memory that a domain of this configuration takes here, in KiB, with what the toolstack adds
    /// to the guest's target (`libxl_domain_need_memory`).
    fn memory_needed(&self, config: &DomainConfig) -> Result<u64, HostError>;

    /// Starts the process that puts a domain right when this one is killed. It shares the domain's
    /// lock.
    fn guard(&self, _lock: &DomainLock) -> io::Result<Guard> {
        Ok(Guard::none())
    }

    /// Starts the process that does what this domain's configuration wants when its guest ends,
    /// unless it has one ([`crate::watch::start`]).
    fn watch(&self, _domid: DomId) -> Result<(), NotStarted> {
        Ok(())
    }

    /// Remembers whether this domain is watched now ([`crate::watch::leaving`]).
    fn note_watched(&self, _domid: DomId) -> Result<(), NotStarted> {
        Ok(())
    }

    /// [`Host::watch`], if the domain was watched when [`Host::note_watched`] looked.
    fn watch_again(&self, _domid: DomId) -> Result<(), NotStarted> {
        Ok(())
    }

    /// Finds a domain by name or by number, as xl does: a number is a domid.
    fn find(&self, name_or_domid: &str) -> Result<Domain, HostError>;

    /// The domain as it is now.
    fn domain(&self, domid: DomId) -> Result<Domain, HostError>;

    /// The domain's configuration, as libxl's JSON (`libxl_retrieve_domain_configuration`).
    fn config_json(&self, domid: DomId) -> Result<String, HostError>;

    /// Starts `libxl_domain_suspend` into `save.stream`.
    ///
    /// Every clone of `notes` is dropped when the operation's thread ends; a session hears of the
    /// end by the channel's closing. When the operation succeeds the guest is suspended and its
    /// stream is complete. When it fails the guest may be running or suspended, and stays so:
    /// [`Host::domain`] tells. The caller must go on reading until the operation has ended, even
    /// after an abort: the stock save helper dies of SIGPIPE without switching log-dirty off.
    fn save(&self, domid: DomId, save: Save) -> Result<Operation<()>, HostError>;

    /// Starts `libxl_domain_create_restore` from `stream`, which must be a pipe: its first bytes
    /// are looked at before libxl is called. The domain is created once they are there and stays
    /// paused. On failure nothing of it is left.
    fn restore(
        &self,
        request: RestoreRequest,
        stream: OwnedFd,
    ) -> Result<Operation<DomId>, HostError>;

    /// The domain's special pages, where it has them.
    fn special_pages(&self, _domid: DomId) -> Result<Option<SpecialPages>, HostError> {
        Ok(None)
    }

    /// Starts `libxl_domain_create_restore` for a domain whose memory rxl itself fills, while libxl
    /// attaches its devices ([`rxl_precopy::load_memory`]). The domain is made at once, before its
    /// stream comes, and what it will take is claimed: the request's notes then tell
    /// [`NoteKind::MemoryClaimed`](rxl_core::notes::NoteKind::MemoryClaimed). None, for a reason
    /// that has been logged, where that cannot be done and [`Host::restore`] is to be used.
    fn restore_ahead(
        &self,
        _request: &RestoreRequest,
        _special: SpecialPages,
        _cancel: &Cancel,
    ) -> Result<Option<RestoreAhead>, HostError> {
        Ok(None)
    }

    /// Boots a new domain from its configuration alone (`libxl_domain_create_new`), with memory
    /// freed for it as [`Host::restore`] does it. It stays paused. Where the configuration names no
    /// number, Xen chooses it. On failure nothing of it is left.
    fn boot(&self, config: &DomainConfig) -> Result<DomId, HostError>;

    /// Runs a suspended domain on in place (`libxl_domain_resume`, with the guest told that the
    /// suspend was cancelled).
    fn resume(&self, domid: DomId) -> Result<(), HostError>;

    /// Withdraws a request to suspend that the guest has not seen yet. True where there was one.
    fn withdraw_suspend(&self, _domid: DomId) -> Result<bool, HostError> {
        Ok(false)
    }

    /// Writes a migration's id beside the domain, where guests cannot: by it a copy is told.
    fn mark(&self, domid: DomId, migration: &str) -> Result<(), HostError>;

    /// The id that [`Host::mark`] has written.
    fn mark_of(&self, domid: DomId) -> Result<Option<String>, HostError>;

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
