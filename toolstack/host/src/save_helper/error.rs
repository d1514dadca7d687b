//! Why a save or a restore did not go through rxl's save helper.

use std::io;
use std::path::PathBuf;

use rxl_core::deadlines;
use rxl_core::error::Failure;
use rxl_core::json_lines::JsonLineError;
use rxl_precopy::save_memory::SaveError;
use rxl_xen::ExportError;

/// The helper's file name.
pub const HELPER: &str = "rxl-save-helper";

/// Where packages put the helper, if it is not beside rxl.
pub const LIBEXEC: &str = "/usr/libexec/rxl";

/// Why a save or a restore did not go through rxl's save helper. Each displays as one line.
#[derive(Debug, thiserror::Error)]
pub enum SaveHelperError {
    /// There is no such program.
    #[error("{HELPER} is neither beside rxl nor in {LIBEXEC}")]
    NotInstalled,
    /// There is no place for the socket.
    #[error(transparent)]
    StateDir(#[from] Failure),
    /// libxl cannot be told of the helper.
    #[error(transparent)]
    Environment(#[from] ExportError),
    /// The socket failed.
    #[error("{}: {source}", path.display())]
    Socket {
        /// Where helpers find this process.
        path: PathBuf,
        source: io::Error,
    },
    /// Another user connected to the socket, which only root can reach.
    #[error("a helper that is not root")]
    NotRoot,
    /// libxl runs, and no helper came.
    #[error("libxl did not start {HELPER} within {} s", deadlines::HELPER_START.as_secs())]
    NotStarted,
    /// The line to the helper failed, or the helper was silent for too long.
    #[error("{HELPER}: {0}")]
    Line(#[from] JsonLineError),
    /// The helper ended before it had answered.
    #[error("{HELPER} is gone")]
    Gone,
    /// The helper sent a message that has no place there.
    #[error("{HELPER} said {0} out of turn")]
    OutOfTurn(String),
    /// libxl sent SIGTERM to the helper.
    #[error("libxl has ended the save")]
    EndedByLibxl,
    /// libxl did not do what the helper asked it for.
    #[error("{0}")]
    Refused(&'static str),
    /// The guest's memory cannot be opened.
    #[error(transparent)]
    Memory(#[from] rxl_xen::Failure),
    /// Saving the guest's memory failed, for this reason.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The thread that serves the helper panicked.
    #[error("its thread panicked")]
    Panicked,
}

impl SaveHelperError {
    /// A failure of the helper's socket, from which nothing has been read yet.
    pub(super) fn line(error: io::Error) -> Self {
        Self::Line(error.into())
    }
}
