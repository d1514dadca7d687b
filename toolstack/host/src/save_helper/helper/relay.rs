//! The session walks over the guest's memory; this passes its orders on to libxl, and libxl's
//! answers back.
//!
//! When the session dies the helper cleans up after it: it switches log-dirty mode off, and runs
//! the guest on if it was suspended for this save. The target, which has lost the session too, has
//! destroyed its copy before it was told to run it, or will.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::save_helper::helper::SaveArguments;
use crate::save_helper::helper::error::HelperError;
use crate::save_helper::ipc::{Libxl, Message};
use crate::save_helper::messages::{FromHelper, HelperLine, ToHelper};
use rxl_xen as xen;
use rxl_xen::Library;

pub(super) fn run(
    library: Library,
    save: SaveArguments,
    session: HelperLine<UnixStream>,
) -> Result<(), HelperError> {
    let sigterm = SigSet::from(Signal::SIGTERM);
    sigterm.thread_block().map_err(HelperError::Signal)?;
    let terminated =
        SignalFd::with_flags(&sigterm, SfdFlags::SFD_CLOEXEC).map_err(HelperError::Signal)?;
    let mut relay = Relay {
        domid: save.domid,
        libxl: Libxl::inherited().map_err(HelperError::Libxl)?,
        session,
        terminated: terminated.as_fd(),
        is_terminated: false,
        unanswered: false,
        suspend_asked: false,
    };
    match relay.serve() {
        Ok(End::Completed) => Ok(()),
        Ok(End::Unanswered) => Err(HelperError::EndedInSuspend),
        Err(error) => {
            clean_up(library, save, relay.suspend_asked)?;
            Err(HelperError::SessionGone(error.into()))
        }
    }
}

/// Does what libxl, which has gone with the session, would have done.
fn clean_up(library: Library, save: SaveArguments, suspend_asked: bool) -> Result<(), HelperError> {
    if save.live() {
        xen::log_dirty_off(library, save.domid)?;
    }
    if suspend_asked {
        xen::abandon_suspend(library, save.domid)?;
    }
    Ok(())
}

enum End {
    Completed,
    /// libxl was asked for a suspend, and has sent SIGTERM instead of an answer.
    Unanswered,
}

struct Relay<'a> {
    domid: u32,
    libxl: Libxl,
    session: HelperLine<UnixStream>,
    terminated: BorrowedFd<'a>,
    /// The session was told of SIGTERM: a suspend that it orders from now on gets no answer.
    is_terminated: bool,
    unanswered: bool,
    /// The guest is suspended, or may be at any moment.
    suspend_asked: bool,
}

impl Relay<'_> {
    /// Serves until the save is complete. An error means that the session is gone.
    fn serve(&mut self) -> io::Result<End> {
        loop {
            if !self.is_terminated && !self.wait_for_session()? {
                self.tell_terminated()?;
                continue;
            }
            match self.session.receive()? {
                Some(ToHelper::Suspend) if self.is_terminated => {}
                Some(ToHelper::Suspend) => self.suspend()?,
                Some(ToHelper::DeviceModelLogDirty { .. }) if self.unanswered => self.done(true)?,
                Some(ToHelper::DeviceModelLogDirty { enable }) => {
                    let switched = self
                        .libxl
                        .ask(&Message::SwitchQemuLogdirty { domid: self.domid, enable })?;
                    self.done(switched == 0)?;
                }
                Some(ToHelper::Complete { ok }) => return self.complete(ok),
                Some(other) => {
                    return Err(io::Error::other(format!("it said {other:?} out of turn")));
                }
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Waits for the session's next message. False when libxl has sent SIGTERM instead.
    fn wait_for_session(&self) -> io::Result<bool> {
        Ok(self.session.has_more()
            || first_ready([self.session.socket().as_fd(), self.terminated])? == 0)
    }

    fn tell_terminated(&mut self) -> io::Result<()> {
        self.is_terminated = true;
        Ok(self.session.send(&FromHelper::Terminated)?)
    }

    fn suspend(&mut self) -> io::Result<()> {
        self.suspend_asked = true;
        self.libxl.tell(&Message::Suspend)?;
        let ready = first_ready([self.libxl.answers(), self.terminated])?;
        if ready == 1 {
            self.unanswered = true;
            return self.tell_terminated();
        }
        self.suspend_asked = self.libxl.answer()? != 0;
        self.done(self.suspend_asked)
    }

    fn complete(&mut self, ok: bool) -> io::Result<End> {
        if self.unanswered {
            self.done(true)?;
            return Ok(End::Unanswered);
        }
        let (retval, errno) = if ok { (0, 0) } else { (-1, Errno::ECANCELED as i32) };
        self.libxl.ask(&Message::Complete { retval, errno })?;
        // The session may be content with having said it.
        let _ = self.done(true);
        Ok(End::Completed)
    }

    fn done(&mut self, ok: bool) -> io::Result<()> {
        Ok(self.session.send(&FromHelper::Done { ok })?)
    }
}

/// Waits until one of the two can be read, and tells which; the first where both can.
fn first_ready(fds: [BorrowedFd<'_>; 2]) -> io::Result<usize> {
    let mut polled = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => {
                let [first, _] = &polled;
                return Ok(usize::from(!first.any().unwrap_or(true)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    /// A relay on a thread, and the three that it talks to.
    struct Scene {
        session: HelperLine<UnixStream>,
        libxl: UnixStream,
        terminate: OwnedFd,
        thread: std::thread::JoinHandle<(io::Result<End>, bool)>,
    }

    fn scene() -> Scene {
        let deadline = Duration::from_secs(5);
        let (session, theirs) = UnixStream::pair().unwrap();
        let (libxl, helper) = UnixStream::pair().unwrap();
        let (terminated, terminate) = nix::unistd::pipe().unwrap();
        let thread = std::thread::spawn(move || {
            let mut relay = Relay {
                domid: 5,
                libxl: Libxl::over(helper.try_clone().unwrap().into(), helper.into()),
                session: HelperLine::new(theirs, deadline).unwrap(),
                terminated: terminated.as_fd(),
                is_terminated: false,
                unanswered: false,
                suspend_asked: false,
            };
            let end = relay.serve();
            (end, relay.suspend_asked)
        });
        libxl.set_read_timeout(Some(deadline)).unwrap();
        Scene { session: HelperLine::new(session, deadline).unwrap(), libxl, terminate, thread }
    }

    impl Scene {
        fn libxl_hears(&mut self, message: Message<'_>) {
            let mut expected = Vec::new();
            message.send(&mut expected).unwrap();
            let mut got = vec![0; expected.len()];
            self.libxl.read_exact(&mut got).unwrap();
            assert_eq!(got, expected);
        }

        fn libxl_answers(&mut self, answer: i32) {
            self.libxl.write_all(&answer.to_ne_bytes()).unwrap();
        }

        fn session_hears(&mut self, message: FromHelper) {
            assert_eq!(self.session.receive::<FromHelper>().unwrap(), Some(message));
        }

        fn say(&mut self, message: ToHelper) {
            self.session.send(&message).unwrap();
        }
    }

    #[test]
    fn orders_go_to_libxl_and_answers_come_back() {
        let mut scene = scene();
        scene.say(ToHelper::DeviceModelLogDirty { enable: true });
        scene.libxl_hears(Message::SwitchQemuLogdirty { domid: 5, enable: true });
        scene.libxl_answers(0);
        scene.session_hears(FromHelper::Done { ok: true });
        scene.say(ToHelper::Suspend);
        scene.libxl_hears(Message::Suspend);
        scene.libxl_answers(1);
        scene.session_hears(FromHelper::Done { ok: true });
        scene.say(ToHelper::Complete { ok: true });
        scene.libxl_hears(Message::Complete { retval: 0, errno: 0 });
        scene.libxl_answers(0);
        scene.session_hears(FromHelper::Done { ok: true });
        assert!(matches!(scene.thread.join().unwrap(), (Ok(End::Completed), true)));
    }

    #[test]
    fn orders_that_come_together_are_all_carried_out() {
        let mut scene = scene();
        let mut orders =
            serde_json::to_vec(&ToHelper::DeviceModelLogDirty { enable: true }).unwrap();
        orders.push(b'\n');
        orders.extend(orders.clone());
        scene.session.socket().write_all(&orders).unwrap();
        for _ in 0..2 {
            scene.libxl_hears(Message::SwitchQemuLogdirty { domid: 5, enable: true });
            scene.libxl_answers(0);
            scene.session_hears(FromHelper::Done { ok: true });
        }
        drop(scene.session);
        assert!(scene.thread.join().unwrap().0.is_err());
    }

    #[test]
    fn a_guest_that_does_not_suspend_is_told() {
        let mut scene = scene();
        scene.say(ToHelper::Suspend);
        scene.libxl_hears(Message::Suspend);
        scene.libxl_answers(0);
        scene.session_hears(FromHelper::Done { ok: false });
        drop(scene.session);
        assert!(matches!(scene.thread.join().unwrap(), (Err(_), false)));
    }

    #[test]
    fn a_terminated_save_completes_with_a_failure() {
        let mut scene = scene();
        File::from(scene.terminate.try_clone().unwrap()).write_all(b"x").unwrap();
        scene.session_hears(FromHelper::Terminated);
        scene.say(ToHelper::Suspend);
        scene.say(ToHelper::Complete { ok: false });
        scene.libxl_hears(Message::Complete { retval: -1, errno: Errno::ECANCELED as i32 });
        scene.libxl_answers(0);
        scene.session_hears(FromHelper::Done { ok: true });
        assert!(matches!(scene.thread.join().unwrap(), (Ok(End::Completed), false)));
    }

    #[test]
    fn libxl_is_not_spoken_to_again_when_it_ends_a_suspend() {
        let mut scene = scene();
        scene.say(ToHelper::Suspend);
        scene.libxl_hears(Message::Suspend);
        File::from(scene.terminate.try_clone().unwrap()).write_all(b"x").unwrap();
        scene.session_hears(FromHelper::Terminated);
        scene.say(ToHelper::DeviceModelLogDirty { enable: false });
        scene.session_hears(FromHelper::Done { ok: true });
        scene.say(ToHelper::Complete { ok: false });
        scene.session_hears(FromHelper::Done { ok: true });
        assert!(matches!(scene.thread.join().unwrap(), (Ok(End::Unanswered), true)));
        let mut rest = Vec::new();
        scene.libxl.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }

    /// libxl lives in the session's process.
    #[test]
    fn a_session_that_dies_while_the_guest_suspends_leaves_a_guest_to_be_run_on() {
        let mut scene = scene();
        scene.say(ToHelper::Suspend);
        scene.libxl_hears(Message::Suspend);
        drop(scene.libxl);
        drop(scene.session);
        assert!(matches!(scene.thread.join().unwrap(), (Err(_), true)));
    }

    #[test]
    fn a_session_that_dies_after_the_suspend_leaves_a_guest_to_be_run_on() {
        let mut scene = scene();
        scene.say(ToHelper::Suspend);
        scene.libxl_hears(Message::Suspend);
        scene.libxl_answers(1);
        scene.session_hears(FromHelper::Done { ok: true });
        drop(scene.session);
        assert!(matches!(scene.thread.join().unwrap(), (Err(_), true)));
    }
}
