//! Has what is on its way arrive before the downtime begins.
//!
//! libxl's save helper takes an iteration for done when its last byte is in the pipe, and then
//! looks for what was dirtied since, or suspends the guest. But between that pipe and the target's
//! libxl there is room for many megabytes: frames under way on both sides, ssh's buffers, sockets.
//! On a slow link the guest would be suspended seconds before the iteration has arrived, and all of
//! it would be drained inside the downtime.
//!
//! ```text
//!  save helper           source                                  target
//!    | iteration 1,
//!    | batch 1 to n-2 -----> frames -------------------------------> libxl
//!    | batch n-1           |  not read: the helper waits in write()
//!    |                     | <------------------- Restored{frames} |  all of it has arrived
//!    | batch n-1, n -------> frames -------------------------------> libxl
//!    | CLEAN: what was dirtied until now, not until some seconds ago
//! ```
//! So the source stops reading libxl's pipe just before the end of a live iteration, until the
//! target's libxl has taken all the frames before. A batch of 1024 pages does not fit into the
//! pipe, hence the helper waits too, while the guest runs. What the helper cannot know about the
//! link it so learns by back-pressure. In the last iteration there is nothing to wait for.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::iterations::Iterations;
use rxl_core::deadlines;

/// Pages in the largest batch that libxc writes (xg_sr_common.h: MAX_BATCH_SIZE).
const BATCH_PAGES: u64 = 1024;

/// Why a wait for the target ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BacklogError {
    #[error("waiting for the target to restore frame {frame}: given up")]
    GivenUp { frame: u64 },
    #[error("waiting for the target to restore frame {frame}: it took nothing for {seconds} s")]
    Stalled { frame: u64, seconds: u64 },
}

/// Number of frames that the target's libxl has taken, to be waited for.
#[derive(Debug, Default)]
pub struct Backlog {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    restored: u64,
    closed: bool,
    /// Longest time in which the target takes nothing, where it is not [`deadlines::STALL`].
    stall: Option<Duration>,
}

impl Backlog {
    /// Notes how many frames, from the first on, the target's libxl has taken.
    pub fn restored(&self, frames: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.restored = state.restored.max(frames);
        self.changed.notify_all();
    }

    /// Ends all waits, those under way and those to come, as the data path is being given up.
    pub fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_all();
    }

    /// Bears a target that takes nothing for so long.
    pub fn bear(&self, stall: Duration) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stall = Some(stall);
    }

    /// Waits until the target's libxl has taken so many frames, at most [`deadlines::STALL`] or
    /// what is to be borne.
    pub fn wait(&self, frames: u64) -> Result<(), BacklogError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stall = state.stall.unwrap_or(deadlines::STALL);
        let deadline = Instant::now() + stall;
        while state.restored < frames {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed {
                return Err(BacklogError::GivenUp { frame: frames });
            }
            if left.is_zero() {
                let seconds = stall.as_secs();
                return Err(BacklogError::Stalled { frame: frames, seconds });
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

/// Whether the helper's next batch, of this many pfns, is one of the last two of a live iteration.
pub fn ends_live_iteration(iterations: &Iterations, pfns: u64) -> bool {
    iterations.left_in_live_iteration().is_some_and(|left| left.saturating_sub(pfns) < BATCH_PAGES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rxl_core::notes::NoteKind;
    use std::sync::Arc;

    #[test]
    fn it_waits_until_the_target_has_restored() {
        let backlog = Arc::new(Backlog::default());
        let waiting = backlog.clone();
        let waiter = std::thread::spawn(move || waiting.wait(5));
        backlog.restored(4);
        backlog.restored(5);
        // An older message changes nothing.
        backlog.restored(3);
        waiter.join().unwrap().unwrap();
        backlog.close();
        assert_eq!(backlog.wait(6), Err(BacklogError::GivenUp { frame: 6 }));
    }

    #[test]
    fn only_the_end_of_a_live_pass_is_held() {
        let mut iterations = Iterations::default();
        assert!(!ends_live_iteration(&iterations, 1024), "nothing is known yet");
        iterations.note(&NoteKind::Progress {
            what: "Frames iteration 0".into(),
            done: 0,
            total: 3076,
        });
        let now = Instant::now();
        assert!(!ends_live_iteration(&iterations, 1024));
        iterations.batch(0, 1023, 1024, now);
        assert!(!ends_live_iteration(&iterations, 1024), "two more will follow");
        iterations.batch(1024, 2047, 1024, now);
        assert!(ends_live_iteration(&iterations, 1024), "the last large one");
        iterations.batch(2048, 3071, 1024, now);
        assert!(ends_live_iteration(&iterations, 4));
        iterations.note(&NoteKind::Progress {
            what: "Domain now suspended".into(),
            done: 0,
            total: 0,
        });
        assert!(!ends_live_iteration(&iterations, 4), "the guest stands still");
    }
}
