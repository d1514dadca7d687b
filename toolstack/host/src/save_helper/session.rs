//! The session's end of a save: walks over the guest's memory, or answers libxc's questions.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::save_helper::error::SaveHelperError;
use crate::save_helper::messages::{FromHelper, HelperLine, ToHelper, VERSION};
use crate::save_helper::orders::order;
use crate::save_helper::socket::{POLL_INTERVAL, SaveHelperListener};
use rxl_core::deadlines;
use rxl_core::notes::{Note, NoteKind, Notes};
use rxl_core::steering::{Decision, Steering, Walker};
use rxl_datapath::feed::Feed;
use rxl_precopy::save_memory::{Memory, MemorySave};

/// One save through rxl's helper, seen from the session.
pub struct SteeredSave {
    /// The domain that is saved.
    pub domid: u32,
    /// Copy while the guest runs.
    pub live: bool,
    /// Who walks over the guest's memory.
    pub walker: Walker,
    /// Decides when pre-copy ends and when the guest may be suspended.
    pub steering: Box<dyn Steering>,
    /// Hears who walks.
    pub notes: Notes,
    /// Where pages go when rxl walks.
    pub feed: Feed,
    /// libxl's operation has ended, or is to end.
    pub ended: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl SteeredSave {
    /// Serves the helper until it is gone. `open` opens the guest's memory.
    pub fn serve<M: Memory>(
        self,
        listener: &SaveHelperListener,
        open: impl FnOnce(u32) -> Result<M, rxl_xen::Failure>,
    ) -> Result<(), SaveHelperError> {
        let Some(mut helper) = self.greeted(listener)? else { return Ok(()) };
        helper.send(&ToHelper::Walk(self.walker))?;
        let _ = self.notes.send(Note { at: Instant::now(), what: NoteKind::Walker(self.walker) });
        match self.walker {
            Walker::Rxl => self.walk(helper, open),
            Walker::Libxc => self.answer(helper),
            Walker::Stock => Ok(()),
        }
    }

    fn greeted(
        &self,
        listener: &SaveHelperListener,
    ) -> Result<Option<HelperLine<UnixStream>>, SaveHelperError> {
        let hello = FromHelper::Hello { version: VERSION, domid: self.domid };
        let greeted =
            listener.greeted(deadlines::HELPER_START, &*self.ended, |message| *message == hello)?;
        Ok(greeted.map(|(helper, _)| helper))
    }

    fn walk<M: Memory>(
        self,
        mut helper: HelperLine<UnixStream>,
        open: impl FnOnce(u32) -> Result<M, rxl_xen::Failure>,
    ) -> Result<(), SaveHelperError> {
        let enable = |enable| ToHelper::DeviceModelLogDirty { enable };
        let live = self.live;
        let walked = open(self.domid).map_err(SaveHelperError::from).and_then(|memory| {
            if live {
                order(&mut helper, &enable(true))?;
            }
            self.save(memory, &mut helper)
        });
        // A save that has been aborted may have taken its helper with it.
        let off = if live { order(&mut helper, &enable(false)) } else { Ok(()) };
        let ok = walked.is_ok() && off.is_ok();
        let complete = order(&mut helper, &ToHelper::Complete { ok });
        walked.and(off).and(complete)
    }

    fn save(
        mut self,
        memory: impl Memory,
        helper: &mut HelperLine<UnixStream>,
    ) -> Result<(), SaveHelperError> {
        let socket = helper.socket().try_clone().map_err(SaveHelperError::line)?;
        let ended = self.ended;
        let save = MemorySave {
            memory,
            feed: self.feed,
            steering: &mut *self.steering,
            suspend: &mut || order(helper, &ToHelper::Suspend).map_err(Into::into),
            // Unasked the helper only says that libxl wants an end.
            given_up: &|| ended() || is_readable(&socket),
        };
        save.run(self.live).map_err(SaveHelperError::from)
    }

    /// Answers libxc's questions, asked by the helper. It ends with the helper.
    fn answer(self, mut helper: HelperLine<UnixStream>) -> Result<(), SaveHelperError> {
        let Self { mut steering, feed, ended, .. } = self;
        // Nothing is fed: the data path reads libxl's pipe.
        drop(feed);
        loop {
            if !helper.has_more() && !readable(helper.socket(), &*ended)? {
                return Ok(());
            }
            let answer = match helper.receive()? {
                Some(FromHelper::Precopy(stats)) => ToHelper::Decision(steering.precopy(&stats)),
                Some(FromHelper::MaySuspend) => {
                    let allowed = steering.suspend();
                    if let Err(reason) = &allowed {
                        tracing::info!("the guest is not suspended: {reason}");
                    }
                    ToHelper::Allow(allowed.is_ok())
                }
                Some(other) => return Err(SaveHelperError::OutOfTurn(format!("{other:?}"))),
                None => return Ok(()),
            };
            if let ToHelper::Decision(Decision::Abort) = answer {
                tracing::debug!("the save is to be abandoned");
            }
            helper.send(&answer)?;
        }
    }
}

/// Waits for the next message. False when the operation has ended and nothing more came.
fn readable(socket: &UnixStream, ended: &dyn Fn() -> bool) -> Result<bool, SaveHelperError> {
    loop {
        let over = ended();
        let timeout = PollTimeout::try_from(POLL_INTERVAL).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if over => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(SaveHelperError::line(errno.into())),
        }
    }
}

fn is_readable(socket: &UnixStream) -> bool {
    poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)
        .is_ok_and(|ready| ready > 0)
}
