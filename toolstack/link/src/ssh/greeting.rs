//! What comes from a host before the program that was started there answers.
//!
//! A login shell may print on standard output before it runs a command: a start-up file that
//! echoes, a host's message of the day. `rxl receive` therefore greets, and what came before is
//! logged and left out. `rxl agent serve` answers in lines of JSON, which tell themselves apart.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{AGENT_SERVER, RECEIVER};
use crate::descriptor::Descriptor;
use rxl_core::deadlines;
use rxl_core::io::pipe;
use rxl_core::text::one_line;

/// The first bytes that `rxl receive` writes to its standard output. On a data connection they say
/// that the session has got it.
pub const GREETING: &[u8] = b"\nrxl receive: ready\n";

/// Most bytes that a host may print before the program answers.
const MAX_PRINTED: usize = 64 << 10;

/// How much is read at once, in bytes.
const CHUNK: usize = 8 << 10;

/// How a program's answer is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It follows [`GREETING`].
    Greeted,
    /// It is a line of JSON: an object or a string.
    Json,
}

impl Answer {
    /// How the answer of a program that rxl starts is known; none where anything is its answer.
    pub fn of(program: &str) -> Option<Self> {
        match program {
            RECEIVER => Some(Self::Greeted),
            AGENT_SERVER => Some(Self::Json),
            _ => None,
        }
    }

    /// Where the answer begins in what has come. The first `searched` bytes hold no beginning.
    fn begins(self, came: &[u8], searched: usize) -> Option<usize> {
        match self {
            Self::Greeted => {
                let from = searched.saturating_sub(GREETING.len());
                let mut windows = came.get(from..).unwrap_or_default().windows(GREETING.len());
                windows.position(|found| found == GREETING).map(|at| from + at + GREETING.len())
            }
            Self::Json => {
                let starts = came.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
                let mut starts = [0].into_iter().chain(starts.map(|(at, _)| at + 1));
                starts.find(|start| matches!(came.get(*start), Some(b'{' | b'"')))
            }
        }
    }
}

/// Whether the program has answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Awaited,
    Answered,
    /// The output has ended before, or too much was printed.
    Ended,
}

#[derive(Debug, Default)]
struct Heard {
    stage: Stage,
    /// The first line that the host printed before.
    printed: Option<String>,
}

/// Passes a program's output on from its answer on. Dropping it stops that.
#[derive(Debug)]
pub(super) struct Relay {
    heard: watch::Receiver<Heard>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Starts it. What comes from the program can be read from the descriptor. `exit` is readable
    /// once the process that the output comes from has ended.
    pub fn start(
        runtime: &Handle,
        answer: Answer,
        host: &str,
        from: OwnedFd,
        exit: Option<AsyncFd<OwnedFd>>,
    ) -> io::Result<(Self, OwnedFd)> {
        let (reading, writing) = pipe()?;
        let (tell, heard) = watch::channel(Heard::default());
        let output = Output {
            from: Descriptor::new(runtime, from)?,
            to: Descriptor::new(runtime, writing)?,
            exit,
            host: host.into(),
            tell,
        };
        let task = runtime.spawn(output.relay(answer));
        Ok((Self { heard, task }, reading))
    }

    /// Waits for the program's answer. False where it will not come.
    pub async fn answered(&mut self) -> bool {
        let over = self.heard.wait_for(|heard| heard.stage != Stage::Awaited).await;
        over.is_ok_and(|heard| heard.stage == Stage::Answered)
    }

    /// The first line that the host has printed in place of the program's answer.
    pub fn printed(&self) -> Option<String> {
        let heard = self.heard.borrow();
        heard.printed.clone().filter(|_| heard.stage != Stage::Answered)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Output {
    from: Descriptor,
    to: Descriptor,
    exit: Option<AsyncFd<OwnedFd>>,
    host: String,
    tell: watch::Sender<Heard>,
}

impl Output {
    async fn relay(self, answer: Answer) {
        let begun = self.answer(answer).await.ok().flatten();
        let stage = if begun.is_some() { Stage::Answered } else { Stage::Ended };
        self.tell.send_modify(|heard| heard.stage = stage);
        if let Some(begun) = begun {
            if let Some(line) = &self.tell.borrow().printed {
                tracing::info!(target: "remote", "{} printed before rxl: {line}", self.host);
            }
            // An error means that nobody reads any more.
            let _ = self.pass_on(begun).await;
        }
    }

    /// The beginning of the answer, as far as it has come; none where it will not come.
    async fn answer(&self, answer: Answer) -> io::Result<Option<Vec<u8>>> {
        let (mut came, mut searched) = (Vec::new(), 0);
        while came.len() < MAX_PRINTED {
            let mut chunk = [0; CHUNK];
            let read = self.read(&mut chunk).await?;
            came.extend_from_slice(chunk.get(..read).unwrap_or_default());
            let begins = answer.begins(&came, searched);
            self.note(came.get(..begins.unwrap_or(came.len())).unwrap_or_default());
            if let Some(begins) = begins {
                return Ok(Some(came.split_off(begins)));
            }
            if read == 0 {
                break;
            }
            searched = came.len();
        }
        Ok(None)
    }

    /// Keeps the first line that was printed before the answer.
    fn note(&self, printed: &[u8]) {
        let text = String::from_utf8_lossy(printed.strip_suffix(GREETING).unwrap_or(printed));
        let first = text.lines().map(one_line).find(|line| !line.is_empty());
        self.tell.send_modify(|heard| heard.printed = first);
    }

    /// Reads what is there, or waits for it. 0 at the end, and where the process has ended and
    /// nothing more comes: one that it left behind may hold the other end for ever.
    async fn read(&self, chunk: &mut [u8]) -> io::Result<usize> {
        let Some(exit) = &self.exit else { return self.from.read(chunk).await };
        tokio::select! {
            biased;
            read = self.from.read(chunk) => return read,
            _ = exit.readable() => {}
        }
        timeout(deadlines::LAST_WORDS, self.from.read(chunk)).await.unwrap_or(Ok(0))
    }

    async fn pass_on(&self, begun: Vec<u8>) -> io::Result<()> {
        self.to.write_all(&begun, deadlines::STALL).await?;
        let mut chunk = [0; CHUNK];
        loop {
            let read = self.read(&mut chunk).await?;
            let Some(bytes) = chunk.get(..read).filter(|_| read > 0) else { return Ok(()) };
            self.to.write_all(bytes, deadlines::STALL).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_wherever_it_begins() {
        let came = [b"hello\nworld".as_slice(), GREETING, b"xyz"].concat();
        let answer = came.len() - 3;
        for searched in 0..answer {
            assert_eq!(Answer::Greeted.begins(&came[..searched], 0), None, "{searched}");
            assert_eq!(Answer::Greeted.begins(&came, searched), Some(answer), "{searched}");
        }
        assert_eq!(Answer::Greeted.begins(b"hello\n", 0), None);
    }

    #[test]
    fn lines_before_json_are_left_out() {
        assert_eq!(Answer::Json.begins(b"{\"a\":1}\n", 0), Some(0));
        assert_eq!(Answer::Json.begins(b"Welcome {x}\n\"done\"\n", 0), Some(12));
        assert_eq!(Answer::Json.begins(b"Welcome\n", 0), None);
    }
}
