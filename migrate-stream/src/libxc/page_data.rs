//! PAGE_DATA: types and contents of guest pages.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 4 | count of pfns, at least 1 |
//! | 4 | 4 | reserved, 0 |
//! | 8 | 8 × count | pfns: bits 63 to 60 page type, 59 to 52 reserved, 51 to 0 pfn |
//! | 8 + 8 × count | 4096 × n | contents of the n pages whose type has contents, in order |

use super::error::{BodyError, check_reserved};
use crate::fields::Fields;

/// Size of a guest page in bytes.
pub const PAGE_SIZE: usize = 4096;

const TYPE_SHIFT: u32 = 60;
/// Bits of a list's entry that are the pfn.
pub(crate) const PFN_MASK: u64 = (1 << 52) - 1;
const RESERVED_MASK: u64 = 0xff << 52;

/// A page's type: `XEN_DOMCTL_PFINFO_*` of Xen's public/domctl.h, shifted down to four bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageType {
    /// A normal page.
    NoTab,
    /// A PV guest's page table.
    Table {
        /// Level of the table, 1 to 4.
        level: u8,
        /// Whether the guest has pinned the table as one of this level.
        pinned: bool,
    },
    /// A page whose memory has failed. The record has no contents for it.
    Broken,
    /// A page to be allocated only. The record has no contents for it.
    Xalloc,
    /// No page: the pfn is, or has become, a hole. The record has no contents for it.
    Xtab,
}

impl PageType {
    /// The type of these four bits; `None` for the values 5 to 8, which are reserved.
    pub fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::NoTab,
            level @ 1..=4 => Self::Table { level, pinned: false },
            pinned @ 0x9..=0xc => Self::Table { level: pinned - 8, pinned: true },
            0xd => Self::Broken,
            0xe => Self::Xalloc,
            0xf => Self::Xtab,
            _ => return None,
        })
    }

    /// The type's four bits, the reverse of [`PageType::from_bits`].
    pub fn bits(self) -> u8 {
        match self {
            Self::NoTab => 0,
            Self::Table { level, pinned: false } => level,
            Self::Table { level, pinned: true } => level + 8,
            Self::Broken => 0xd,
            Self::Xalloc => 0xe,
            Self::Xtab => 0xf,
        }
    }

    /// Whether a record holds the contents of pages of this type.
    pub fn has_contents(self) -> bool {
        matches!(self, Self::NoTab | Self::Table { .. })
    }
}

/// An entry of the list: a page's number and its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageEntry {
    /// The page's number in the guest, below 2^52.
    pub pfn: u64,
    pub page_type: PageType,
}

impl PageEntry {
    /// Parses entry `index` of a list.
    pub fn parse(index: usize, entry: u64) -> Result<Self, BodyError> {
        if entry & RESERVED_MASK != 0 {
            return Err(BodyError::PfnReserved { index, entry });
        }
        let bits = (entry >> TYPE_SHIFT) as u8;
        let page_type =
            PageType::from_bits(bits).ok_or(BodyError::PageType { index, page_type: bits })?;
        Ok(Self { pfn: entry & PFN_MASK, page_type })
    }

    /// The entry as it stands in the list. Bits of the pfn above 51 are dropped.
    pub fn value(self) -> u64 {
        u64::from(self.page_type.bits()) << TYPE_SHIFT | self.pfn & PFN_MASK
    }
}

/// A page of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<'a> {
    pub entry: PageEntry,
    /// The page's bytes; `None` when its type has no contents.
    pub contents: Option<&'a [u8; PAGE_SIZE]>,
}

/// PAGE_DATA's body: every entry is valid, and the contents are as many as the entries ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageData<'a> {
    pfns: &'a [[u8; 8]],
    contents: &'a [[u8; PAGE_SIZE]],
}

impl<'a> PageData<'a> {
    /// Length of the part before the list of pfns, in bytes.
    pub const HEADER_LEN: usize = 8;

    /// Length of the shortest body, in bytes: one pfn without contents.
    pub const LEAST_LEN: usize = Self::HEADER_LEN + 8;

    /// Parses a whole body. Checks every entry, and that the length is exactly what they ask for.
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        let length = body.len();
        let Some((header, rest)) = body.split_first_chunk::<8>() else {
            return Err(BodyError::TooShort { length, least: Self::LEAST_LEN });
        };
        let header = Fields(header);
        check_reserved("PAGE_DATA's header", header.le32::<4>().into())?;
        let count = header.le32::<0>();
        if count == 0 {
            return Err(BodyError::Value { field: "count", value: 0 });
        }
        let list_len = u64::from(count) * 8;
        let least = Self::HEADER_LEN as u64 + list_len;
        let list_end = usize::try_from(list_len).ok();
        let Some((pfns, contents)) = list_end.and_then(|end| rest.split_at_checked(end)) else {
            return Err(BodyError::Length { length, expected: least });
        };
        let (pfns, _) = pfns.as_chunks();
        let expected = least + count_contents(pfns)? * PAGE_SIZE as u64;
        if expected != length as u64 {
            return Err(BodyError::Length { length, expected });
        }
        Ok(Self { pfns, contents: contents.as_chunks().0 })
    }

    /// Number of pfns in the list, at least 1.
    pub fn count(&self) -> usize {
        self.pfns.len()
    }

    /// Number of pages that have contents in the record.
    pub fn contents_count(&self) -> usize {
        self.contents.len()
    }

    /// The list's entries, as they stand in the body.
    pub(crate) fn raw_pfns(&self) -> &'a [[u8; 8]] {
        self.pfns
    }

    /// The contents of the pages that have some, one after another.
    pub fn contents(&self) -> &'a [u8] {
        self.contents.as_flattened()
    }

    /// The contents of the pages that have some, page by page.
    pub(crate) fn contents_by_page(&self) -> &'a [[u8; PAGE_SIZE]] {
        self.contents
    }

    /// The pages in the list's order.
    pub fn pages(&self) -> Pages<'a> {
        Pages { index: 0, pfns: self.pfns.iter(), contents: self.contents.iter() }
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.count() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(self.pfns.as_flattened());
        out.extend_from_slice(self.contents.as_flattened());
    }
}

/// Checks a list's entries and counts those that have contents.
pub(crate) fn count_contents(pfns: &[[u8; 8]]) -> Result<u64, BodyError> {
    let mut pages = 0;
    for (index, entry) in pfns.iter().enumerate() {
        let entry = PageEntry::parse(index, u64::from_le_bytes(*entry))?;
        pages += u64::from(entry.page_type.has_contents());
    }
    Ok(pages)
}

/// Iterator over the pages of a [`PageData`].
#[derive(Clone, Debug)]
pub struct Pages<'a> {
    index: usize,
    pfns: std::slice::Iter<'a, [u8; 8]>,
    contents: std::slice::Iter<'a, [u8; PAGE_SIZE]>,
}

impl<'a> Iterator for Pages<'a> {
    type Item = Page<'a>;

    fn next(&mut self) -> Option<Page<'a>> {
        // `PageData::parse` has checked every entry and counted the contents: neither `?` after
        // this one ends the list early.
        let entry = self.pfns.next()?;
        let entry = PageEntry::parse(self.index, u64::from_le_bytes(*entry)).ok()?;
        let contents =
            if entry.page_type.has_contents() { Some(self.contents.next()?) } else { None };
        self.index += 1;
        Some(Page { entry, contents })
    }
}
