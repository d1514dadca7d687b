//! A member's end of its line to the leader.

use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::events::Event;
use crate::gang_words::{Ended, FromMember, ToMember, hear, say};
use rxl_core::deadlines;
use rxl_core::error::Failure;
use rxl_core::io::{Cancel, Guarded};
use rxl_core::json_lines::JsonLineError;
use rxl_core::worker::Worker;
use rxl_report::mpi::MpiPart;

/// What is told when the leader is gone.
const LEADERLESS: &str = "the rxl that started this one is gone";

/// A member's end of its line to the leader. Dropping it closes the line.
pub struct GangMember {
    to: Guarded,
    closed: Receiver<MpiPart>,
    _listener: Worker,
}

impl GangMember {
    /// Takes the line. The leader's words come as [`Event::Gang`], but for the last; its end as an
    /// [`ToMember::Abort`].
    pub fn new<D: Send + 'static>(
        line: UnixStream,
        events: Sender<Event<D>>,
    ) -> Result<Self, Failure> {
        let broken = |e| Failure::internal("the line to the leader", &e);
        let cancel = Cancel::new().map_err(broken)?;
        let (figures, closed) = channel();
        let from = line
            .try_clone()
            .and_then(|line| Guarded::new(OwnedFd::from(line), cancel.clone(), None));
        let from = from.map_err(broken)?;
        let to = Guarded::new(OwnedFd::from(line), cancel.clone(), Some(deadlines::GANG_MESSAGE))
            .map_err(broken)?;
        let listen = move || {
            let reason = listen(BufReader::new(from), &figures, &events);
            let _ = events.send(Event::Gang(ToMember::Abort { reason }));
        };
        let listener = Worker::with_cancel("gang", cancel, listen).map_err(broken)?;
        Ok(Self { to, closed, _listener: listener })
    }

    /// Says something. A leader that is gone is told of by an event.
    pub fn say(&mut self, word: &FromMember) {
        if let Err(error) = say(&mut self.to, word) {
            tracing::debug!("the line to the leader: {error}");
        }
    }

    /// The job's figures, once the leader has closed its epoch. None when it is gone.
    pub fn closed(&self) -> Option<MpiPart> {
        self.closed.recv_timeout(deadlines::GANG_CLOSE).ok()
    }
}

/// The last word, when [`GangMember`] is gone.
pub fn end(line: UnixStream, ended: Ended) -> Result<(), Failure> {
    let to = Cancel::new().and_then(|cancel| {
        Guarded::new(OwnedFd::from(line), cancel, Some(deadlines::GANG_MESSAGE))
    });
    let said = to
        .map_err(JsonLineError::from)
        .and_then(|mut to| say(&mut to, &FromMember::Ended(Box::new(ended))));
    said.map_err(|error| Failure::internal("the line to the leader", &error.into()))
}

/// Until the end, and why that came.
fn listen<D>(
    mut from: BufReader<Guarded>,
    figures: &Sender<MpiPart>,
    events: &Sender<Event<D>>,
) -> String {
    loop {
        match hear(&mut from) {
            Ok(Some(ToMember::Closed { figures: all })) => drop(figures.send(*all)),
            Ok(Some(word)) => drop(events.send(Event::Gang(word))),
            Ok(None) => return LEADERLESS.into(),
            Err(error) => return format!("the line to the leader: {error}"),
        }
    }
}
