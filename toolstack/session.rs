//! One migration, from either end.
//!
//! ```text
//!  source                                         target
//!  Connect    ssh, Hello                          Connect
//!  Check      the domain, Offer                   Check     name, memory, Xen; Accept | Refuse
//!  Setup      data connections, libxl saves       Setup     libxl restores, as NAME--incoming
//!  Precopy    passes over memory                  Precopy
//!  Suspend    the guest stands still              .
//!  LastPages  last pass, state, StreamEnd         Ready     digest agrees, a paused copy stands there
//!  ================================ Commit ================================
//!  rename to NAME--migratedaway, Go  ---------->  Resume    rename to NAME, unpause
//!  destroy its copy                  <----------  Done
//! ```
//! Above the line every failure leads back to the domain running at the source and nothing left at
//! the target. Below it the source never runs the domain again, unless the target itself says that
//! it could not run it and has destroyed its copy. The two sides of the line are different types,
//! [`source::Uncommitted`] and [`source::Committed`], so that the code above cannot do what only
//! the code below may, and the other way round. At the target they are [`target::Receiving`] and
//! [`target::Holding`].
//!
//! Everything a session waits for comes as an [`Event`] through one queue, so every wait is one
//! call with a deadline.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::control::{Control, Incoming, Message};
use crate::data::Broken;
use crate::gang::words::ToMember;
use crate::host::Note;
use crate::io::{Cancel, Guarded};
pub use crate::session::steering::Question;

pub mod check;
pub mod job;
mod leaving;
mod link;
pub mod monitor;
mod record;
pub mod restoring;
pub mod source;
mod steering;
pub mod target;
pub mod xl;

/// Suffix of a domain that is being received, as xl's.
pub const INCOMING: &str = "--incoming";

/// Suffix of a domain that has been given away, as xl's.
pub const MIGRATED_AWAY: &str = "--migratedaway";

/// Longest time in which no byte moves on a data connection or to or from libxl, while the control
/// channel is alive. A guest may take libxl's 60 s to acknowledge a suspend and 60 s more to carry
/// it out.
pub const STALL_PATIENCE: Duration = Duration::from_secs(180);

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
fn control_channel<D: Send + 'static>(
    events: &Events<D>,
    input: OwnedFd,
    output: OwnedFd,
    patience: Duration,
) -> io::Result<Control> {
    let cancel = Cancel::new()?;
    let input = Guarded::new(input, cancel.clone(), Some(patience))?;
    let output = Guarded::new(output, cancel.clone(), Some(patience))?;
    let sender = events.sender();
    Control::start(input, output, cancel, move |incoming| {
        let _ = sender.send(Event::Control(incoming));
    })
}

/// A message that does not belong in the state, for the error text.
fn unexpected(message: &Message) -> String {
    let text = serde_json::to_string(message).unwrap_or_default();
    let name = text.split('"').nth(3).unwrap_or("?").to_owned();
    format!("the peer said '{name}' out of turn")
}
