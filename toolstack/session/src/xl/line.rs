//! The sender's end of the connection: what the receiver says comes as events, in its order, until
//! its end.

use std::io::Read;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use migrate_stream::xl::{BANNER, GO, READY, REPORT};

use crate::events::{Event, Events};
use crate::xl::wire::{WireError, read_word, say, say_go};
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, Guarded};
use rxl_datapath::plain::Copied;
use rxl_link::ssh::{Remote, Retries, Route};

/// How often a wait looks whether the receiver has ended.
const GLANCE: Duration = Duration::from_millis(20);

/// What the receiver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It waits for a domain.
    Banner,
    /// A paused copy stands there.
    Ready,
    /// Its status: 0 when the domain is running there.
    Report(u8),
    /// It has destroyed its copy.
    GivenBack,
    /// What came is none of these. One line.
    Garbled(String),
    /// It has ended: nothing follows.
    Ended,
}

/// What a sender waits for besides libxl.
#[derive(Clone, Debug)]
pub enum Said {
    /// All of libxl's stream has been written.
    Copied(Copied),
    /// The receiver has said something.
    Word(Word),
}

/// The connection. Dropping it ends the receiver's input, and the process behind it.
pub struct Line {
    to: Option<Guarded>,
    listener: Option<JoinHandle<()>>,
    cancel: Cancel,
    remote: Remote,
    /// The target as the user named it.
    pub host: String,
}

impl Line {
    /// Starts the receiver and waits until it is there. A host that turns the connection away is
    /// tried again.
    pub fn open(route: &Route, program: &str, events: &Events<Said>) -> Result<Self, Failure> {
        let mut retries = Retries::until(Instant::now() + deadlines::CONNECT);
        loop {
            let mut line = Self::start(route, program, events)?;
            let failure = match line.await_banner(events) {
                Ok(()) => return Ok(line),
                Err(failure) => failure,
            };
            let Some(pause) = retries.after(&failure, line.remote.was_turned_away()) else {
                return Err(failure);
            };
            tracing::info!("{}; it is tried again", failure.what);
            drop(line);
            if let Some(Event::Interrupt) = events.next(Instant::now() + pause) {
                return Err(cancelled());
            }
        }
    }

    fn start(route: &Route, program: &str, events: &Events<Said>) -> Result<Self, Failure> {
        let (remote, pipes) = Remote::start(route, program)?;
        let broken = |e| Failure::internal("connection", &e);
        let cancel = Cancel::new().map_err(broken)?;
        // Silence is no sign of anything: a receiver says nothing while it receives.
        let from = Guarded::new(pipes.from, cancel.clone(), None).map_err(broken)?;
        let to = Guarded::new(pipes.to, cancel.clone(), Some(deadlines::STALL)).map_err(broken)?;
        let queue = events.sender();
        let tell = move |word| {
            let _ = queue.send(Event::Data(Ok(Said::Word(word))));
        };
        let listener =
            std::thread::Builder::new().name("xl-in".into()).spawn(move || listen(from, tell));
        let listener = Some(listener.map_err(broken)?);
        Ok(Self { to: Some(to), listener, cancel, remote, host: route.host().into() })
    }

    fn await_banner(&mut self, events: &Events<Said>) -> Result<(), Failure> {
        let deadline = Instant::now() + deadlines::CONNECT;
        loop {
            match events.next(deadline) {
                Some(Event::Data(Ok(Said::Word(Word::Banner)))) => return Ok(()),
                Some(Event::Data(Ok(Said::Word(Word::Garbled(what))))) => {
                    let failure = Failure::new(
                        Exit::NoPeer,
                        format!("no xl receives on {}: {what}", self.host),
                    );
                    return Err(failure.next(
                        "a login there may print something; `xl migrate-receive` alone must answer",
                    ));
                }
                Some(Event::Interrupt) => return Err(cancelled()),
                Some(Event::Data(Ok(Said::Word(_)))) | None => {
                    return Err(self.remote.post_mortem());
                }
                Some(_) => {}
            }
        }
    }

    /// A second handle to send on, with a cancel of its own.
    pub fn sending(&self, cancel: Cancel) -> std::io::Result<Guarded> {
        let closed = || std::io::Error::from(std::io::ErrorKind::NotConnected);
        self.to.as_ref().ok_or_else(closed)?.with(cancel, deadlines::STALL)
    }

    /// Sends what comes before the stream.
    pub fn say(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let said = self.to.as_mut().ok_or(WireError::Closed).and_then(|to| say(to, bytes));
        said.map_err(|_| self.remote.post_mortem())
    }

    /// Says GO. An error means that not one byte of it has left.
    pub fn say_go(&mut self) -> Result<(), WireError> {
        say_go(self.to.as_mut().ok_or(WireError::Closed)?)
    }

    /// Why the receiver has ended, in its own words where it has any.
    pub fn last_words(&mut self) -> String {
        // For what it hears. ssh's exit status says little of a receiver that was there.
        self.remote.post_mortem();
        format!("the receiver on {} has ended{}", self.host, self.heard())
    }

    /// What it has said on standard error, in brackets, if anything.
    pub fn heard(&self) -> String {
        self.remote.heard()
    }

    /// Ends the receiver's input, and listens until it has cleaned up: xl's leaves its copy
    /// standing when nobody does.
    pub fn wind_up(mut self, events: &Events<Said>) {
        self.to = None;
        let deadline = Instant::now() + deadlines::XL_CLEAN_UP;
        let is_over = || self.listener.as_ref().is_none_or(JoinHandle::is_finished);
        while !is_over() && Instant::now() < deadline {
            // Nothing that comes now matters.
            let _ = events.next(Instant::now() + GLANCE);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.to = None;
        self.remote.end(Duration::from_secs(5));
        self.cancel.pull();
        if let Some(listener) = self.listener.take() {
            // A panic in it has been printed.
            let _ = listener.join();
        }
    }
}

fn cancelled() -> Failure {
    Failure::new(Exit::Cancelled, "cancelled before anything began")
}

/// Reads until the end, whatever comes: a receiver must not be held up, nor find the connection
/// closed.
fn listen(mut from: Guarded, tell: impl Fn(Word)) {
    if let Err(error) = hear(&mut from, &tell) {
        tell(Word::Garbled(error.to_string()));
    }
    let mut scrap = [0; 4096];
    while matches!(from.read(&mut scrap), Ok(length) if length > 0) {}
    tell(Word::Ended);
}

/// What a receiver says, in its order. An end is no error here: [`listen`] tells of it.
fn hear(from: &mut impl Read, tell: &impl Fn(Word)) -> Result<(), WireError> {
    let mut from = Ending { from, ended: false };
    let heard = hear_words(&mut from, tell);
    if from.ended { Ok(()) } else { heard }
}

fn hear_words(from: &mut impl Read, tell: &impl Fn(Word)) -> Result<(), WireError> {
    read_word(from, BANNER, "its banner")?;
    tell(Word::Banner);
    read_word(from, READY, "READY")?;
    tell(Word::Ready);
    read_word(from, REPORT, "its report")?;
    let mut status = [0];
    let read = from.read_exact(&mut status);
    read.map_err(|error| WireError::Read { what: "its status", error })?;
    let [status] = status;
    tell(Word::Report(status));
    if status != 0 {
        read_word(from, GO, "the domain's return")?;
        tell(Word::GivenBack);
    }
    Ok(())
}

/// Notes whether the end has been met.
struct Ending<R> {
    from: R,
    ended: bool,
}

impl<R: Read> Read for Ending<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let length = self.from.read(buf);
        self.ended |= !matches!(length, Ok(1..));
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rxl_link::ssh::XL_RECEIVER;
    use std::cell::RefCell;

    fn heard(words: &[&[u8]]) -> Vec<Word> {
        let (said, told) = (words.concat(), RefCell::new(Vec::new()));
        let tell = |word| told.borrow_mut().push(word);
        if let Err(error) = hear(&mut &said[..], &tell) {
            tell(Word::Garbled(error.to_string()));
        }
        told.into_inner()
    }

    #[test]
    fn words_come_in_their_order_and_no_other() {
        use Word::{Banner, GivenBack, Ready, Report};
        assert_eq!(heard(&[BANNER, READY, REPORT, &[0]]), [Banner, Ready, Report(0)]);
        assert_eq!(
            heard(&[BANNER, READY, REPORT, &[0xff], GO]),
            [Banner, Ready, Report(0xff), GivenBack]
        );
        // A cut is an end, not a word.
        assert_eq!(heard(&[BANNER, READY, REPORT, &[3], &GO[..20]]), [Banner, Ready, Report(3)]);
        assert_eq!(heard(&[BANNER, READY, &REPORT[..38]]), [Banner, Ready]);
        assert_eq!(heard(&[]), []);
        for wrong in [
            &[READY as &[u8]][..],
            &[BANNER, GO],
            &[BANNER, READY, GO],
            &[BANNER, READY, REPORT, &[1], READY],
        ] {
            assert!(matches!(heard(wrong).last(), Some(Word::Garbled(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_host_that_turns_it_away_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let banner = "xl migration receiver ready, send binary domain data.";
        let away = "echo kex_exchange_identification: closed >&2; exit 255";
        let first = dir.path().join("first");
        let script = format!(
            "mkdir {} 2>/dev/null && {{ {away}; }}; echo {banner}; exec cat >/dev/null",
            first.display()
        );
        let route = Route::Verbatim(format!("sh -c '{script}'"));
        let line = Line::open(&route, XL_RECEIVER, &Events::default()).unwrap();
        assert!(first.exists());
        line.wind_up(&Events::default());
        let events = Events::default();
        events.sender().send(Event::Interrupt).unwrap();
        let never = Route::Verbatim(format!("sh -c '{away}'"));
        assert_eq!(Line::open(&never, XL_RECEIVER, &events).err().unwrap().exit, Exit::Cancelled);
    }
}
