//! What session and helper say to each other: one JSON value a line, over a Unix socket that only
//! root can reach.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use rxl_core::domain::SpecialPages;
use rxl_core::steering::{Decision, PrecopyStats, Walker};
use rxl_xen::Rings;

/// Version of these words. Session and helper are installed together; another version is refused.
pub const VERSION: u32 = 1;

/// Where the helper finds its session: the path of a socket.
pub const SOCKET_VARIABLE: &str = "RXL_HELPER_SOCKET";

/// Longest line in bytes.
const MAX_LINE: u64 = 4096;

/// What the helper says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromHelper {
    /// First of all.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The domain it was started for.
        domid: u32,
    },
    /// First of all, where a domain is to be restored.
    Restore {
        /// [`VERSION`].
        version: u32,
        /// The domain that libxl has made for it.
        domid: u32,
        /// Its rings.
        rings: Rings,
    },
    /// Walking with libxc: what next?
    Precopy(PrecopyStats),
    /// Walking with libxc: may the guest be suspended now?
    MaySuspend,
    /// An order was carried out, or libxl refused.
    Done {
        /// libxl agreed.
        ok: bool,
    },
    /// libxl wants an end (SIGTERM). The session is to complete with a failure.
    Terminated,
}

/// What the session says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToHelper {
    /// In answer to the hello: who walks.
    Walk(Walker),
    /// In answer to [`FromHelper::Precopy`].
    Decision(Decision),
    /// In answer to [`FromHelper::MaySuspend`].
    Allow(bool),
    /// Order: have libxl suspend the guest.
    Suspend,
    /// Order: have libxl switch the device model's log-dirty mode.
    DeviceModelLogDirty {
        /// On or off.
        enable: bool,
    },
    /// Order: tell libxl that the save has ended, and exit.
    Complete {
        /// It worked.
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
pub struct Line<S> {
    stream: BufReader<S>,
}

impl Line<UnixStream> {
    /// Every wait ends after `patience`.
    pub fn new(stream: UnixStream, patience: Duration) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The socket, to wait for, unless [`Line::has_more`].
    pub fn socket(&self) -> &UnixStream {
        self.stream.get_ref()
    }

    /// Something has been read already that has not been heard.
    pub fn has_more(&self) -> bool {
        !self.stream.buffer().is_empty()
    }
}

impl<S: Read + Write> Line<S> {
    /// Says something.
    pub fn say(&mut self, word: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(word)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)
    }

    /// Hears something. None when the other side is gone.
    pub fn hear<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut line = Vec::new();
        (&mut self.stream).take(MAX_LINE).read_until(b'\n', &mut line)?;
        match line.pop() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
            Some(_) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a line that was cut or is too long",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Line<UnixStream>, Line<UnixStream>) {
        let (one, other) = UnixStream::pair().unwrap();
        let patience = Duration::from_millis(200);
        (Line::new(one, patience).unwrap(), Line::new(other, patience).unwrap())
    }

    #[test]
    fn words_arrive_as_they_were_said() {
        let (mut helper, mut session) = pair();
        let stats = PrecopyStats { iteration: 3, written: u64::MAX, dirty: 7 };
        let said = [
            FromHelper::Hello { version: 1, domid: 5 },
            FromHelper::Precopy(stats),
            FromHelper::Terminated,
        ];
        said.iter().for_each(|word| helper.say(word).unwrap());
        for word in said {
            assert_eq!(session.hear::<FromHelper>().unwrap(), Some(word));
        }
        session.say(&ToHelper::Decision(Decision::StopAndCopy)).unwrap();
        assert_eq!(
            helper.hear::<ToHelper>().unwrap(),
            Some(ToHelper::Decision(Decision::StopAndCopy))
        );
        drop(session);
        assert_eq!(helper.hear::<ToHelper>().unwrap(), None);
    }

    #[test]
    fn silence_rubbish_and_endless_lines_are_errors() {
        let (mut helper, mut session) = pair();
        assert!(session.hear::<FromHelper>().is_err(), "silence");
        helper.socket().write_all(b"{\"done\":{\"ok\":2}}\n").unwrap();
        assert!(session.hear::<FromHelper>().is_err(), "rubbish");
        helper.socket().write_all(&vec![b' '; MAX_LINE as usize + 1]).unwrap();
        assert!(session.hear::<FromHelper>().is_err(), "endless");
        helper.say(&FromHelper::MaySuspend).unwrap();
    }
}
