//! A bounded window over a sequence: what many threads finish in any order leaves in order, and
//! never more than the window's width is under way.
//!
//! Both sides of the data path are built on it. A frame is *admitted* when its number is less than
//! `next + width`, worked on by any thread, *put* back when done, and *taken* in order. Work is
//! admitted before it is queued, so whatever waits in a queue is inside the window and `put` never
//! blocks. The frame that everybody waits for is always inside too: no order of arrival, on however
//! many connections, can make the threads wait for one another in a circle.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A bounded window over numbered items, which leave in order.
pub struct Window<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    width: u64,
}

struct State<T> {
    /// Number of the item that is taken next.
    next: u64,
    /// Items from `next` on; `None` is still under way.
    items: VecDeque<Option<T>>,
    /// One past the last number, once known.
    end: Option<u64>,
    sealed: bool,
    closed: bool,
}

/// The window was closed, as the pipeline is being given up, or the next item will never come.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed;

/// Why an item was not accepted.
#[derive(Debug, PartialEq, Eq)]
pub enum PutError {
    /// The window was closed.
    Closed,
    /// An item of this number was put or taken before, or was never admitted.
    OutOfPlace,
}

impl<T> Window<T> {
    /// A window in which at most `width` items are under way.
    pub fn new(width: usize) -> Self {
        let state = State {
            next: 0,
            items: VecDeque::with_capacity(width),
            end: None,
            sealed: false,
            closed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), width: width.max(1) as u64 }
    }

    /// Number of items that may be under way at once.
    pub fn width(&self) -> usize {
        usize::try_from(self.width).unwrap_or(usize::MAX)
    }

    /// Blocks until the item of this number may be worked on. Only [`Window::close`] ends the wait
    /// early.
    pub fn admit(&self, sequence: u64) -> Result<(), Closed> {
        let mut state = self.lock();
        while !state.closed && sequence >= state.next.saturating_add(self.width) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed { Err(Closed) } else { Ok(()) }
    }

    /// Puts a finished item into its place. Never blocks.
    pub fn put(&self, sequence: u64, item: T) -> Result<(), PutError> {
        let mut state = self.lock();
        if state.closed {
            return Err(PutError::Closed);
        }
        let place = sequence.checked_sub(state.next).filter(|place| *place < self.width);
        let place = usize::try_from(place.ok_or(PutError::OutOfPlace)?)
            .map_err(|_| PutError::OutOfPlace)?;
        while state.items.len() <= place {
            state.items.push_back(None);
        }
        let place = state.items.get_mut(place).ok_or(PutError::OutOfPlace)?;
        if place.replace(item).is_some() {
            return Err(PutError::OutOfPlace);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Takes the next item in order, waiting for it. `Ok(None)` is the end.
    pub fn take(&self) -> Result<Option<(u64, T)>, Closed> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return Err(Closed);
            }
            if state.end == Some(state.next) {
                return Ok(None);
            }
            if let Some(item) = state.items.front_mut().and_then(Option::take) {
                let sequence = state.next;
                state.items.pop_front();
                state.next += 1;
                self.changed.notify_all();
                return Ok(Some((sequence, item)));
            }
            if state.sealed {
                return Err(Closed);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sets how many items there are in all. `take` gives `None` after the last of them.
    pub fn finish(&self, count: u64) {
        self.lock().end = Some(count);
        self.changed.notify_all();
    }

    /// Notes that nothing more will be put: `take` returns what is there in order, and [`Closed`]
    /// where an item is missing.
    pub fn seal(&self) {
        self.lock().sealed = true;
        self.changed.notify_all();
    }

    /// Closes the window: every call, waiting or to come, returns [`Closed`], and finished items
    /// are dropped.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.items.clear();
        self.changed.notify_all();
    }

    /// Locks the state, poisoned or not: each change of it is complete before anything that could
    /// panic.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn what_is_put_in_any_order_is_taken_in_order() {
        let window = Window::new(3);
        for sequence in [2, 0, 1] {
            window.admit(sequence).unwrap();
            window.put(sequence, sequence * 10).unwrap();
        }
        window.finish(3);
        let taken: Vec<_> = std::iter::from_fn(|| window.take().unwrap()).collect();
        assert_eq!(taken, [(0, 0), (1, 10), (2, 20)]);
    }

    #[test]
    fn an_item_twice_or_outside_is_refused() {
        let window = Window::new(2);
        window.put(1, ()).unwrap();
        assert_eq!(window.put(1, ()), Err(PutError::OutOfPlace));
        assert_eq!(window.put(2, ()), Err(PutError::OutOfPlace));
        window.put(0, ()).unwrap();
        window.take().unwrap();
        assert_eq!(window.put(0, ()), Err(PutError::OutOfPlace));
        assert_eq!(window.put(u64::MAX, ()), Err(PutError::OutOfPlace));
    }

    #[test]
    fn a_missing_item_is_noticed_once_sealed() {
        let window = Window::new(3);
        window.put(0, ()).unwrap();
        window.put(2, ()).unwrap();
        window.finish(3);
        window.seal();
        assert_eq!(window.take(), Ok(Some((0, ()))));
        assert_eq!(window.take(), Err(Closed));
    }

    #[test]
    fn closing_ends_every_wait() {
        let window = Window::<()>::new(1);
        std::thread::scope(|scope| {
            let admit = scope.spawn(|| window.admit(5));
            let take = scope.spawn(|| window.take());
            window.close();
            assert_eq!(admit.join().unwrap(), Err(Closed));
            assert_eq!(take.join().unwrap(), Err(Closed));
        });
    }

    /// Two "connections", one far ahead of the other, four workers, a window of three: nothing may
    /// get stuck.
    #[test]
    fn a_connection_far_ahead_cannot_block_the_one_behind() {
        const COUNT: u64 = 1000;
        let window = Window::new(3);
        let underway = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for connection in 0..2 {
                let (window, underway) = (&window, &underway);
                scope.spawn(move || {
                    for sequence in (connection..COUNT).step_by(2) {
                        window.admit(sequence).unwrap();
                        // One more than the width: the taker counts down a moment after it made
                        // room.
                        assert!(underway.fetch_add(1, Ordering::SeqCst) <= 3);
                        if connection == 0 {
                            std::thread::yield_now();
                        }
                        window.put(sequence, sequence).unwrap();
                    }
                });
            }
            window.finish(COUNT);
            for expected in 0..COUNT {
                assert_eq!(window.take().unwrap(), Some((expected, expected)));
                underway.fetch_sub(1, Ordering::SeqCst);
            }
            assert_eq!(window.take().unwrap(), None);
        });
    }
}
