//! libxl's side of the save helper: frames to it on the helper's stdout, answers on its stdin
//! (libxl_save_helper.c, libxl_save_msgs_gen.pl).
//!
//! A frame is a u16 with the length of what follows, then a u16 with the message's number, then its
//! arguments, unaligned, in the machine's byte order. A string is a u32 length that counts the NUL,
//! then the bytes. An answer is an i32. libxl reads header and body of a frame with its context
//! locked, and drops what it does not understand: frames are written whole.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longest string in a message. libxl itself allows frames of 64 KiB.
const MAX_STRING: usize = 8 << 10;

/// What the helper tells libxl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A log line. It has no answer.
    Log {
        /// A `xentoollog_level` of Xen's xentoollog.h.
        level: u32,
        /// The errno of the failure, or -1 where there is none.
        errno: i32,
        context: &'a str,
        text: &'a str,
    },
    /// How far libxc is. It has no answer.
    Progress {
        context: &'a str,
        what: &'a str,
        /// Pages handled so far.
        done: u64,
        /// Pages of this iteration.
        total: u64,
    },
    /// Suspend the guest. The answer is 0 when it cannot.
    Suspend,
    /// Switch the device model's log-dirty mode. The answer is 0 when that worked.
    SwitchQemuLogdirty { domid: u32, enable: bool },
    /// A restore has all that stays the same while the guest runs. The answer is 0 when libxl could
    /// add what is missing.
    StaticDataDone {
        /// The flags `XGR_SDD_MISSING_*` of xenguest.h.
        missing: u32,
    },
    /// Where a restored guest's pages for xenstored and xenconsoled are. It has no answer.
    RestoreResults {
        /// The frame number of xenstore's page.
        store: u64,
        /// The frame number of the console's page.
        console: u64,
    },
    /// The save or restore has ended. The answer says nothing.
    Complete {
        /// 0 when it worked.
        retval: i32,
        /// Why it did not.
        errno: i32,
    },
}

/// The level of an error in [`Message::Log`] (xentoollog.h: `XTL_ERROR`).
pub const ERROR: u32 = libxl_sys::XTL_ERROR;

/// What libxl takes for no errno in [`Message::Log`].
pub const NO_ERRNO: i32 = -1;

impl Message<'_> {
    fn body(&self) -> Vec<u8> {
        let mut body = Body::default();
        match *self {
            Self::Log { level, errno, context, text } => {
                body.number(1).u32(level).u32(errno.cast_unsigned()).string(context).string(text)
            }
            Self::Progress { context, what, done, total } => {
                body.number(2).string(context).string(what).u64(done).u64(total)
            }
            Self::Suspend => body.number(3),
            Self::SwitchQemuLogdirty { domid, enable } => {
                body.number(7).u32(domid).u32(enable.into())
            }
            Self::StaticDataDone { missing } => body.number(8).u32(missing),
            Self::RestoreResults { store, console } => body.number(9).u64(store).u64(console),
            Self::Complete { retval, errno } => {
                body.number(10).u32(retval.cast_unsigned()).u32(errno.cast_unsigned())
            }
        };
        body.0
    }

    /// Writes the frame in one call.
    pub fn send(&self, output: &mut impl Write) -> io::Result<()> {
        let body = self.body();
        // Two strings of at most MAX_STRING and some numbers.
        let length = u16::try_from(body.len()).map_err(io::Error::other)?;
        output.write_all(&[&length.to_ne_bytes()[..], &body].concat())?;
        output.flush()
    }
}

/// Reads an answer.
fn answer(input: &mut impl Read) -> io::Result<i32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(i32::from_ne_bytes(bytes))
}

/// libxl, as the helper that it has started reaches it.
pub struct Libxl {
    from: File,
    to: File,
}

impl Libxl {
    /// Over this process's stdin and stdout.
    pub fn inherited() -> io::Result<Self> {
        let (from, to) =
            (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self::over(from, to))
    }

    /// Over these descriptors.
    pub fn over(from: OwnedFd, to: OwnedFd) -> Self {
        Self { from: from.into(), to: to.into() }
    }

    /// Sends a message.
    pub fn tell(&mut self, message: &Message<'_>) -> io::Result<()> {
        message.send(&mut self.to)
    }

    /// Waits for the answer to a message that has one.
    pub fn answer(&mut self) -> io::Result<i32> {
        answer(&mut self.from)
    }

    /// Sends a message and waits for its answer.
    pub fn ask(&mut self, message: &Message<'_>) -> io::Result<i32> {
        self.tell(message)?;
        self.answer()
    }

    /// What is readable when an answer has come.
    pub fn answers(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn number(&mut self, number: u16) -> &mut Self {
        self.0.extend_from_slice(&number.to_ne_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    /// Adds a string, cut where it is too long or holds a NUL.
    fn string(&mut self, text: &str) -> &mut Self {
        let text = text.split('\0').next().unwrap_or_default().as_bytes();
        let text = text.get(..MAX_STRING).unwrap_or(text);
        self.u32(text.len() as u32 + 1).0.extend_from_slice(text);
        self.0.push(0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(message: Message<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.send(&mut bytes).unwrap();
        bytes
    }

    /// As Debian's helper of Xen 4.17 writes them, on a little-endian machine.
    #[cfg(target_endian = "little")]
    #[test]
    fn frames_are_libxls() {
        assert_eq!(sent(Message::Suspend), [2, 0, 3, 0]);
        let switch = Message::SwitchQemuLogdirty { domid: 5, enable: true };
        assert_eq!(sent(switch), [10, 0, 7, 0, 5, 0, 0, 0, 1, 0, 0, 0]);
        let complete = Message::Complete { retval: -1, errno: 9 };
        assert_eq!(sent(complete), [10, 0, 10, 0, 0xff, 0xff, 0xff, 0xff, 9, 0, 0, 0]);
        assert_eq!(sent(Message::StaticDataDone { missing: 2 }), [6, 0, 8, 0, 2, 0, 0, 0]);
        let results = Message::RestoreResults { store: 0xfeff9, console: 0xfefff };
        assert_eq!(
            sent(results),
            [18, 0, 9, 0, 0xf9, 0xef, 0xf, 0, 0, 0, 0, 0, 0xff, 0xef, 0xf, 0, 0, 0, 0, 0]
        );
        let log = Message::Log { level: 1, errno: -1, context: "c", text: "ab" };
        let strings = [2, 0, 0, 0, b'c', 0, 3, 0, 0, 0, b'a', b'b', 0];
        assert_eq!(
            sent(log),
            [&[23, 0, 1, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff][..], &strings].concat()
        );
    }

    #[test]
    fn strings_are_cut_not_refused() {
        let long = "x".repeat(100_000);
        let frame = sent(Message::Log { level: 1, errno: 0, context: "a\0b", text: &long });
        assert_eq!(frame.len(), 2 + 2 + 8 + 4 + 2 + 4 + MAX_STRING + 1);
    }

    #[test]
    fn an_answer_is_four_bytes() {
        assert_eq!(answer(&mut &(-3_i32).to_ne_bytes()[..]).unwrap(), -3);
        assert!(answer(&mut &[0_u8; 3][..]).is_err());
    }
}
