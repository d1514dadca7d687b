//! A PAGE_DATA record without its zero pages.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 4 | count of pfns, little-endian, as in the record |
//! | 4 | 8 × count | the record's list of pfns |
//! | | ⌈n / 8⌉ | a bit for each of the n pages with contents, lowest bit first: 1 for a page of zeroes; the rest 0 |
//! | | 4096 × m | the m pages whose bit is 0 |
//!
//! The record's header and reserved fields follow from these, so unpacking rebuilds it byte for
//! byte. The CRC of the record is computed on the way by both ends, at the cost of its non-zero
//! bytes only.

use super::crc::Crc32;
use super::header::MAX_DECODED;
use crate::bytes::{le32, le64};
use crate::libxc::{
    self, BodyError, PAGE_SIZE, PageData, RECORD_HEADER_LEN, RecordHeader, RecordType,
};
use crate::rounds::Batch;

/// The shortest record, in bytes with its header: one pfn without contents.
pub const LEAST_RECORD_LEN: u32 = (RECORD_HEADER_LEN + PageData::LEAST_LEN) as u32;

/// How many bytes a packed record can be longer than the record, when no page is zero: the bitmap,
/// less the fields that are left out. The bitmap of the longest record has fewer bytes than this.
pub const MAX_OVERHEAD: u32 = 132;

/// Bytes of the record before its list of pfns.
const RECORD_FIXED_LEN: usize = RECORD_HEADER_LEN + PageData::HEADER_LEN;

/// Bytes before the list of pfns in packed form.
const PACKED_FIXED_LEN: usize = 4;

/// Why a record could not be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// It is not a whole PAGE_DATA record.
    #[error("not a whole PAGE_DATA record")]
    NotPageData,
    /// It is longer than [`MAX_DECODED`]; it can travel as plain bytes.
    #[error("PAGE_DATA record of {0} bytes, at most {MAX_DECODED} fit a frame")]
    TooLong(usize),
    /// Its body is malformed.
    #[error("PAGE_DATA: {0}")]
    Body(#[from] BodyError),
}

/// Why packed pages were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// The decoded length is none that a record can have.
    #[error("packed pages for a record of {0} bytes, expected {LEAST_RECORD_LEN} to {MAX_DECODED}")]
    DecodedLength(u32),
    /// The packed bytes are not as many as they ask for themselves.
    #[error("packed pages of {length} bytes, expected {expected}")]
    Length {
        /// What there is.
        length: usize,
        /// What there should be, at least.
        expected: u64,
    },
    /// The record would not be as long as the frame says.
    #[error("packed pages make a record of {made} bytes, expected {expected}")]
    RecordLength {
        /// What they make.
        made: u64,
        /// What the frame says.
        expected: u32,
    },
    /// Bits behind the last page's are set.
    #[error("packed pages with bits set behind the last page's")]
    BitmapPadding,
    /// The list of pfns is malformed.
    #[error("packed pages: {0}")]
    Body(#[from] BodyError),
}

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackStats {
    /// Its pfns, for [`crate::rounds::Rounds`].
    pub batch: Batch,
    /// Of the pages with contents, those that are all zero.
    pub zero_pages: u32,
    /// CRC-32 of the whole record, its header included.
    pub crc32: u32,
}

/// Appends a PAGE_DATA record (whole, with its header) to `out` in packed form.
pub fn pack(record: &[u8], out: &mut Vec<u8>) -> Result<PackStats, PackError> {
    let page_data = parse_record(record)?;
    let pages = page_data.contents_count();
    out.reserve(PACKED_FIXED_LEN + record.len());
    out.extend_from_slice(&(page_data.count() as u32).to_le_bytes());
    out.extend_from_slice(page_data.raw_pfns());
    let bitmap = out.len();
    out.resize(bitmap + pages.div_ceil(8), 0);
    let mut crc = Crc32::new();
    crc.update(&record[..record.len() - page_data.contents().len()]);
    let mut zero_pages = 0;
    for (index, page) in page_data.contents().chunks_exact(PAGE_SIZE).enumerate() {
        if is_zero(page) {
            out[bitmap + index / 8] |= 1 << (index % 8);
            crc.update_zero_page();
            zero_pages += 1;
        } else {
            out.extend_from_slice(page);
            crc.update(page);
        }
    }
    Ok(PackStats { batch: Batch::of(&page_data), zero_pages, crc32: crc.value() })
}

/// Appends the record that `packed` stands for to `out`, with its header. Nothing is allocated
/// before the counts in `packed` have been found to make a record of exactly `decoded_len` bytes.
pub fn unpack(
    packed: &[u8],
    decoded_len: u32,
    out: &mut Vec<u8>,
) -> Result<PackStats, UnpackError> {
    let parts = Parts::split(packed, decoded_len)?;
    let begin = out.len();
    out.reserve(decoded_len as usize);
    write_fixed(parts.pfns.len() / 8, decoded_len, out);
    out.extend_from_slice(parts.pfns);
    let mut crc = Crc32::new();
    crc.update(&out[begin..]);
    let mut contents = parts.contents;
    for index in 0..parts.pages {
        if parts.is_zero(index) {
            out.resize(out.len() + PAGE_SIZE, 0);
            crc.update_zero_page();
        } else {
            let (page, rest) = contents.split_at(PAGE_SIZE);
            out.extend_from_slice(page);
            crc.update(page);
            contents = rest;
        }
    }
    Ok(PackStats {
        batch: parts.batch(),
        zero_pages: parts.zero_pages() as u32,
        crc32: crc.value(),
    })
}

/// Whether a page is all zero. Most pages of an idle guest are, and most others show it in their
/// first bytes.
pub fn is_zero(page: &[u8]) -> bool {
    let lines = page.chunks_exact(64);
    let rest = lines.remainder();
    let line_is_zero = |line: &[u8]| (0..8).fold(0, |seen, word| seen | le64(line, word * 8)) == 0;
    lines.into_iter().all(line_is_zero) && rest.iter().all(|&byte| byte == 0)
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

fn write_fixed(count: usize, decoded_len: u32, out: &mut Vec<u8>) {
    let length = decoded_len - RECORD_HEADER_LEN as u32;
    let header = RecordHeader { record_type: RecordType::PageData, length };
    out.extend_from_slice(&header.to_bytes());
    out.extend_from_slice(&(count as u64).to_le_bytes());
}

/// The parts of a packed record, which fit together.
struct Parts<'a> {
    pfns: &'a [u8],
    /// Pages with contents.
    pages: usize,
    bitmap: &'a [u8],
    contents: &'a [u8],
}

impl<'a> Parts<'a> {
    fn split(packed: &'a [u8], decoded_len: u32) -> Result<Self, UnpackError> {
        if !(LEAST_RECORD_LEN..=MAX_DECODED).contains(&decoded_len) {
            return Err(UnpackError::DecodedLength(decoded_len));
        }
        let (count, rest) = take(packed, packed, PACKED_FIXED_LEN as u64)?;
        let (pfns, rest) = take(packed, rest, u64::from(le32(count, 0)) * 8)?;
        let pages = libxc::count_contents(pfns)?;
        let made = (RECORD_FIXED_LEN + pfns.len()) as u64 + pages * PAGE_SIZE as u64;
        if pfns.is_empty() || made != u64::from(decoded_len) {
            return Err(UnpackError::RecordLength { made, expected: decoded_len });
        }
        let (bitmap, contents) = take(packed, rest, pages.div_ceil(8))?;
        let parts = Self { pfns, pages: pages as usize, bitmap, contents };
        parts.check(packed)?;
        Ok(parts)
    }

    fn check(&self, packed: &[u8]) -> Result<(), UnpackError> {
        if !self.pages.is_multiple_of(8)
            && self.bitmap.last().is_some_and(|last| last >> (self.pages % 8) != 0)
        {
            return Err(UnpackError::BitmapPadding);
        }
        let nonzero = (self.pages - self.zero_pages()) * PAGE_SIZE;
        if self.contents.len() != nonzero {
            let expected = (packed.len() - self.contents.len() + nonzero) as u64;
            return Err(UnpackError::Length { length: packed.len(), expected });
        }
        Ok(())
    }

    fn is_zero(&self, index: usize) -> bool {
        self.bitmap[index / 8] >> (index % 8) & 1 == 1
    }

    fn zero_pages(&self) -> usize {
        self.bitmap.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    fn batch(&self) -> Batch {
        Batch::of_list(self.pfns, self.pages)
    }
}

/// The first `length` bytes of `rest`, which is the end of `packed`, and what follows them.
fn take<'a>(
    packed: &[u8],
    rest: &'a [u8],
    length: u64,
) -> Result<(&'a [u8], &'a [u8]), UnpackError> {
    if length > rest.len() as u64 {
        let expected = (packed.len() - rest.len()) as u64 + length;
        return Err(UnpackError::Length { length: packed.len(), expected });
    }
    Ok(rest.split_at(length as usize))
}
