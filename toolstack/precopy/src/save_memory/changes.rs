//! What an iteration has to send: the pages that were written to, and those that came and went.

use super::census::Change;
use super::{BATCH, Memory, PageKind, SaveError, Walk, bitmap};

impl<M: Memory> Walk<'_, M> {
    /// Returns what was dirtied since the last time, with what has come and gone unnoted. What is
    /// seen to change after the CLEAN belongs to the next time: a page that is given then is
    /// writable, unnoted, until the next CLEAN.
    pub(super) fn collect(&mut self, last: bool) -> Result<Vec<u64>, SaveError> {
        let before = self.ask_end()?;
        self.look()?;
        let change = self.census.take_change();
        self.save.memory.collect_dirty(last).map_err(SaveError::guest)?;
        let came_again = std::mem::take(&mut self.came_again);
        if change == Change::Unnoted {
            tracing::info!("the guest was given memory meanwhile: all pages are sent once more");
            return Ok(bitmap::from(0, self.end));
        }
        let mut dirty = self.save.memory.dirty().to_vec();
        bitmap::merge(&mut dirty, &bitmap::from(before, self.end));
        came_again.into_iter().for_each(|pfn| bitmap::put(&mut dirty, pfn, true));
        if change == Change::Noted {
            self.add_given_back(&mut dirty)?;
        }
        Ok(dirty)
    }

    /// Asks for the highest page number, and returns what it was.
    pub(super) fn ask_end(&mut self) -> Result<u64, SaveError> {
        let end = self.save.memory.pfns().map_err(SaveError::guest)?;
        let before = std::mem::replace(&mut self.end, end);
        if end > before {
            self.census.grew();
        }
        Ok(before)
    }

    pub(super) fn look(&mut self) -> Result<(), SaveError> {
        let resident = self.save.memory.resident().map_err(SaveError::guest)?;
        self.census.look(resident);
        if self.save.memory.take_growth() {
            self.census.grew();
        }
        Ok(())
    }

    /// Adds the pages that the target has and the guest no longer.
    fn add_given_back(&mut self, dirty: &mut Vec<u64>) -> Result<(), SaveError> {
        let (mut from, mut kinds) = (0, Vec::new());
        loop {
            let pfns = self.census.sent_from(from, BATCH);
            let Some(last) = pfns.last() else { return Ok(()) };
            from = last + 1;
            self.save.memory.kinds(&pfns, &mut kinds).map_err(SaveError::guest)?;
            for (pfn, kind) in pfns.iter().zip(&kinds) {
                if *kind != PageKind::Ram {
                    bitmap::put(dirty, *pfn, true);
                }
            }
        }
    }
}
