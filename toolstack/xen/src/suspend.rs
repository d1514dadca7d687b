//! A guest that was asked to suspend by a save that then failed.
//!
//! libxl forgets such a guest: aborted between its request and the suspend it leaves the request
//! standing, and the guest stops a moment later, when nobody waits for it any more
//! (libxl_dom_suspend.c: nothing on the abort path clears `control/shutdown`). So a failed save is
//! not over until the guest has settled: the request is withdrawn while the guest has not seen it;
//! a guest that has is given the time to do it. Then its state is what it will stay.

use std::time::{Duration, Instant};

use crate::context::Context;
use crate::failure::Failure;
use crate::xenstore::LibxlStore;
use rxl_core::deadlines;
use rxl_core::domain::RunState;

/// Pause between two looks at the domain.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What libxl writes to ask (libxl_dom_suspend.c), and what the guest reads as no request.
const REQUEST: &str = "suspend";
const NO_REQUEST: &str = "";

impl Context {
    /// Waits until a guest that this context's save has asked to suspend has either suspended or
    /// will not.
    pub(super) fn settle_suspend(&self, domid: u32) {
        match self.withdraw_suspend(domid) {
            Ok(true) => tracing::info!("domain {domid}: the request to suspend was withdrawn"),
            Ok(false) if self.asked_to_suspend() => self.await_shutdown(domid),
            Ok(false) => {}
            Err(failure) => tracing::warn!("domain {domid} may still suspend: {failure}"),
        }
    }

    /// Runs a guest on that was asked to suspend by somebody who is gone: it has not seen the
    /// request, is about to suspend, or has done so.
    pub(super) fn abandon_suspend(&self, domid: u32) -> Result<(), Failure> {
        if self.withdraw_suspend(domid)? {
            return Ok(());
        }
        self.await_shutdown(domid);
        match self.domain(domid)?.state {
            RunState::Suspended => self.resume(domid),
            _ => Ok(()),
        }
    }

    /// Withdraws a request to suspend that the guest has not seen yet. True where there was one.
    pub fn withdraw_suspend(&self, domid: u32) -> Result<bool, Failure> {
        LibxlStore::open(self)?.replace(
            &format!("/local/domain/{domid}/control/shutdown"),
            REQUEST,
            NO_REQUEST,
        )
    }

    fn await_shutdown(&self, domid: u32) {
        let deadline = Instant::now() + deadlines::ABANDONED_SUSPEND;
        while self.info(domid).is_ok_and(|info| !info.shutdown && !info.dying) {
            if Instant::now() >= deadline {
                tracing::warn!(
                    "domain {domid} acknowledged a request to suspend and still runs: it may stop \
                     later"
                );
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}
