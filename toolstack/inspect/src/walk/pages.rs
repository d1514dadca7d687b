//! PAGE_DATA records, read page by page: one may have 128 MiB, more than is kept in memory.

use std::io::Read;

use migrate_stream::libxc::{BodyError, PAGE_SIZE, PageData, PageEntry};

use super::{CannotContinue, Location, Sink, StreamWalker};
use crate::finding::Problem;

/// Most pfns of a record whose contents are inspected. libxc writes at most 1024
/// (`MAX_BATCH_SIZE`).
const MOST_PFNS: u32 = 65_536;

/// Number of entries of the list that are read at once.
const ENTRIES: u32 = 8192;

impl<R: Read, S: Sink> StreamWalker<'_, R, S> {
    /// Checks a record's body by the rules of [`PageData::parse`], and reports every wrong entry,
    /// not only the first.
    pub(super) fn page_data(&mut self, at: Location, length: u32) -> Result<(), CannotContinue> {
        if (length as usize) < PageData::LEAST_LEN {
            self.find(
                at,
                BodyError::TooShort { length: length as usize, least: PageData::LEAST_LEN },
            );
            return self.skip(at, length.into());
        }
        let count = self.count(at)?;
        let left = u64::from(length) - PageData::HEADER_LEN as u64;
        let list_len = u64::from(count) * 8;
        if count == 0 {
            self.find(at, BodyError::Value { field: "count", value: 0 });
            return self.skip(at, left);
        }
        if list_len > left {
            let expected = PageData::HEADER_LEN as u64 + list_len;
            self.find(at, BodyError::Length { length: length as usize, expected });
            return self.skip(at, left);
        }
        let contents = self.list(at, count)?;
        let left = left - list_len;
        match contents.map(|pages| pages * PAGE_SIZE as u64) {
            Some(bytes) if bytes == left && count <= MOST_PFNS => self.contents(at, left),
            Some(bytes) if bytes == left => {
                self.find(at, Problem::NotLookedAt { length });
                self.skip(at, left)
            }
            Some(bytes) => {
                let expected = PageData::HEADER_LEN as u64 + list_len + bytes;
                self.find(at, BodyError::Length { length: length as usize, expected });
                self.skip(at, left)
            }
            None => self.skip(at, left),
        }
    }

    fn count(&mut self, at: Location) -> Result<u32, CannotContinue> {
        let head = u64::from_le_bytes(self.array(at)?);
        let (count, reserved) = (head as u32, head >> 32);
        if reserved != 0 {
            self.find(at, BodyError::Reserved { field: "PAGE_DATA's header", value: reserved });
        }
        Ok(count)
    }

    /// Reads the list into [`StreamWalker::entries`] and counts the pages with contents. Returns
    /// none if an entry is wrong, for then the number of pages is not known.
    fn list(&mut self, at: Location, count: u32) -> Result<Option<u64>, CannotContinue> {
        self.entries.clear();
        let (mut pages, mut sound) = (0, true);
        for first in (0..count).step_by(ENTRIES as usize) {
            let bytes = match self.source.exact((count - first).min(ENTRIES) as usize * 8) {
                Ok(bytes) => bytes,
                Err(cut) => return Err(self.cut(at, cut)),
            };
            for (entry, index) in bytes.chunks_exact(8).zip(first as usize..) {
                let value = entry.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
                match PageEntry::parse(index, value) {
                    Ok(entry) => {
                        pages += u64::from(entry.page_type.has_contents());
                        if count <= MOST_PFNS {
                            self.entries.push(entry);
                        }
                    }
                    Err(error) => {
                        sound = false;
                        self.findings.add(at.place, at.offset, error.into());
                    }
                }
            }
        }
        Ok(sound.then_some(pages))
    }

    /// Hands the pages to the sink. `length` is that of their contents.
    fn contents(&mut self, at: Location, length: u64) -> Result<(), CannotContinue> {
        if !self.sink.page_list(&self.entries) {
            return self.skip(at, length);
        }
        let entries = std::mem::take(&mut self.entries);
        for &entry in &entries {
            if !entry.page_type.has_contents() {
                self.sink.page(entry, None);
                continue;
            }
            match self.source.exact(PAGE_SIZE) {
                Ok(page) => self.sink.page(entry, page.first_chunk()),
                Err(cut) => return Err(self.cut(at, cut)),
            }
        }
        self.entries = entries;
        Ok(())
    }
}
