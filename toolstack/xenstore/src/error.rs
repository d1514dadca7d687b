//! Why xenstore did not do what was asked.

use std::io;
use std::time::Duration;

use nix::errno::Errno;

/// Why xenstore did not do what was asked. Each displays as one line.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection could be made, or not in time.
    #[error("cannot connect to xenstore: {}", words(.0))]
    Connect(#[source] io::Error),
    /// xenstored refused, or the connection was lost.
    #[error("cannot {action} xenstore {path}: {}", words(.source))]
    Failed {
        /// `read`, `list`, `write` or `watch`.
        action: &'static str,
        path: String,
        /// As xenstore-rs tells it.
        source: io::Error,
    },
    /// xenstored did not answer in time.
    #[error("cannot {action} xenstore {path}: no answer within {} s", .within.as_secs_f32())]
    Late {
        /// `read`, `list`, `write` or `watch`.
        action: &'static str,
        path: String,
        /// How long was waited.
        within: Duration,
    },
    /// A path that xenstore cannot have: empty, too long, or with a NUL.
    #[error("a xenstore path of {0} bytes is empty, too long, or holds a NUL")]
    BadPath(usize),
    /// A value that is too long to be written or to be believed.
    #[error("xenstore {path}: a value of {length} bytes is too long")]
    TooLong {
        path: String,
        /// Of the value, in bytes.
        length: usize,
    },
    /// A node has more children than xenstored can name in one answer.
    #[error("xenstore {path} has {count} children, too many")]
    TooMany {
        path: String,
        /// Of its children.
        count: usize,
    },
}

/// What comes before the name of xenstored's error in an error of xenstore-rs.
const PREFIX: &str = "XS interface error ";

/// xenstored's errors (`xsd_errors` in Xen's xen/include/public/io/xs_wire.h).
const CODES: [Errno; 16] = [
    Errno::EINVAL,
    Errno::EACCES,
    Errno::EEXIST,
    Errno::EISDIR,
    Errno::ENOENT,
    Errno::ENOMEM,
    Errno::ENOSPC,
    Errno::EIO,
    Errno::ENOTEMPTY,
    Errno::ENOSYS,
    Errno::EROFS,
    Errno::EBUSY,
    Errno::EAGAIN,
    Errno::EISCONN,
    Errno::E2BIG,
    Errno::EPERM,
];

/// An error in the words that libxenstore's errno would have.
fn words(error: &io::Error) -> String {
    if let Some(errno) = error.raw_os_error() {
        return Errno::from_raw(errno).desc().into();
    }
    let text = error.to_string();
    let code = text.strip_prefix(PREFIX).and_then(|name| {
        CODES.iter().find(|code| format!("{code:?}") == name).map(|code| code.desc())
    });
    code.map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_words_of_errno() {
        let failed = |source| StoreError::Failed { action: "write", path: "/a".into(), source };
        let refused = failed(io::Error::other("XS interface error EACCES")).to_string();
        assert_eq!(refused, "cannot write xenstore /a: Permission denied");
        let lost = failed(io::Error::from_raw_os_error(32)).to_string();
        assert_eq!(lost, "cannot write xenstore /a: Broken pipe");
        let other = failed(io::Error::other("XS interface error EWHAT")).to_string();
        assert_eq!(other, "cannot write xenstore /a: XS interface error EWHAT");
    }
}
