//! The contents of pages: how many were seen before, and how well they compress. Memory is bounded,
//! and the time is less than that of reading the pages.

use std::collections::HashSet;

use migrate_stream::frame::FRAME_HEADER_LEN;
use migrate_stream::libxc::{PAGE_SIZE, PageEntry};
use serde::Serialize;
use twox_hash::XxHash3_64;
use zstd::bulk::Compressor;

/// Most different contents that are remembered. Whenever there are more, half of them are
/// forgotten, and the counts become estimates. The table takes 19 MiB of address space, and of
/// memory only what is used.
const MOST_REMEMBERED: usize = 1 << 20;

/// The contents seen so far, by XXH3 with 64 bits: among a million different pages two have the
/// same hash with a probability of 1 in 37 million.
pub struct Seen {
    hashes: HashSet<u64>,
    /// Only hashes whose lowest `bits` bits are zero are remembered. This samples contents, not
    /// pages: a content is remembered wherever it occurs, or nowhere.
    bits: u32,
    /// Estimated number of pages whose contents were seen before.
    repeated: f64,
}

impl Default for Seen {
    fn default() -> Self {
        Self { hashes: HashSet::with_capacity(MOST_REMEMBERED), bits: 0, repeated: 0.0 }
    }
}

impl Seen {
    /// Takes a page that is not zero. Returns whether its contents are remembered from an earlier
    /// page.
    pub fn page(&mut self, page: &[u8; PAGE_SIZE]) -> bool {
        self.hash(XxHash3_64::oneshot(page))
    }

    fn hash(&mut self, hash: u64) -> bool {
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

    /// Number of pages whose contents were seen before.
    pub fn repeated(&self) -> Count {
        Count { pages: self.repeated as u64, exact: self.bits == 0 }
    }
}

/// A number of pages, counted or estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    pub pages: u64,
    /// Whether the number was counted, not estimated from a sample.
    pub exact: bool,
}

/// zstd's level, the default of `rxl migrate`.
const LEVEL: i32 = 1;

/// Number of pages in a block. A record has up to 1024, so blocks compress slightly less than rxl's
/// frames.
const BLOCK: u32 = 128;

/// Number of bytes that are all compressed. After them only one of [`STRIDE`] blocks is.
const DENSE_BYTES: u64 = 32 << 20;

/// In a long stream one block of this many is compressed. Small blocks from all over the stream
/// give a better estimate than a large one, because one part of memory says little about another.
const STRIDE: u32 = 32;

/// Estimates the size of the pages in rxl's frames by compressing a sample: all pages of a short
/// stream, and of a long one so few that it costs little beside reading it.
pub struct Sampler {
    zstd: Option<Compressor<'static>>,
    /// Number of blocks for which the one under way stands; 0 if it is not compressed.
    weight: u32,
    /// Number of blocks skipped since the last that was compressed.
    skipped: u32,
    /// Number of pages in the block under way.
    pages: u32,
    block: Vec<u8>,
    out: Vec<u8>,
    sampled_pages: u64,
    sampled_bytes: u64,
    packed: u64,
}

/// The estimated size of a stream in rxl's frames.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Compression {
    /// The codec, always `zstd`.
    pub codec: &'static str,
    /// The compression level.
    pub level: i32,
    /// Number of pages in the sample, those of zeroes included.
    pub sampled_pages: u64,
    /// The stream's bytes divided by those of the frames.
    pub ratio: f64,
    /// Bytes of the frames, headers included.
    pub frame_bytes: u64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            zstd: Compressor::new(LEVEL).ok(),
            weight: 1,
            skipped: 0,
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
    /// Takes the next page. `contents` is none if it has none or if they are all zero, because
    /// rxl's frames leave zero pages out.
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
            self.skipped = 0;
        } else {
            self.skipped += 1;
        }
        self.weight = if self.sampled_bytes < DENSE_BYTES {
            1
        } else if self.skipped == STRIDE - 1 {
            STRIDE
        } else {
            0
        };
    }

    fn compressed(&mut self) -> Option<usize> {
        self.out.clear();
        self.out.reserve(zstd::zstd_safe::compress_bound(self.block.len()));
        self.zstd.as_mut()?.compress_to_buffer(&self.block, &mut self.out).ok()
    }

    /// The estimate for a stream of `stream_bytes`, of which `page_bytes` are in `page_records`
    /// PAGE_DATA records. None if there were no pages.
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
        // All other records are few, and are counted without compression.
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
        // Hashes of short texts: those of 3 million pages would take a minute without optimisation.
        for number in 0..3 * MOST_REMEMBERED as u64 {
            seen.hash(XxHash3_64::oneshot(&number.to_le_bytes()));
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
