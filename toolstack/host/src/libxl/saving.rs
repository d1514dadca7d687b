//! A save through libxl, beside the thread that serves its save helper.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::growth::{Growth, GrowthError};
use crate::host::Save;
use crate::libxl::{ended_early, unreachable_toolstack};
use crate::save_helper::error::SaveHelperError;
use crate::save_helper::session::SteeredSave;
use crate::save_helper::socket::SaveHelperListener;
use rxl_core::host_error::HostError;
use rxl_core::steering::Walker;
use rxl_xen::{Canceller, Context, GuestMemory, Library};

/// A save that is about to be made on a thread of its own.
pub(super) struct LibxlSave {
    pub(super) library: Library,
    pub(super) domid: u32,
    pub(super) walker: Walker,
    /// Where rxl's save helper finds this process, if it is installed.
    pub(super) listener: Option<Arc<SaveHelperListener>>,
    pub(super) canceller: Canceller,
}

impl LibxlSave {
    /// Makes the save; returns when libxl's operation has ended.
    pub(super) fn run(self, save: Save) -> Result<(), HostError> {
        let context =
            Context::for_operation(self.library, save.notes.clone(), self.canceller.clone())
                .map_err(unreachable_toolstack)?;
        let ended = Arc::new(AtomicBool::new(false));
        let Save { stream, flags, notes, steering, feed, .. } = save;
        let (is_over, cancelled) = (ended.clone(), self.canceller.clone());
        let steered = SteeredSave {
            domid: self.domid,
            live: flags.live,
            walker: self.walker,
            steering,
            notes,
            feed,
            ended: Arc::new(move || is_over.load(Ordering::SeqCst) || cancelled.is_pulled()),
        };
        let growth = self.growth()?;
        let server = self.listener.clone().map(|listener| serve(self.library, steered, listener));
        let result = context.save(self.domid, stream.as_fd(), flags);
        ended.store(true, Ordering::SeqCst);
        // At once: whoever reads the other end waits for this.
        drop(stream);
        let served =
            server.map_or(Ok(()), |thread| thread.join().unwrap_or(Err(SaveHelperError::Panicked)));
        match (result, served) {
            (Ok(()), _) => growth.map_or(Ok(()), |mut growth| growth.look()).map_err(grown),
            // What stopped the walk tells more than what libxl makes of it.
            (Err(_), Err(reason)) if !self.canceller.is_pulled() => {
                Err(HostError::failed("saving", reason))
            }
            (Err(failure), _) => {
                Err(ended_early("save", "libxl_domain_suspend", failure, &self.canceller))
            }
        }
    }

    /// What is to be looked at once more when libxc has walked.
    fn growth(&self) -> Result<Option<Growth>, HostError> {
        let by_libxc = self.walker != Walker::Rxl;
        by_libxc.then(|| Growth::of(self.library, self.domid)).transpose().map_err(grown)
    }
}

fn grown(why: GrowthError) -> HostError {
    HostError::failed("saving", why)
}

fn serve(
    library: Library,
    steered: SteeredSave,
    listener: Arc<SaveHelperListener>,
) -> JoinHandle<Result<(), SaveHelperError>> {
    let open = move |domid| GuestMemory::open(library, domid);
    std::thread::spawn(move || steered.serve(&listener, open))
}
