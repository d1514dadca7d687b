//! Lets libxc walk over the guest's memory (`xc_domain_save`), with rxl's callbacks.

use std::os::unix::net::UnixStream;

use crate::growth::Growth;
use crate::save_helper::helper::SaveArguments;
use crate::save_helper::helper::error::HelperError;
use crate::save_helper::ipc::{ERROR, Libxl, Message, NO_ERRNO};
use crate::save_helper::messages::{FromHelper, HelperLine, ToHelper};
use rxl_core::steering::{Decision, PrecopyStats};
use rxl_xen as xen;
use rxl_xen::{Library, LibxcCallbacks};

/// Decides while libxc walks.
pub(super) trait Decider {
    /// Asked after each live iteration.
    fn precopy(&mut self, stats: &PrecopyStats) -> Decision;
    /// Asked before the guest is suspended.
    fn may_suspend(&mut self) -> bool;
    /// Told whether libxl has suspended the guest.
    fn suspended(&mut self, _ok: bool) {}
}

/// The session decides. Where it does not answer, the save is given up.
struct SessionDecider(HelperLine<UnixStream>);

impl Decider for SessionDecider {
    fn precopy(&mut self, stats: &PrecopyStats) -> Decision {
        let asked = self.0.send(&FromHelper::Precopy(*stats)).and_then(|()| self.0.receive());
        match asked {
            Ok(Some(ToHelper::Decision(decision))) => decision,
            _ => Decision::Abort,
        }
    }

    fn may_suspend(&mut self) -> bool {
        let asked = self.0.send(&FromHelper::MaySuspend).and_then(|()| self.0.receive());
        matches!(asked, Ok(Some(ToHelper::Allow(true))))
    }
}

pub(super) fn steered(
    library: Library,
    save: SaveArguments,
    session: HelperLine<UnixStream>,
) -> Result<(), HelperError> {
    run(library, save, &mut SessionDecider(session))
}

/// Makes the whole save. libxl is told of a failure, too.
pub(super) fn run(
    library: Library,
    save: SaveArguments,
    decider: &mut dyn Decider,
) -> Result<(), HelperError> {
    let libxl = Libxl::inherited().map_err(HelperError::Libxl)?;
    let growth = Growth::of(library, save.domid)?;
    let mut callbacks = Callbacks { libxl, decider, growth, suspend_asked: false };
    let (stream, receive) = (save.stream, save.receive);
    let done =
        xen::save_with_libxc(library, stream, receive, save.domid, save.flags, &mut callbacks);
    let (retval, errno) = done.map_or_else(|errno| (-1, errno), |()| (0, 0));
    let Err(gone) = callbacks.libxl.ask(&Message::Complete { retval, errno }) else {
        return Ok(());
    };
    if callbacks.suspend_asked {
        xen::abandon_suspend(library, save.domid)?;
    }
    Err(HelperError::LibxlGone(gone))
}

struct Callbacks<'a> {
    libxl: Libxl,
    decider: &'a mut dyn Decider,
    growth: Growth,
    /// The guest is suspended, or may be at any moment.
    suspend_asked: bool,
}

impl Callbacks<'_> {
    /// libxl is gone when it cannot be told: the next question to it fails.
    fn tell(&mut self, message: &Message<'_>) {
        let _ = self.libxl.tell(message);
    }

    /// Whether libxc has seen all memory so far. libxl is told where it has not.
    fn sees_all(&mut self) -> bool {
        let seen = self.growth.look();
        if let Err(why) = &seen {
            let text = &why.to_string();
            self.tell(&Message::Log { level: ERROR, errno: NO_ERRNO, context: "rxl", text });
        }
        seen.is_ok()
    }
}

impl LibxcCallbacks for Callbacks<'_> {
    fn log(&mut self, level: u32, errno: i32, context: &str, text: &str) {
        self.tell(&Message::Log { level, errno, context, text });
    }

    fn progress(&mut self, context: &str, what: &str, done: u64, total: u64) {
        self.tell(&Message::Progress { context, what, done, total });
    }

    /// libxc asks twice an iteration: knowing how many pages are dirty, and before it looks. In the
    /// first iteration all are.
    fn precopy(&mut self, iteration: u32, written: u64, dirty: Option<u64>) -> Decision {
        if !self.sees_all() {
            return Decision::Abort;
        }
        match dirty {
            Some(dirty) if iteration > 0 => {
                self.decider.precopy(&PrecopyStats { iteration, written, dirty })
            }
            _ => Decision::Continue,
        }
    }

    fn suspend(&mut self) -> bool {
        if !self.sees_all() || !self.decider.may_suspend() {
            return false;
        }
        self.suspend_asked = true;
        let answer = self.libxl.ask(&Message::Suspend);
        // libxl has withdrawn its request when it says no; when it is gone, nobody has.
        self.suspend_asked = !matches!(answer, Ok(0));
        let suspended = answer.is_ok_and(|answer| answer != 0) && self.sees_all();
        self.decider.suspended(suspended);
        suspended
    }

    fn switch_qemu_logdirty(&mut self, domid: u32, enable: bool) -> bool {
        self.libxl
            .ask(&Message::SwitchQemuLogdirty { domid, enable })
            .is_ok_and(|answer| answer == 0)
    }
}
