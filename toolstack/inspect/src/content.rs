//! What pages hold: zeroes, contents seen before, and what compression would make of them. In
//! bounded memory and in less time than it takes to read them.

use std::collections::HashSet;

use migrate_stream::frame::FRAME_HEADER_LEN;
use migrate_stream::libxc::{PAGE_SIZE, PageEntry};
use serde::Serialize;
use twox_hash::XxHash3_64;
use zstd::bulk::Compressor;

/// Different contents that are remembered. When there are more, every second one is forgotten,
/// again and again, and the counts become estimates. 19 MiB, of which only what is used counts.
const MOST_REMEMBERED: usize = 1 << 20;

/// Tells contents that have come before from new ones, by XXH3's 64 bits: two of a million
/// different pages share them with a probability of 1 in 37 million.
pub struct Seen {
    hashes: HashSet<u64>,
    /// Hashes are remembered whose lowest so many bits are zero: a sample of contents, not of
    /// pages, so that a content is either remembered wherever it comes or never.
    bits: u32,
    /// Pages taken while so many bits counted, and those of them that had come before: for contents
    /// in the sample.
    repeated: f64,
}

impl Default for Seen {
    fn default() -> Self {
        Self { hashes: HashSet::with_capacity(MOST_REMEMBERED), bits: 0, repeated: 0.0 }
    }
}

impl Seen {
    /// Takes a page that is not zero. Whether its contents have come before, as far as is
    /// remembered.
    pub fn page(&mut self, page: &[u8; PAGE_SIZE]) -> bool {
        let hash = XxHash3_64::oneshot(page);
        if !self.samples(hash) {
            return false;
        }
        if !self.hashes.insert(hash) {
            self.repeated += self.weight();
            return true;
        }
        if self.hashes.len() == MOST_REMEMBERED {
            self.bits += 1;
            let bits = self.bits;
            self.hashes.retain(|hash| hash.trailing_zeros() >= bits);
        }
        false
    }

    fn samples(&self, hash: u64) -> bool {
        hash.trailing_zeros() >= self.bits
    }

    fn weight(&self) -> f64 {
        f64::from(self.bits).exp2()
    }

    /// Pages whose contents had come before.
    pub fn repeated(&self) -> Count {
        Count { pages: self.repeated as u64, exact: self.bits == 0 }
    }
}

/// A number of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// How many.
    pub pages: u64,
    /// Counted, not estimated from a sample.
    pub exact: bool,
}

/// The level that `rxl migrate` uses when no other is asked for.
const LEVEL: i32 = 1;

/// Pages of a block. A record has up to 1024, so blocks compress a little less well than rxl's
/// frames do.
const BLOCK: u32 = 128;

/// Bytes that are compressed before only one of [`STRIDE`] blocks is.
const DENSE_BYTES: u64 = 32 << 20;

/// Of a long stream every so many-th block is compressed: small ones from everywhere, because one
/// part of memory tells little of another.
const STRIDE: u32 = 32;

/// Estimates what rxl's frames would make of the pages, by compressing some of them: short streams
/// whole, of long ones a part that costs little beside reading them.
pub struct Sampler {
    zstd: Option<Compressor<'static>>,
    /// Blocks that the one under way stands for; 0: it is passed over.
    weight: u32,
    /// Blocks passed over since the last that was not.
    passed: u32,
    /// Pages of the block so far.
    pages: u32,
    block: Vec<u8>,
    out: Vec<u8>,
    sampled_pages: u64,
    sampled_bytes: u64,
    packed: u64,
}

/// What compression would make of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Compression {
    /// `zstd`.
    pub codec: &'static str,
    /// zstd's level.
    pub level: i32,
    /// Pages that were compressed to estimate it, those of zeroes included.
    pub sampled_pages: u64,
    /// The stream's bytes over those of its frames.
    pub ratio: f64,
    /// Bytes of the frames, headers included.
    pub frame_bytes: u64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            zstd: Compressor::new(LEVEL).ok(),
            weight: 1,
            passed: 0,
            pages: 0,
            block: Vec::new(),
            out: Vec::new(),
            sampled_pages: 0,
            sampled_bytes: 0,
            packed: 0,
        }
    }
}

impl Sampler {
    /// Takes the next page; `contents` where there are some that are not zero, for rxl's frames
    /// leave zeroes out.
    pub fn page(&mut self, page: PageEntry, contents: Option<&[u8; PAGE_SIZE]>) {
        if self.weight > 0 {
            self.block.extend_from_slice(&page.value().to_le_bytes());
            self.block.extend_from_slice(contents.map_or(&[], |contents| contents));
        }
        self.pages += 1;
        if self.pages == BLOCK {
            self.end();
        }
    }

    /// Ends the block under way.
    fn end(&mut self) {
        self.sampled_pages += u64::from(self.pages) * u64::from(self.weight > 0);
        self.pages = 0;
        if self.weight > 0 {
            let length = self.compressed().unwrap_or(self.block.len()).min(self.block.len());
            self.packed += length as u64 * u64::from(self.weight);
            self.sampled_bytes += self.block.len() as u64;
            self.block.clear();
            self.passed = 0;
        } else {
            self.passed += 1;
        }
        self.weight = match self.sampled_bytes < DENSE_BYTES {
            true => 1,
            false if self.passed == STRIDE - 1 => STRIDE,
            false => 0,
        };
    }

    fn compressed(&mut self) -> Option<usize> {
        self.out.clear();
        self.out.reserve(zstd::zstd_safe::compress_bound(self.block.len()));
        self.zstd.as_mut()?.compress_to_buffer(&self.block, &mut self.out).ok()
    }

    /// For a stream of so many bytes, of which so many in so many PAGE_DATA records. None: there
    /// were no pages.
    pub fn estimate(
        mut self,
        stream_bytes: u64,
        page_records: u64,
        page_bytes: u64,
    ) -> Option<Compression> {
        if self.pages > 0 {
            self.end();
        }
        if self.sampled_pages == 0 {
            return None;
        }
        // What is not pages is little, and is taken as it is.
        let others = stream_bytes.saturating_sub(page_bytes);
        let frame_bytes = self.packed + page_records * FRAME_HEADER_LEN as u64 + others;
        let ratio = stream_bytes as f64 / frame_bytes.max(1) as f64;
        Some(Compression {
            codec: "zstd",
            level: LEVEL,
            sampled_pages: self.sampled_pages,
            ratio,
            frame_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: u64) -> [u8; PAGE_SIZE] {
        let mut page = [0; PAGE_SIZE];
        page[..8].copy_from_slice(&(number + 1).to_le_bytes());
        page
    }

    #[test]
    fn repeated_contents_are_counted_exactly_while_they_fit() {
        let mut seen = Seen::default();
        let repeated = (0..3000).filter(|number| seen.page(&page(number % 1000))).count();
        assert_eq!((repeated, seen.repeated()), (2000, Count { pages: 2000, exact: true }));
    }

    #[test]
    fn beyond_that_they_are_estimated_well() {
        let mut seen = Seen { bits: 5, ..Seen::default() };
        for round in 0..3 {
            (0..40_000 - round).for_each(|number| _ = seen.page(&page(number)));
        }
        let Count { pages, exact } = seen.repeated();
        assert!(!exact && (70_000..90_000).contains(&pages), "{pages} of about 80,000");
        assert!(seen.hashes.len() < 2 * 40_000 / 32);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seen = Seen::default();
        for hash in 0..3 * MOST_REMEMBERED as u64 {
            seen.page(&page(hash));
        }
        assert!(
            seen.hashes.len() < MOST_REMEMBERED && seen.bits == 2,
            "{} {}",
            seen.hashes.len(),
            seen.bits
        );
        assert_eq!(seen.repeated(), Count { pages: 0, exact: false });
    }
}
