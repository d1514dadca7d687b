//! How a save's questions reach the session's queue, and its answers the save.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::events::{Event, Question};
use rxl_core::deadlines;
use rxl_core::steering::{Decision, PrecopyStats, Steering, SuspendRefused};
use rxl_datapath::iterations::Iteration;

/// How often a wait looks whether the session has given up.
const GLANCE: Duration = Duration::from_millis(20);

/// The smallest iteration that tells a rate.
const TELLING_ITERATION: u64 = 256;

/// What the session tells the save unasked.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    given_up: Arc<AtomicBool>,
    hurry: Arc<AtomicBool>,
}

impl Signals {
    /// No question will be answered any more.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::SeqCst);
    }

    /// Pre-copy is to end now, in the middle of an iteration where that can be.
    pub fn hurry(&self) {
        self.hurry.store(true, Ordering::SeqCst);
    }
}

/// The save's end.
pub struct Desk<D> {
    events: Sender<Event<D>>,
    signals: Signals,
}

impl<D> Desk<D> {
    /// Questions go to `events`.
    pub fn new(events: Sender<Event<D>>, signals: Signals) -> Self {
        Self { events, signals }
    }

    fn ask<A>(&self, question: impl FnOnce(SyncSender<A>) -> Question) -> Option<A> {
        let (reply, answer) = sync_channel(1);
        self.events.send(Event::Asked(question(reply))).ok()?;
        self.wait(&answer)
    }

    fn wait<A>(&self, answer: &Receiver<A>) -> Option<A> {
        let deadline = Instant::now() + deadlines::SESSION_ANSWER;
        while !self.signals.given_up.load(Ordering::SeqCst) && Instant::now() < deadline {
            match answer.recv_timeout(GLANCE) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        None
    }
}

/// Without an answer nothing more is done to the guest.
impl<D: Send> Steering for Desk<D> {
    fn precopy(&mut self, stats: &PrecopyStats) -> Decision {
        self.ask(|reply| Question::Precopy(*stats, reply)).unwrap_or(Decision::Abort)
    }

    fn is_due(&self) -> bool {
        self.signals.hurry.load(Ordering::SeqCst)
    }

    fn suspend(&mut self) -> Result<(), SuspendRefused> {
        self.ask(Question::Suspend).unwrap_or(Err(SuspendRefused::Unanswered))
    }
}

/// Pages a second that the target restored in the last iteration that was large enough to tell.
pub fn pages_per_second(iterations: &[Iteration]) -> Option<f64> {
    let live = || iterations.iter().filter(|iteration| !iteration.suspended);
    let telling = live()
        .rev()
        .find(|iteration| iteration.pages >= TELLING_ITERATION)
        .or_else(|| live().next())?;
    let seconds = telling.ended.duration_since(telling.began).as_secs_f64();
    (seconds > 0.0 && telling.pages > 0).then(|| telling.pages as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_question_gets_the_sessions_answer() {
        let (sender, events) = channel::<Event<()>>();
        let mut desk = Desk::new(sender, Signals::default());
        let session = std::thread::spawn(move || match events.recv().unwrap() {
            Event::Asked(Question::Precopy(stats, reply)) => {
                reply.send(Decision::StopAndCopy).unwrap();
                stats.dirty
            }
            _ => panic!(),
        });
        let stats = PrecopyStats { iteration: 1, written: 5, dirty: 3 };
        assert_eq!(desk.precopy(&stats), Decision::StopAndCopy);
        assert_eq!(session.join().unwrap(), 3);
    }

    #[test]
    fn a_session_that_is_gone_or_has_given_up_is_not_waited_for() {
        let (sender, events) = channel::<Event<()>>();
        let signals = Signals::default();
        let mut desk = Desk::new(sender, signals.clone());
        signals.give_up();
        assert!(desk.suspend().is_err());
        drop(events);
        let stats = PrecopyStats { iteration: 1, written: 5, dirty: 3 };
        assert_eq!(desk.precopy(&stats), Decision::Abort);
    }
}
