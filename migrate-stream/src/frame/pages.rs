//! A PAGE_DATA record without its zero pages.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 4 | count of pfns, little-endian, as in the record |
//! | 4 | 8 × count | the record's list of pfns |
//! | | ⌈n / 8⌉ | bitmap of the n pages with contents, lowest bit first: 1 for a zero page |
//! | | 4096 × m | the m pages whose bit is 0 |
//!
//! Bits of the bitmap behind the last page's are 0. The record's header and reserved fields follow
//! from these fields, so unpacking rebuilds it byte for byte. Both ends compute the record's CRC on
//! the way, at the cost of its non-zero bytes only.

use std::ops::Range;

pub use super::bounds::{LEAST_RECORD_LEN, MAX_OVERHEAD};

use super::bounds::MAX_DECODED;
use super::crc::Crc32;
use crate::fields::Builder;
use crate::iterations::Batch;
use crate::libxc::{
    self, BodyError, PAGE_SIZE, PageData, RECORD_HEADER_LEN, RecordHeader, RecordType,
};

/// Bytes of the record before its list of pfns.
const RECORD_FIXED_LEN: usize = RECORD_HEADER_LEN + PageData::HEADER_LEN;

/// Bytes of the packed form before the list of pfns.
const PACKED_FIXED_LEN: usize = 4;

/// Why a record could not be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    #[error("not a whole PAGE_DATA record")]
    NotPageData,
    /// The record is longer than [`MAX_DECODED`]. It can travel in frames of kind *bytes*.
    #[error("PAGE_DATA record of {0} bytes, at most {MAX_DECODED} fit a frame")]
    TooLong(usize),
    #[error("PAGE_DATA: {0}")]
    Body(#[from] BodyError),
}

/// Why packed pages were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// The decoded length is outside of the bounds of a record's.
    #[error("packed pages for a record of {0} bytes, expected {LEAST_RECORD_LEN} to {MAX_DECODED}")]
    DecodedLength(u32),
    /// The counts and the bitmap in the packed bytes ask for another number of bytes.
    #[error("packed pages of {length} bytes, expected {expected}")]
    Length {
        length: usize,
        /// The right length, or the least that can be told.
        expected: u64,
    },
    /// The record would not be as long as the frame's header says.
    #[error("packed pages make a record of {made} bytes, expected {expected}")]
    RecordLength {
        /// Length that follows from the packed bytes.
        made: u64,
        /// Decoded length in the frame's header.
        expected: u32,
    },
    #[error("packed pages with bits set behind the last page's")]
    BitmapPadding,
    #[error("packed pages: {0}")]
    Body(#[from] BodyError),
}

/// What a record holds, found while it was packed or unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackStats {
    /// Counts of the record's pages, for [`crate::iterations::Iterations`].
    pub batch: Batch,
    /// Number of pages with contents whose bytes are all zero.
    pub zero_pages: u32,
    /// CRC-32 of the whole record, its header included.
    pub crc32: u32,
}

/// Appends the packed form of a PAGE_DATA record (whole, with its header) to `out`.
pub fn pack(record: &[u8], out: &mut Vec<u8>) -> Result<PackStats, PackError> {
    let page_data = parse_record(record)?;
    let pages = page_data.contents_by_page();
    let bitmap = zero_bitmap(pages);
    out.reserve(PACKED_FIXED_LEN + record.len());
    write_head(&page_data, &bitmap, out);
    let mut crc = Crc32::new();
    crc.update(record_head(record, &page_data));
    for (page, zero) in pages.iter().zip(bits(&bitmap)) {
        if zero {
            crc.update_zero_page();
        } else {
            out.extend_from_slice(page);
            crc.update(page);
        }
    }
    let zero_pages = count_ones(&bitmap) as u32;
    Ok(PackStats { batch: Batch::of(&page_data), zero_pages, crc32: crc.value() })
}

/// The packed form of a record as pieces, none of which is a copy of a page: the head, and then
/// parts of the record. A sender that keeps the record's buffer can write them with one `writev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scattered {
    /// The count, the list of pfns and the bitmap.
    pub head: Vec<u8>,
    /// Byte ranges of the record, ascending: its pages that are not zero, neighbours in one range.
    pub runs: Vec<Range<usize>>,
    pub stats: PackStats,
}

/// Finds the packed form of a PAGE_DATA record (whole, with its header). Its bytes are those that
/// [`pack`] appends.
pub fn scatter(record: &[u8]) -> Result<Scattered, PackError> {
    let page_data = parse_record(record)?;
    let (pages, record_head) = (page_data.contents_by_page(), record_head(record, &page_data));
    let bitmap = zero_bitmap(pages);
    let mut head = Vec::with_capacity(record_head.len() + bitmap.len());
    write_head(&page_data, &bitmap, &mut head);
    let mut crc = Crc32::new();
    crc.update(record_head);
    let (mut runs, mut begin) = (Vec::<Range<usize>>::new(), record_head.len());
    for (page, zero) in pages.iter().zip(bits(&bitmap)) {
        let end = begin + PAGE_SIZE;
        if zero {
            crc.update_zero_page();
        } else {
            crc.update(page);
            match runs.last_mut() {
                Some(run) if run.end == begin => run.end = end,
                _ => runs.push(begin..end),
            }
        }
        begin = end;
    }
    let zero_pages = count_ones(&bitmap) as u32;
    let stats = PackStats { batch: Batch::of(&page_data), zero_pages, crc32: crc.value() };
    Ok(Scattered { head, runs, stats })
}

/// Appends the record that `packed` stands for to `out`, with its header. Nothing is allocated
/// before the counts in `packed` have been found to make a record of exactly `decoded_len` bytes.
pub fn unpack(
    packed: &[u8],
    decoded_len: u32,
    out: &mut Vec<u8>,
) -> Result<PackStats, UnpackError> {
    let parts = Parts::split(packed, decoded_len)?;
    let head = fixed_part(parts.pfns.len(), decoded_len);
    let pfns = parts.pfns.as_flattened();
    let mut crc = Crc32::new();
    out.reserve(decoded_len as usize);
    for piece in [head.as_slice(), pfns] {
        out.extend_from_slice(piece);
        crc.update(piece);
    }
    let mut contents = parts.contents.iter();
    for zero in bits(parts.bitmap).take(parts.pages) {
        // `Parts::split` has compared the number of pages with the bitmap, so there is a page for
        // each bit that is 0.
        match if zero { None } else { contents.next() } {
            None => {
                out.resize(out.len() + PAGE_SIZE, 0);
                crc.update_zero_page();
            }
            Some(page) => {
                out.extend_from_slice(page);
                crc.update(page);
            }
        }
    }
    let zero_pages = parts.zero_pages() as u32;
    Ok(PackStats { batch: parts.batch(), zero_pages, crc32: crc.value() })
}

/// Whether a page is all zero. Most pages of an idle guest are; most others show in their first
/// bytes that they are not.
pub fn is_zero(page: &[u8]) -> bool {
    let (lines, rest) = page.as_chunks::<64>();
    lines.iter().all(line_is_zero) && rest.iter().all(|&byte| byte == 0)
}

fn line_is_zero(line: &[u8; 64]) -> bool {
    let (words, _) = line.as_chunks::<8>();
    words.iter().fold(0, |seen, word| seen | u64::from_ne_bytes(*word)) == 0
}

fn zero_bitmap(pages: &[[u8; PAGE_SIZE]]) -> Vec<u8> {
    pages.chunks(8).map(zero_bits).collect()
}

/// Appends the packed form up to the pages.
fn write_head(page_data: &PageData<'_>, bitmap: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(page_data.count() as u32).to_le_bytes());
    out.extend_from_slice(page_data.raw_pfns().as_flattened());
    out.extend_from_slice(bitmap);
}

/// The bitmap's byte for up to eight pages.
fn zero_bits(pages: &[[u8; PAGE_SIZE]]) -> u8 {
    pages.iter().rev().fold(0, |bits, page| bits << 1 | u8::from(is_zero(page)))
}

/// The bits of a bitmap, lowest first.
fn bits(bitmap: &[u8]) -> impl Iterator<Item = bool> {
    bitmap.iter().flat_map(|&byte| (0..8).map(move |bit| byte >> bit & 1 == 1))
}

fn count_ones(bitmap: &[u8]) -> usize {
    bitmap.iter().map(|byte| byte.count_ones() as usize).sum()
}

fn parse_record(record: &[u8]) -> Result<PageData<'_>, PackError> {
    let Some((header, body)) = record.split_first_chunk::<RECORD_HEADER_LEN>() else {
        return Err(PackError::NotPageData);
    };
    let header = RecordHeader::parse(header);
    if header.record_type != RecordType::PageData || header.length as usize != body.len() {
        return Err(PackError::NotPageData);
    }
    if record.len() > MAX_DECODED as usize {
        return Err(PackError::TooLong(record.len()));
    }
    Ok(PageData::parse(body)?)
}

/// The part of a record before its pages' contents.
fn record_head<'a>(record: &'a [u8], page_data: &PageData<'_>) -> &'a [u8] {
    let len = record.len().saturating_sub(page_data.contents().len());
    record.get(..len).unwrap_or(record)
}

/// A record's header, its count of pfns and the reserved bytes. `decoded_len` is at least
/// [`LEAST_RECORD_LEN`].
fn fixed_part(count: usize, decoded_len: u32) -> [u8; RECORD_FIXED_LEN] {
    let length = decoded_len.saturating_sub(RECORD_HEADER_LEN as u32);
    let header = RecordHeader { record_type: RecordType::PageData, length };
    Builder::new()
        .put::<0, RECORD_HEADER_LEN>(header.to_bytes())
        .put::<RECORD_HEADER_LEN, 8>((count as u64).to_le_bytes())
        .bytes()
}

/// The parts of a packed record, whose lengths fit together.
struct Parts<'a> {
    pfns: &'a [[u8; 8]],
    /// Number of pages that have contents in the record.
    pages: usize,
    bitmap: &'a [u8],
    contents: &'a [[u8; PAGE_SIZE]],
}

impl<'a> Parts<'a> {
    fn split(packed: &'a [u8], decoded_len: u32) -> Result<Self, UnpackError> {
        if !(LEAST_RECORD_LEN..=MAX_DECODED).contains(&decoded_len) {
            return Err(UnpackError::DecodedLength(decoded_len));
        }
        let Some((count, rest)) = packed.split_first_chunk::<PACKED_FIXED_LEN>() else {
            let expected = PACKED_FIXED_LEN as u64;
            return Err(UnpackError::Length { length: packed.len(), expected });
        };
        let count = u32::from_le_bytes(*count);
        let (pfns, rest) = take(packed, rest, u64::from(count) * 8)?;
        let (pfns, _) = pfns.as_chunks();
        let pages = libxc::count_contents(pfns)?;
        let made = (RECORD_FIXED_LEN + pfns.len() * 8) as u64 + pages * PAGE_SIZE as u64;
        if pfns.is_empty() || made != u64::from(decoded_len) {
            return Err(UnpackError::RecordLength { made, expected: decoded_len });
        }
        let (bitmap, contents) = take(packed, rest, pages.div_ceil(8))?;
        let pages = pages as usize;
        check_bitmap(packed, pages, bitmap, contents)?;
        Ok(Self { pfns, pages, bitmap, contents: contents.as_chunks().0 })
    }

    fn zero_pages(&self) -> usize {
        count_ones(self.bitmap)
    }

    fn batch(&self) -> Batch {
        Batch::of_list(self.pfns, self.pages)
    }
}

/// Checks that the bitmap has bits for `pages` pages only, and that `contents`, the end of
/// `packed`, are the pages whose bit is 0.
fn check_bitmap(
    packed: &[u8],
    pages: usize,
    bitmap: &[u8],
    contents: &[u8],
) -> Result<(), UnpackError> {
    if !pages.is_multiple_of(8) && bitmap.last().is_some_and(|last| last >> (pages % 8) != 0) {
        return Err(UnpackError::BitmapPadding);
    }
    let nonzero = pages.saturating_sub(count_ones(bitmap)) * PAGE_SIZE;
    if contents.len() != nonzero {
        let expected = (packed.len() - contents.len() + nonzero) as u64;
        return Err(UnpackError::Length { length: packed.len(), expected });
    }
    Ok(())
}

/// The first `length` bytes of `rest`, which is the end of `packed`, and what follows them.
fn take<'a>(
    packed: &[u8],
    rest: &'a [u8],
    length: u64,
) -> Result<(&'a [u8], &'a [u8]), UnpackError> {
    let end = usize::try_from(length).ok();
    end.and_then(|end| rest.split_at_checked(end)).ok_or_else(|| UnpackError::Length {
        length: packed.len(),
        expected: (packed.len() - rest.len()) as u64 + length,
    })
}
