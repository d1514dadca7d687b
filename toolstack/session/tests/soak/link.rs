//! The connection between two sessions: messages in order, and the stream's bytes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use rxl_core::io::Cancel;
use rxl_link::control::{Incoming, Message};

use crate::places::Side;
use crate::plan::Cut;

/// Takes what comes; none is an interrupt of the session's process.
type Deliver = Box<dyn Fn(Option<Incoming>) + Send>;

/// What is on its way to one end.
#[derive(Default)]
struct Way {
    to: Option<Deliver>,
    queue: VecDeque<Incoming>,
    stalled: bool,
    /// Nothing more enters it.
    closed: bool,
    /// Its end has been told that the link is lost.
    lost: bool,
}

impl Way {
    fn pump(&mut self) {
        let Some(to) = self.to.as_ref().filter(|_| !self.stalled) else { return };
        for incoming in self.queue.drain(..) {
            self.lost |= matches!(incoming, Incoming::Lost(_));
            to(Some(incoming));
        }
    }
}

#[derive(Default)]
pub struct Link {
    ways: [Mutex<Way>; 2],
    pub data: Data,
}

impl Link {
    fn with<T>(&self, to: Side, act: impl FnOnce(&mut Way) -> T) -> T {
        let mut way = self.ways[to as usize].lock().unwrap();
        let acted = act(&mut way);
        way.pump();
        acted
    }

    /// What comes to this end goes there.
    pub fn connect(&self, side: Side, to: impl Fn(Option<Incoming>) + Send + 'static) {
        self.with(side, |way| way.to = Some(Box::new(to)));
    }

    /// The user or the system wants the session at this end to stop.
    pub fn interrupt(&self, side: Side) {
        self.with(side, |way| way.to.as_ref().map(|to| to(None)));
    }

    pub fn send(&self, from: Side, message: Message) {
        self.with(from.other(), |way| {
            if !way.closed {
                way.queue.push_back(Incoming::Message(message));
            }
        });
    }

    /// Whether this end knows that nothing more can be sent.
    pub fn is_known_lost(&self, side: Side) -> bool {
        self.with(side, |way| way.lost)
    }

    pub fn stall(&self, to: Side, stalled: bool) {
        self.with(to, |way| way.stalled = stalled);
    }

    /// Nothing more gets through. What is on its way arrives where so said. False where it was cut
    /// before.
    pub fn cut(&self, cut: &Cut) -> bool {
        let mut first = true;
        for side in [Side::Source, Side::Target] {
            self.with(side, |way| {
                first &= !way.closed;
                if !way.closed && !cut.arrives[side as usize] {
                    way.queue.clear();
                }
                way.closed = true;
            });
        }
        self.data.cut(cut.arrives[Side::Target as usize]);
        first
    }

    /// This end notices that the link is lost.
    pub fn notice(&self, side: Side) {
        self.with(side, |way| {
            way.closed = true;
            way.queue.push_back(Incoming::Lost("cut".into()));
        });
        self.data.notice(side);
    }

    /// The process at this end is gone. Its kernel tells the other end, unless the link is cut.
    pub fn close(&self, side: Side) {
        self.with(side, |way| {
            way.to = None;
            way.queue.clear();
            way.closed = true;
        });
        let told = self.with(side.other(), |way| {
            if !way.closed {
                way.queue.push_back(Incoming::Lost("closed".into()));
            }
            !std::mem::replace(&mut way.closed, true)
        });
        if told {
            self.data.notice(side.other());
        }
    }

    /// Wakes whoever waits at this end, so that it finds that its host is off.
    pub fn wake(&self, side: Side) {
        self.with(side, |way| {
            way.queue.clear();
            if let Some(to) = &way.to {
                to(Some(Incoming::Lost("power".into())));
            }
        });
        self.data.notice(side);
    }
}

/// The stream's bytes on their way.
#[derive(Default)]
pub struct Data {
    inner: Mutex<Bytes>,
    changed: Condvar,
}

#[derive(Default)]
struct Bytes {
    queue: VecDeque<Vec<u8>>,
    ended: bool,
    cut: bool,
    noticed: [bool; 2],
}

/// The connection is gone.
#[derive(Debug, thiserror::Error)]
#[error("the data connection is gone")]
pub struct Gone;

impl Data {
    fn with<T>(&self, act: impl FnOnce(&mut Bytes) -> T) -> T {
        let acted = act(&mut self.inner.lock().unwrap());
        self.changed.notify_all();
        acted
    }

    fn cut(&self, arrives: bool) {
        self.with(|bytes| {
            bytes.cut = true;
            if !arrives {
                bytes.queue.clear();
                bytes.ended = false;
            }
        });
    }

    fn notice(&self, side: Side) {
        self.with(|bytes| bytes.noticed[side as usize] = true);
    }

    pub fn write(&self, chunk: &[u8]) -> Result<(), Gone> {
        self.with(|bytes| {
            if bytes.noticed[Side::Source as usize] {
                return Err(Gone);
            }
            if !bytes.cut {
                bytes.queue.push_back(chunk.to_vec());
            }
            Ok(())
        })
    }

    pub fn end(&self) {
        self.with(|bytes| bytes.ended = !bytes.cut);
    }

    /// The next bytes; none at the end.
    pub fn read(&self, cancel: &Cancel) -> Result<Option<Vec<u8>>, Gone> {
        const GLANCE: Duration = Duration::from_millis(2);
        let mut bytes = self.inner.lock().unwrap();
        loop {
            if cancel.pulled() {
                return Err(Gone);
            }
            if let Some(chunk) = bytes.queue.pop_front() {
                return Ok(Some(chunk));
            }
            if bytes.ended {
                return Ok(None);
            }
            if bytes.noticed[Side::Target as usize] {
                return Err(Gone);
            }
            bytes = self.changed.wait_timeout(bytes, GLANCE).unwrap().0;
        }
    }
}
