//! The session's end: waits for the helper that libxl starts, and walks or answers its questions.

use rxl_core::deadlines;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use crate::save_helper::words::{FromHelper, Line, SOCKET_VARIABLE, ToHelper, VERSION};
use rxl_core::domain::SpecialPages;
use rxl_core::notes::{Note, NoteKind, Notes};
use rxl_core::state_dir::StateDir;
use rxl_core::steering::{Decision, Steering, Walker};
use rxl_datapath::feed::Feed;
use rxl_precopy::save_memory::{Memory, MemorySave};
use rxl_xen as xen;
use rxl_xen::Rings;

/// The helper's file name.
const HELPER: &str = "rxl-save-helper";

/// Where packages put it, if not beside rxl.
const LIBEXEC: &str = "/usr/libexec/rxl";

/// How often a wait looks whether libxl's operation has ended.
const GLANCE: Duration = Duration::from_millis(50);

/// libxl starts our helper, which becomes the stock one for as long as nobody listens.
pub struct Announced {
    path: PathBuf,
}

impl Announced {
    /// Makes libxl start our helper for this process. To be called before there is a second thread.
    ///
    /// The error is one line: why libxl will use its own helper.
    pub fn announce(state: &StateDir) -> Result<Self, String> {
        let helper = find_helper()?;
        let path = state.helper_socket().map_err(|failure| failure.to_string())?;
        // One that a killed process of the same number has left.
        let _ = std::fs::remove_file(&path);
        xen::export(&[
            ("LIBXL_SAVE_HELPER", helper.as_os_str()),
            (SOCKET_VARIABLE, path.as_os_str()),
        ])?;
        Ok(Self { path })
    }

    /// From now on helpers find this process.
    pub fn listen(&self) -> Result<Plugin, String> {
        let path = self.path.clone();
        let bound = UnixListener::bind(&path)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        let listener = bound.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Plugin { listener, path })
    }
}

/// Where this process's helpers find it. One save or restore at a time.
pub struct Plugin {
    listener: UnixListener,
    path: PathBuf,
}

impl Plugin {
    /// Makes libxl start our helper for the saves of this process: [`Announced::announce`], and it
    /// listens at once.
    pub fn install(state: &StateDir) -> Result<Self, String> {
        Announced::announce(state)?.listen()
    }

    /// The helper that libxl is about to start, once it is there. None when the operation ended
    /// before.
    fn accept(&self, ended: &dyn Fn() -> bool) -> Result<Option<UnixStream>, String> {
        let deadline = Instant::now() + deadlines::HELPER_START;
        while !ended() {
            if Instant::now() >= deadline {
                return Err(format!(
                    "libxl did not start {HELPER} within {} s",
                    deadlines::HELPER_START.as_secs()
                ));
            }
            let timeout = PollTimeout::try_from(GLANCE).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)], timeout);
            match self.listener.accept() {
                Ok((stream, _)) => return checked(stream).map(Some).map_err(|e| e.to_string()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(None)
    }
}

impl Plugin {
    /// The helper whose first word is one of ours, and that word. Whoever else connects is shown
    /// out.
    fn greeted(
        &self,
        ended: &dyn Fn() -> bool,
        ours: impl Fn(&FromHelper) -> bool,
    ) -> Result<Option<(Line<UnixStream>, FromHelper)>, String> {
        while let Some(stream) = self.accept(ended)? {
            let mut helper =
                Line::new(stream, deadlines::HELPER_ANSWER).map_err(|e| e.to_string())?;
            match hear(&mut helper) {
                Ok(Some(word)) if ours(&word) => return Ok(Some((helper, word))),
                other => {
                    tracing::warn!("{other:?} from somebody who is not this operation's {HELPER}")
                }
            }
        }
        Ok(None)
    }

    /// The helper of the restore that libxl is about to start. None when the operation ended
    /// before.
    pub fn restoring(&self, ended: &dyn Fn() -> bool) -> Result<Option<RestoreHelper>, String> {
        let ours = |word: &FromHelper| matches!(word, FromHelper::Restore { version: VERSION, .. });
        Ok(self.greeted(ended, ours)?.and_then(|(line, word)| match word {
            FromHelper::Restore { domid, rings, .. } => Some(RestoreHelper { line, domid, rings }),
            _ => None,
        }))
    }
}

/// What stands between a restore and libxl.
pub struct RestoreHelper {
    line: Line<UnixStream>,
    /// The domain that libxl has made.
    pub domid: u32,
    /// Its rings.
    pub rings: Rings,
}

impl RestoreHelper {
    /// Lets libxl go on: the domain's memory is ours to fill, and its special pages are there.
    pub fn restored(&mut self, missing: u32, special: SpecialPages) -> Result<(), String> {
        order(&mut self.line, &ToHelper::Restored { missing, special })
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn find_helper() -> Result<PathBuf, String> {
    let beside =
        std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join(HELPER)));
    let places = beside.into_iter().chain([Path::new(LIBEXEC).join(HELPER)]);
    let found = places.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| format!("{HELPER} is neither beside rxl nor in {LIBEXEC}"))
}

/// Root alone can reach the socket; this makes sure.
fn checked(stream: UnixStream) -> io::Result<UnixStream> {
    let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
    if peer.uid() == 0 { Ok(stream) } else { Err(io::Error::other("a helper that is not root")) }
}

/// One save, seen from the session.
pub struct Saving {
    /// Whose memory.
    pub domid: u32,
    /// Copy while the guest runs.
    pub live: bool,
    /// Who is to walk.
    pub walker: Walker,
    /// What to ask.
    pub steering: Box<dyn Steering>,
    /// What is told.
    pub notes: Notes,
    /// Where pages go when rxl walks.
    pub feed: Feed,
    /// libxl's operation has ended, or is to end.
    pub ended: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Saving {
    /// Serves the helper until it is gone. `open` opens the guest's memory. The error is one line.
    pub fn serve<M: Memory>(
        self,
        plugin: &Plugin,
        open: impl FnOnce(u32) -> Result<M, String>,
    ) -> Result<(), String> {
        let Some(mut helper) = self.greeted(plugin)? else { return Ok(()) };
        say(&mut helper, &ToHelper::Walk(self.walker))?;
        let _ = self.notes.send(Note { at: Instant::now(), what: NoteKind::Walker(self.walker) });
        match self.walker {
            Walker::Rxl => self.walk(helper, open),
            Walker::Libxc => self.answer(helper),
            Walker::Stock => Ok(()),
        }
    }

    fn greeted(&self, plugin: &Plugin) -> Result<Option<Line<UnixStream>>, String> {
        let ours = |word: &FromHelper| matches!(word, FromHelper::Hello { version: VERSION, domid } if *domid == self.domid);
        Ok(plugin.greeted(&*self.ended, ours)?.map(|(helper, _)| helper))
    }

    fn walk<M: Memory>(
        mut self,
        mut helper: Line<UnixStream>,
        open: impl FnOnce(u32) -> Result<M, String>,
    ) -> Result<(), String> {
        let enable = |enable| ToHelper::DeviceModelLogDirty { enable };
        let ended = self.ended;
        let socket = helper.socket().try_clone().map_err(|e| e.to_string())?;
        let walked = open(self.domid).and_then(|memory| {
            if self.live {
                order(&mut helper, &enable(true))?;
            }
            let walk = MemorySave {
                memory,
                feed: self.feed,
                steering: &mut *self.steering,
                suspend: &mut || order(&mut helper, &ToHelper::Suspend),
                // Unasked the helper only says that libxl wants an end.
                given_up: &|| ended() || is_readable(&socket),
            };
            walk.run(self.live)
        });
        // A save that has been aborted may have taken its helper with it.
        let off = if self.live { order(&mut helper, &enable(false)) } else { Ok(()) };
        let complete =
            order(&mut helper, &ToHelper::Complete { ok: walked.is_ok() && off.is_ok() });
        walked.and(off).and(complete)
    }

    /// Answers libxc's questions, asked by the helper. It ends with the helper.
    fn answer(mut self, mut helper: Line<UnixStream>) -> Result<(), String> {
        // Nothing is fed: the data path reads libxl's pipe.
        drop(self.feed);
        loop {
            if !helper.has_more() && !readable(helper.socket(), &*self.ended)? {
                return Ok(());
            }
            let answer = match hear(&mut helper)? {
                Some(FromHelper::Precopy(stats)) => {
                    ToHelper::Decision(self.steering.precopy(&stats))
                }
                Some(FromHelper::MaySuspend) => {
                    let allowed = self.steering.suspend();
                    if let Err(reason) = &allowed {
                        tracing::info!("the guest is not suspended: {reason}");
                    }
                    ToHelper::Allow(allowed.is_ok())
                }
                Some(other) => return Err(format!("{HELPER} said {other:?} out of turn")),
                None => return Ok(()),
            };
            if let ToHelper::Decision(Decision::Abort) = answer {
                tracing::debug!("the save is to be abandoned");
            }
            say(&mut helper, &answer)?;
        }
    }
}

/// Waits for the next word. False when the operation has ended and nothing more came.
fn readable(socket: &UnixStream, ended: &dyn Fn() -> bool) -> Result<bool, String> {
    loop {
        let over = ended();
        let timeout = PollTimeout::try_from(GLANCE).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if over => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.desc().into()),
        }
    }
}

fn is_readable(socket: &UnixStream) -> bool {
    poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)
        .is_ok_and(|ready| ready > 0)
}

/// A helper that was terminated carries out every order but a suspend, to which it gives no other
/// answer.
fn order(helper: &mut Line<UnixStream>, order: &ToHelper) -> Result<(), String> {
    say(helper, order)?;
    loop {
        return match hear(helper)? {
            Some(FromHelper::Done { ok: true }) => Ok(()),
            Some(FromHelper::Done { ok: false }) => Err(refused(order).into()),
            Some(FromHelper::Terminated) if *order == ToHelper::Suspend => {
                Err("libxl has ended the save".into())
            }
            Some(FromHelper::Terminated) => continue,
            Some(other) => Err(format!("{HELPER} said {other:?} out of turn")),
            None => Err(format!("{HELPER} is gone")),
        };
    }
}

fn refused(order: &ToHelper) -> &'static str {
    match order {
        ToHelper::Suspend => "the guest did not suspend",
        ToHelper::DeviceModelLogDirty { .. } => {
            "the device model's log-dirty mode cannot be switched"
        }
        _ => "libxl refused",
    }
}

fn say(helper: &mut Line<UnixStream>, word: &ToHelper) -> Result<(), String> {
    helper.say(word).map_err(|error| format!("{HELPER}: {error}"))
}

fn hear(helper: &mut Line<UnixStream>) -> Result<Option<FromHelper>, String> {
    helper.hear().map_err(|error| format!("{HELPER}: {error}"))
}
