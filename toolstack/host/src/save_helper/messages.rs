//! The messages between session and helper: one JSON value a line, over a Unix socket that only
//! root can reach.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use rxl_core::domain::SpecialPages;
use rxl_core::json_lines::{JsonLineError, JsonLines};
use rxl_core::steering::{Decision, PrecopyStats, Walker};
use rxl_xen::Rings;

/// Version of these messages. Session and helper are installed together; another version is
/// refused.
pub const VERSION: u32 = 1;

/// Where the helper finds its session: the path of a socket.
pub const SOCKET_VARIABLE: &str = "RXL_HELPER_SOCKET";

/// Longest message in bytes.
const MAX_LINE: usize = 4096;

const LINES: JsonLines = JsonLines::up_to(MAX_LINE);

/// What the helper sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromHelper {
    /// The first message of a save.
    Hello {
        /// [`VERSION`] of the helper.
        version: u32,
        /// The domain it was started for.
        domid: u32,
    },
    /// The first message of a restore.
    Restore {
        /// [`VERSION`] of the helper.
        version: u32,
        /// The domain that libxl has made for it.
        domid: u32,
        rings: Rings,
    },
    /// libxc walks: asks what comes next.
    Precopy(PrecopyStats),
    /// libxc walks: asks whether the guest may be suspended now.
    MaySuspend,
    /// An order was carried out, or libxl refused.
    Done {
        /// Whether libxl agreed.
        ok: bool,
    },
    /// libxl has sent SIGTERM. The session is to complete the save with a failure.
    Terminated,
}

/// What the session sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToHelper {
    /// Answers the hello: who walks.
    Walk(Walker),
    /// Answers [`FromHelper::Precopy`]: what comes next.
    Decision(Decision),
    /// Answers [`FromHelper::MaySuspend`]: whether it may.
    Allow(bool),
    /// Order: have libxl suspend the guest.
    Suspend,
    /// Order: have libxl switch the device model's log-dirty mode.
    DeviceModelLogDirty { enable: bool },
    /// Order: tell libxl that the save has ended, and exit.
    Complete {
        /// Whether the save succeeded.
        ok: bool,
    },
    /// Order: tell libxl that the domain is restored, and exit.
    Restored {
        /// What the stream lacks (`XGR_SDD_MISSING_*`).
        missing: u32,
        /// Where the guest's pages for xenstored and xenconsoled are.
        special: SpecialPages,
    },
}

/// One end of the socket.
pub struct HelperLine<S> {
    stream: BufReader<S>,
}

impl HelperLine<UnixStream> {
    /// One end of the socket, on which every wait ends after `deadline`.
    pub fn new(stream: UnixStream, deadline: Duration) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(deadline))?;
        stream.set_write_timeout(Some(deadline))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The socket, for polling. It may be silent although [`HelperLine::has_more`].
    pub fn socket(&self) -> &UnixStream {
        self.stream.get_ref()
    }

    /// Whether more was read from the socket than has been received as messages.
    pub fn has_more(&self) -> bool {
        !self.stream.buffer().is_empty()
    }
}

impl<S: Read + Write> HelperLine<S> {
    /// Sends a message.
    pub fn send(&mut self, message: &impl Serialize) -> Result<(), JsonLineError> {
        LINES.write(self.stream.get_mut(), message)
    }

    /// Receives a message. None when the other side is gone.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, JsonLineError> {
        LINES.read(&mut self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (HelperLine<UnixStream>, HelperLine<UnixStream>) {
        let (one, other) = UnixStream::pair().unwrap();
        let deadline = Duration::from_millis(200);
        (HelperLine::new(one, deadline).unwrap(), HelperLine::new(other, deadline).unwrap())
    }

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let (mut helper, mut session) = pair();
        let stats = PrecopyStats { iteration: 3, written: u64::MAX, dirty: 7 };
        let said = [
            FromHelper::Hello { version: 1, domid: 5 },
            FromHelper::Precopy(stats),
            FromHelper::Terminated,
        ];
        said.iter().for_each(|message| helper.send(message).unwrap());
        for message in said {
            assert_eq!(session.receive::<FromHelper>().unwrap(), Some(message));
        }
        session.send(&ToHelper::Decision(Decision::StopAndCopy)).unwrap();
        assert_eq!(
            helper.receive::<ToHelper>().unwrap(),
            Some(ToHelper::Decision(Decision::StopAndCopy))
        );
        drop(session);
        assert_eq!(helper.receive::<ToHelper>().unwrap(), None);
    }

    #[test]
    fn silence_rubbish_and_endless_lines_are_errors() {
        let (mut helper, mut session) = pair();
        assert!(session.receive::<FromHelper>().is_err(), "silence");
        helper.socket().write_all(b"{\"done\":{\"ok\":2}}\n").unwrap();
        assert!(session.receive::<FromHelper>().is_err(), "rubbish");
        helper.socket().write_all(&vec![b' '; MAX_LINE + 1]).unwrap();
        assert!(session.receive::<FromHelper>().is_err(), "endless");
        helper.send(&FromHelper::MaySuspend).unwrap();
    }
}
