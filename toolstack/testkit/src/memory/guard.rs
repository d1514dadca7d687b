//! Guards in memory.

use std::sync::mpsc::Sender;
use std::time::Duration;

use rxl_host::guard_line::{Listener, Word};

/// A guard that only hears: what it is told goes to the test.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) words: Sender<Word>,
    /// How long it takes to exit.
    pub(super) exit: Duration,
}

impl Drop for Heard {
    fn drop(&mut self) {
        std::thread::sleep(self.exit);
    }
}

impl Listener for Heard {
    fn tell(&self, word: &Word) -> std::io::Result<()> {
        // A test that has ended hears nothing more.
        let _ = self.words.send(word.clone());
        Ok(())
    }
}
