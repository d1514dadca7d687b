//! Where the helpers that libxl starts find this process.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use crate::save_helper::error::{HELPER, LIBEXEC, SaveHelperError};
use crate::save_helper::messages::{FromHelper, HelperLine, SOCKET_VARIABLE, ToHelper, VERSION};
use crate::save_helper::orders::order;
use rxl_core::deadlines;
use rxl_core::domain::SpecialPages;
use rxl_core::state_dir::StateDir;
use rxl_xen::Rings;

/// How often a wait looks whether libxl's operation has ended.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A socket that libxl's helpers look for. As long as nobody listens there, rxl's helper becomes
/// the stock one.
pub struct SaveHelperSocket {
    path: PathBuf,
}

impl SaveHelperSocket {
    /// Makes libxl start rxl's helper for this process. To be called before there is a second
    /// thread.
    ///
    /// The error is why libxl will use its own helper.
    pub fn announce(state: &StateDir) -> Result<Self, SaveHelperError> {
        let helper = find_helper()?;
        let path = state.helper_socket()?;
        // One that a killed process of the same number has left.
        let _ = std::fs::remove_file(&path);
        rxl_xen::export(&[
            ("LIBXL_SAVE_HELPER", helper.as_os_str()),
            (SOCKET_VARIABLE, path.as_os_str()),
        ])?;
        Ok(Self { path })
    }

    /// From now on helpers find this process.
    pub fn listen(&self) -> Result<SaveHelperListener, SaveHelperError> {
        let path = self.path.clone();
        let bound = UnixListener::bind(&path)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        match bound {
            Ok(listener) => Ok(SaveHelperListener { listener, path }),
            Err(source) => Err(SaveHelperError::Socket { path, source }),
        }
    }
}

/// Accepts the helper of one save or restore at a time.
pub struct SaveHelperListener {
    listener: UnixListener,
    path: PathBuf,
}

impl SaveHelperListener {
    /// Makes libxl start rxl's helper for the saves of this process:
    /// [`SaveHelperSocket::announce`], and it listens at once.
    pub fn install(state: &StateDir) -> Result<Self, SaveHelperError> {
        SaveHelperSocket::announce(state)?.listen()
    }

    /// The helper that libxl is about to start, once it is there. None when the operation ended
    /// before.
    fn accept(
        &self,
        patience: Duration,
        ended: &dyn Fn() -> bool,
    ) -> Result<Option<UnixStream>, SaveHelperError> {
        let deadline = Instant::now() + patience;
        let failed = |source| SaveHelperError::Socket { path: self.path.clone(), source };
        while !ended() {
            if Instant::now() >= deadline {
                return Err(SaveHelperError::NotStarted);
            }
            let timeout = PollTimeout::try_from(POLL_INTERVAL).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)], timeout);
            match self.listener.accept() {
                Ok((stream, _)) => return checked(stream).map(Some),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(None)
    }

    /// The helper whose first message is one of ours, and that message. The connection of whoever
    /// else connects is closed.
    pub(super) fn greeted(
        &self,
        patience: Duration,
        ended: &dyn Fn() -> bool,
        ours: impl Fn(&FromHelper) -> bool,
    ) -> Result<Option<(HelperLine<UnixStream>, FromHelper)>, SaveHelperError> {
        while let Some(stream) = self.accept(patience, ended)? {
            let mut helper =
                HelperLine::new(stream, deadlines::HELPER_ANSWER).map_err(SaveHelperError::line)?;
            match helper.receive() {
                Ok(Some(message)) if ours(&message) => return Ok(Some((helper, message))),
                other => {
                    tracing::warn!("{other:?} from somebody who is not this operation's {HELPER}")
                }
            }
        }
        Ok(None)
    }

    /// The helper of the restore that libxl is about to start, once there is room for the domain.
    /// None when the operation ended before.
    pub fn restoring(
        &self,
        ended: &dyn Fn() -> bool,
    ) -> Result<Option<RestoreHelper>, SaveHelperError> {
        let ours =
            |message: &FromHelper| matches!(message, FromHelper::Restore { version: VERSION, .. });
        Ok(self.greeted(deadlines::CLAIM, ended, ours)?.and_then(|(line, message)| match message {
            FromHelper::Restore { domid, rings, .. } => Some(RestoreHelper { line, domid, rings }),
            _ => None,
        }))
    }
}

impl Drop for SaveHelperListener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The helper of a restore, for which libxl waits.
pub struct RestoreHelper {
    line: HelperLine<UnixStream>,
    /// The domain that libxl has made.
    pub domid: u32,
    /// Its connections to xenstored and xenconsoled.
    pub rings: Rings,
}

impl RestoreHelper {
    /// Lets libxl go on: the domain's memory is filled by rxl, and its special pages are there.
    pub fn restored(&mut self, missing: u32, special: SpecialPages) -> Result<(), SaveHelperError> {
        order(&mut self.line, &ToHelper::Restored { missing, special })
    }
}

fn find_helper() -> Result<PathBuf, SaveHelperError> {
    let beside =
        std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join(HELPER)));
    let places = beside.into_iter().chain([Path::new(LIBEXEC).join(HELPER)]);
    let found = places.into_iter().find(|path| path.is_file());
    found.ok_or(SaveHelperError::NotInstalled)
}

/// Root alone can reach the socket; this makes sure.
fn checked(stream: UnixStream) -> Result<UnixStream, SaveHelperError> {
    let peer = getsockopt(&stream, sockopt::PeerCredentials);
    let peer = peer.map_err(|errno| SaveHelperError::line(errno.into()))?;
    if peer.uid() == 0 { Ok(stream) } else { Err(SaveHelperError::NotRoot) }
}
