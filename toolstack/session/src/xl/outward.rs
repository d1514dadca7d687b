//! The receiver as the destination of a domain, over xl's wire.

use std::sync::Arc;
use std::time::Instant;

use crate::events::{Event, Events};
use crate::outgoing::{Answer, Destination, Measurements, Wire};
use crate::xl::line::{Line, Said, Word};
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_datapath::broken::{Broken, Cause};
use rxl_datapath::plain::Copier;

/// The receiver, with libxl's stream that is on its way to it.
pub struct XlDestination {
    line: Line,
    /// None once the data path has been ended.
    copier: Option<Copier>,
    sent: bool,
    ready: bool,
}

impl XlDestination {
    pub fn new(line: Line, copier: Copier) -> Self {
        Self { line, copier: Some(copier), sent: false, ready: false }
    }

    /// READY may overtake the data path's own word that the last byte is written.
    fn hear(&mut self, word: Word) -> Result<(), Failure> {
        let what = match word {
            Word::Ready if !self.ready => {
                self.ready = true;
                return Ok(());
            }
            Word::Garbled(what) => format!("{}: {what}", self.line.host),
            Word::Ended => self.line.last_words(),
            other => format!("{}: {other:?} came out of turn", self.line.host),
        };
        Err(Failure::new(Exit::FailedSourceRuns, what))
    }

    /// The next word after GO. A Ctrl-C is too late here.
    fn await_word(&mut self, events: &Events<Said>) -> Result<Word, String> {
        let deadline = Instant::now() + deadlines::DONE;
        loop {
            match events.next(deadline) {
                Some(Event::Data(Ok(Said::Word(Word::Garbled(what))))) => return Err(what),
                Some(Event::Data(Ok(Said::Word(Word::Ended)))) => {
                    return Err(self.line.last_words());
                }
                Some(Event::Data(Ok(Said::Word(word)))) => return Ok(word),
                Some(_) => {}
                None => return Err(format!("no answer in {} s", deadlines::DONE.as_secs())),
            }
        }
    }

    /// The receiver has not started it. Only when it says that its copy is gone may this one run.
    fn not_started(&mut self, status: u8, events: &Events<Said>) -> Answer {
        let reported = format!("could not start it, status {status}{}", self.line.heard());
        match self.await_word(events) {
            Ok(Word::GivenBack) => Answer::GivenBack(format!("{} {reported}", self.line.host)),
            Ok(other) => Answer::Unknown(format!("it {reported}, and then said {other:?}")),
            Err(reason) => {
                Answer::Unknown(format!("it {reported}, and did not give it back: {reason}"))
            }
        }
    }
}

impl Destination for XlDestination {
    type Data = Said;

    fn name(&self) -> &str {
        &self.line.host
    }

    fn take_data(&mut self, said: Said, measured: &mut Measurements) -> Result<(), Failure> {
        match said {
            Said::Copied(copied) => {
                measured.copied(copied);
                self.sent = true;
                Ok(())
            }
            Said::Word(word) => self.hear(word),
        }
    }

    fn is_sent(&self) -> bool {
        self.sent
    }

    fn is_ready(&self) -> bool {
        self.ready
    }

    fn path_failure(&self, broken: &Broken) -> Failure {
        let what = format!("data to {}: {broken}", self.line.host);
        Failure::new(Exit::FailedSourceRuns, what).caused_by(broken.clone())
    }

    fn abandon(&self) {
        if let Some(copier) = &self.copier {
            copier.abandon();
        }
    }

    fn end_data(&mut self) {
        self.copier = None;
    }

    /// The receiver, whose input ends, destroys what it has.
    fn wind_up(self, _failure: &Failure, events: &Events<Said>) {
        self.line.wind_up(events);
    }
}

impl Wire for XlDestination {
    /// xl has no agents: what one is to be told has no place in its protocol.
    fn say_go(&mut self, _agent_command: Option<String>) -> Result<(), Cause> {
        self.line.say_go().map_err(|error| Arc::new(error) as Cause)
    }

    /// What the receiver does after a good report, it does without us.
    fn await_answer(&mut self, events: &Events<Said>) -> Answer {
        match self.await_word(events) {
            Ok(Word::Report(0)) => Answer::Runs(None),
            Ok(Word::Report(status)) => self.not_started(status, events),
            Ok(other) => Answer::Unknown(format!("{other:?} came out of turn")),
            Err(reason) => Answer::Unknown(reason),
        }
    }

    fn close(self, events: &Events<Said>) {
        self.line.wind_up(events);
    }
}
