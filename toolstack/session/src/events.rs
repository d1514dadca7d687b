//! What a session waits for, in one queue.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::time::{Duration, Instant};

use crate::gang_words::ToMember;
use rxl_core::notes::Note;
use rxl_core::steering::{Decision, PrecopyStats, SuspendRefused};
use rxl_datapath::broken::Broken;
use rxl_link::control::{Control, Incoming, Message};

/// What a session waits for. `D` is what its end of the data path yields.
#[derive(Debug)]
pub enum Event<D> {
    /// The control channel said something, or is gone.
    Control(Incoming),
    /// libxl told something.
    Note(Note),
    /// The save wants to know something, and waits.
    Asked(Question),
    /// libxl's operation has ended: its result can be fetched without waiting.
    OperationEnded,
    /// The data path has ended.
    Data(Result<D, Broken>),
    /// The leader of the gang that this migration belongs to said something.
    Gang(ToMember),
    /// The user or the system wants it to stop.
    Interrupt,
}

/// A session's queue.
pub struct Events<D> {
    sender: Sender<Event<D>>,
    receiver: Receiver<Event<D>>,
}

impl<D: Send + 'static> Default for Events<D> {
    fn default() -> Self {
        let (sender, receiver) = channel();
        Self { sender, receiver }
    }
}

impl<D: Send + 'static> Events<D> {
    /// An end to put events in. What comes after the session has ended is dropped.
    pub fn sender(&self) -> Sender<Event<D>> {
        self.sender.clone()
    }

    /// The next event, or none at the deadline.
    pub fn next(&self, deadline: Instant) -> Option<Event<D>> {
        let patience = deadline.saturating_duration_since(Instant::now());
        // Never disconnected: this struct holds a sender.
        self.receiver.recv_timeout(patience).ok()
    }

    /// Where an operation's notes go. When its last clone is dropped, [`Event::OperationEnded`]
    /// follows.
    pub fn notes(&self) -> std::io::Result<Sender<Note>> {
        let (notes, queue) = channel();
        let sender = self.sender();
        std::thread::Builder::new().name("notes".into()).spawn(move || {
            for note in queue {
                let _ = sender.send(Event::Note(note));
            }
            let _ = sender.send(Event::OperationEnded);
        })?;
        Ok(notes)
    }
}

/// Starts a control channel whose words come as events.
pub(crate) fn control_channel<D: Send + 'static>(
    events: &Events<D>,
    input: OwnedFd,
    output: OwnedFd,
    patience: Duration,
) -> io::Result<Control> {
    let sender = events.sender();
    Control::start(input, output, patience, move |incoming| {
        let _ = sender.send(Event::Control(incoming));
    })
}

/// A message that does not belong in the state, for the error text.
pub(crate) fn unexpected(message: &Message) -> String {
    let name = message.name();
    format!("the peer said '{name}' out of turn")
}

/// What the save wants to know, with where to send the answer.
#[derive(Debug)]
pub enum Question {
    /// A live iteration has been made: what next?
    Precopy(PrecopyStats, SyncSender<Decision>),
    /// May the guest be asked to suspend?
    Suspend(SyncSender<Result<(), SuspendRefused>>),
}
