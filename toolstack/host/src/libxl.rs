//! [`Host`] over libxl.
//!
//! Each call opens a libxl context of its own; [`rxl_xen`] says why, and what that asks of the
//! process: no SIGCHLD handler, children reaped by pid, fd 0 open, close-on-exec on
//! every descriptor.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::announce;
use crate::guard_line::Guard;
use crate::host::{Host, RestoreAhead, RestoreRequest, Save};
use crate::save_helper::socket::{SaveHelperListener, SaveHelperSocket};
use crate::watcher::{self, NotStarted};
use rxl_core::deadlines;
use rxl_core::domain::Vif;
use rxl_core::domain::{DomId, Domain, GuestType, HostFacts, SpecialPages};
use rxl_core::domain_config::DomainConfig;
use rxl_core::host_error::HostError;
use rxl_core::io::{Cancel, Guarded, pipe};
use rxl_core::operation::{Abort, Operation};
use rxl_core::state_dir::{DomainLock, StateDir};
use rxl_core::steering::Walker;
use rxl_xen as xen;
use rxl_xen::{Canceller, Context, Failure, Library, LibraryError};
use rxl_xenstore::Store;

mod ahead;
mod saving;
mod watching;

use ahead::{Ahead, Begin, Restoring};
use saving::LibxlSave;

/// This Xen host.
pub struct LibxlHost {
    library: Library,
    save_helper: Option<Arc<SaveHelperListener>>,
    restore_helper: Option<SaveHelperSocket>,
}

impl LibxlHost {
    /// Makes sure that this is a dom0 of the Xen release that rxl was built for, and that its
    /// toolstack answers.
    pub fn new() -> Result<Self, HostError> {
        Library::open()
            .map(|library| Self { library, save_helper: None, restore_helper: None })
            .map_err(HostError::no_xen)
    }

    /// Saves through rxl's save helper in place of libxl's.
    pub fn with_save_helper(self, listener: SaveHelperListener) -> Self {
        Self { save_helper: Some(Arc::new(listener)), ..self }
    }

    /// Restores through rxl's save helper where [`Host::restore_ahead`] is asked for.
    pub fn with_restore_helper(self, socket: SaveHelperSocket) -> Self {
        Self { restore_helper: Some(socket), ..self }
    }

    /// Starts `libxl_domain_create_restore` on a thread of its own.
    fn start_restore(
        &self,
        request: RestoreRequest,
        stream: OwnedFd,
        restoring: Arc<Restoring>,
    ) -> Result<Operation<DomId>, HostError> {
        self.check_name_free(request.name(), None)?;
        let library = self.library;
        let canceller = restoring.canceller.clone();
        Operation::spawn("restore", abort_of(&canceller), move || {
            let context = Context::for_operation(library, request.notes.clone(), canceller.clone())
                .map_err(unreachable_toolstack)?;
            let result = context.restore(request.config(), stream.as_fd(), &restoring.room);
            if let (Ok(domid), false) = (&result, restoring.ahead) {
                end_claim(library, *domid);
            }
            restoring.ended.store(true, Ordering::SeqCst);
            drop(stream);
            result.map(DomId).map_err(|failure| match restoring.take_refusal() {
                Some(refusal) => HostError::no_memory(refusal),
                None => ended_early("restore", "libxl_domain_create_restore", failure, &canceller),
            })
        })
    }

    /// The walker for a save. rxl walks over PVH and HVM guests, libxc over all. A stream that is
    /// to be verified comes from libxc alone. Without rxl's helper libxl runs its own.
    fn walker(&self, domid: DomId, save: &Save) -> Result<Walker, HostError> {
        if self.save_helper.is_none() {
            return Ok(Walker::Stock);
        }
        let pv = self.domain(domid)?.guest_type == GuestType::Pv;
        Ok(match save.walker {
            Walker::Rxl if pv || save.flags.debug => Walker::Libxc,
            walker => walker,
        })
    }

    fn context(&self) -> Result<Context, HostError> {
        Context::open(self.library).map_err(unreachable_toolstack)
    }

    /// Runs a call on a domain that exists, in libxl's terms `operation`.
    fn on<T>(
        &self,
        domid: DomId,
        operation: &'static str,
        call: impl FnOnce(&Context, u32) -> Result<T, Failure>,
    ) -> Result<T, HostError> {
        call(&self.context()?, domid.0).map_err(|failure| failed_on(domid, operation, failure))
    }

    fn check_name_free(&self, name: &str, except: Option<DomId>) -> Result<(), HostError> {
        match self
            .context()?
            .domid_of_name(name)
            .map_err(|failure| HostError::failed("libxl_name_to_domid", failure))?
        {
            Some(domid) if except != Some(DomId(domid)) => Err(HostError::NameTaken(name.into())),
            _ => Ok(()),
        }
    }
}

impl Host for LibxlHost {
    fn facts(&self) -> Result<HostFacts, HostError> {
        let context = self.context()?;
        let info = context
            .physinfo()
            .map_err(|failure| HostError::failed("libxl_get_physinfo", failure))?;
        Ok(HostFacts {
            xen_version: context
                .xen_version()
                .map_err(|failure| HostError::failed("libxl_get_version_info", failure))?,
            free_memory_kib: info.free_memory_kib(),
            autoballoon: context
                .autoballoon()
                .map_err(|failure| HostError::failed("libxl_get_version_info", failure))?,
            shadow_paging: info.shadow,
            hap: info.hap,
        })
    }

    fn memory_needed(&self, config: &DomainConfig) -> Result<u64, HostError> {
        let needed = self.context()?.memory_needed(config);
        needed.map_err(|failure| HostError::failed("libxl_domain_need_memory", failure))
    }

    fn find(&self, name_or_domid: &str) -> Result<Domain, HostError> {
        let domid = self
            .context()?
            .domid_of(name_or_domid)
            .map_err(|failure| HostError::failed("libxl_name_to_domid", failure))?;
        let not_here = || HostError::NoSuchDomain(name_or_domid.into());
        match self.domain(DomId(domid.ok_or_else(not_here)?)) {
            Err(HostError::NoSuchDomain(_)) => Err(not_here()),
            other => other,
        }
    }

    fn domain(&self, domid: DomId) -> Result<Domain, HostError> {
        self.on(domid, "libxl_domain_info", Context::domain)
    }

    fn config_json(&self, domid: DomId) -> Result<String, HostError> {
        self.on(domid, "libxl_retrieve_domain_configuration", Context::config_json)
    }

    fn save(&self, domid: DomId, save: Save) -> Result<Operation<()>, HostError> {
        let canceller = Canceller::default();
        let libxl_save = LibxlSave {
            library: self.library,
            domid: domid.0,
            walker: self.walker(domid, &save)?,
            listener: self.save_helper.clone(),
            canceller: canceller.clone(),
        };
        Operation::spawn("save", abort_of(&canceller), move || libxl_save.run(save))
    }

    fn restore(
        &self,
        request: RestoreRequest,
        stream: OwnedFd,
    ) -> Result<Operation<DomId>, HostError> {
        self.start_restore(request, stream, Arc::default())
    }

    fn special_pages(&self, domid: DomId) -> Result<Option<SpecialPages>, HostError> {
        if self.domain(domid)?.guest_type != GuestType::Pvh {
            return Ok(None);
        }
        let special = xen::special_pages(self.library, domid.0);
        special.map(Some).map_err(|failure| failed_on(domid, "xc_hvm_param_get", failure))
    }

    fn restore_ahead(
        &self,
        request: &RestoreRequest,
        special: SpecialPages,
        cancel: &Cancel,
    ) -> Result<Option<RestoreAhead>, HostError> {
        let Some(socket) = &self.restore_helper else { return Ok(None) };
        if let Err(why) = ahead::check(request.config()) {
            let name = request.name();
            tracing::info!("{name}: its devices are attached when its memory has come: {why}");
            return Ok(None);
        }
        let broken = |error| HostError::failed("restore", error);
        let listener = socket.listen().map_err(|error| HostError::failed("restore", error))?;
        let (reading, writing) = pipe().map_err(broken)?;
        let to_libxl =
            Guarded::new(writing, cancel.clone(), Some(deadlines::STALL)).map_err(broken)?;
        let restoring = Arc::new(Restoring::ahead());
        let operation = self.start_restore(request.clone(), reading, restoring.clone())?;
        let begin = Begin {
            library: self.library,
            listener,
            special,
            to_libxl,
            restoring,
            cancel: cancel.clone(),
            notes: request.notes.clone(),
        };
        let sink = Box::new(Ahead::start(begin).map_err(broken)?);
        Ok(Some(RestoreAhead { operation, sink }))
    }

    fn boot(&self, config: &DomainConfig) -> Result<DomId, HostError> {
        self.check_name_free(config.name().unwrap_or_default(), None)?;
        let booted = Arc::new(self.context()?).boot(config);
        booted.map(DomId).map_err(|failure| HostError::failed("libxl_domain_create_new", failure))
    }

    fn resume(&self, domid: DomId) -> Result<(), HostError> {
        self.on(domid, "libxl_domain_resume", Context::resume)
    }

    fn guard(&self, lock: &DomainLock) -> std::io::Result<Guard> {
        Guard::start(lock.as_fd())
    }

    fn watch(&self, domid: DomId) -> Result<(), NotStarted> {
        watcher::start(&StateDir::system(), &self.domain(domid)?)
    }

    fn note_watched(&self, domid: DomId) -> Result<(), NotStarted> {
        watcher::note(&StateDir::system(), domid)
    }

    fn watch_again(&self, domid: DomId) -> Result<(), NotStarted> {
        let was = watcher::was_watched(&StateDir::system(), domid)?;
        if was { self.watch(domid) } else { Ok(()) }
    }

    fn rename(&self, domid: DomId, from: &str, to: &str) -> Result<(), HostError> {
        self.check_name_free(to, Some(domid))?;
        self.on(domid, "libxl_domain_rename", |context, domid| context.rename(domid, from, to))
    }

    fn pause(&self, domid: DomId) -> Result<(), HostError> {
        self.on(domid, "libxl_domain_pause", Context::pause)
    }

    fn unpause(&self, domid: DomId) -> Result<(), HostError> {
        self.on(domid, "libxl_domain_unpause", Context::unpause)
    }

    fn destroy(&self, domid: DomId) -> Result<(), HostError> {
        self.on(domid, "libxl_domain_destroy", Context::destroy)?;
        if let Err(error) = watcher::forget(&StateDir::system(), domid) {
            tracing::warn!("domain {domid}: {error}");
        }
        Ok(())
    }

    fn vifs(&self, domid: DomId) -> Result<Vec<Vif>, HostError> {
        let vifs = Store::connect().and_then(|store| announce::vifs(&store, domid.0));
        vifs.map_err(|error| HostError::failed("listing interfaces", error))
    }

    fn tell_agent(&self, domid: DomId, command: &str) -> Result<(), HostError> {
        let path = format!("/local/domain/{domid}/{}", rxl_agent_protocol::path::COMMAND);
        let told = Store::connect().and_then(|store| store.write(&path, command));
        told.map_err(|error| HostError::failed("telling the agent", error))
    }

    fn withdraw_suspend(&self, domid: DomId) -> Result<bool, HostError> {
        self.on(domid, "withdrawing a request to suspend", Context::withdraw_suspend)
    }

    fn mark(&self, domid: DomId, migration: &str) -> Result<(), HostError> {
        let marked = Store::connect().and_then(|store| store.write(&mark_path(domid), migration));
        marked.map_err(|error| HostError::failed("marking the domain", error))
    }

    fn mark_of(&self, domid: DomId) -> Result<Option<String>, HostError> {
        let mark = Store::connect().and_then(|store| store.read(&mark_path(domid)));
        mark.map_err(|error| HostError::failed("reading the domain's mark", error))
    }

    fn logdirty_off(&self, domid: DomId) -> Result<(), HostError> {
        self.on(domid, "xc_shadow_control", Context::log_dirty_off)
    }
}

/// libxl keeps what is its own here, removes it with the domain, and gives guests no access.
fn mark_path(domid: DomId) -> String {
    format!("/libxl/{domid}/rxl/migration")
}

/// The domain has taken what it is to have. Only its save helper knows whether it had claimed it.
fn end_claim(library: Library, domid: u32) {
    if let Err(failure) = xen::end_claim(library, domid) {
        tracing::warn!("domain {domid} keeps a claim on memory: {failure}");
    }
}

fn unreachable_toolstack(failure: Failure) -> HostError {
    HostError::no_xen(LibraryError::Unreachable(failure))
}

fn abort_of(canceller: &Canceller) -> Abort {
    let canceller = canceller.clone();
    Abort::new(move || canceller.pull())
}

fn failed_on(domid: DomId, operation: &'static str, failure: Failure) -> HostError {
    if failure.is_not_found() {
        return HostError::NoSuchDomain(domid.to_string());
    }
    HostError::failed(operation, failure)
}

/// An operation that was asked to stop and failed was aborted, whichever of its parts noticed
/// first.
fn ended_early(
    name: &'static str,
    operation: &'static str,
    failure: Failure,
    canceller: &Canceller,
) -> HostError {
    if canceller.is_pulled() {
        tracing::debug!("{operation} was aborted: {failure}");
        return HostError::Aborted(name);
    }
    HostError::failed(operation, failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_xen_one_line_says_so() {
        if std::path::Path::new("/dev/xen/privcmd").exists() {
            return;
        }
        let line = LibxlHost::new().err().expect("there is no Xen here").to_string();
        assert_eq!(line, "no hypervisor (/dev/xen/privcmd is missing): not a Xen dom0");
    }

    #[test]
    fn an_abort_is_told_from_a_failure() {
        let failure = || Failure { rc: -3, lines: vec!["saving domain: it broke".into()] };
        let canceller = Canceller::default();
        let told = ended_early("save", "libxl_domain_suspend", failure(), &canceller).to_string();
        assert_eq!(told, "libxl_domain_suspend failed: ERROR_FAIL: saving domain: it broke");
        canceller.pull();
        assert!(matches!(
            ended_early("save", "libxl_domain_suspend", failure(), &canceller),
            HostError::Aborted("save")
        ));
    }

    #[test]
    fn a_domain_that_is_gone_has_its_own_error() {
        let gone = Failure { rc: libxl_sys::ERROR_DOMAIN_NOTFOUND, lines: vec![] };
        let told = failed_on(DomId(7), "libxl_domain_info", gone);
        assert!(matches!(told, HostError::NoSuchDomain(domid) if domid == "7"));
    }
}
