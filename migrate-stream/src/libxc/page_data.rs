//! PAGE_DATA: guest pages.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 4 | count of pfns, at least 1 |
//! | 4 | 4 | reserved, 0 |
//! | 8 | 8 × count | pfns: bits 63 to 60 the page's type, 59 to 52 reserved, 51 to 0 the pfn |
//! | 8 + 8 × count | 4096 × n | contents of the n pages whose type has contents, in the list's order |

use super::PAGE_SIZE;
use super::body::{BodyError, check_reserved};
use crate::bytes::{le32, le64};

const TYPE_SHIFT: u32 = 60;
/// Bits of an entry that are the pfn.
pub(crate) const PFN_MASK: u64 = (1 << 52) - 1;
const RESERVED_MASK: u64 = 0xff << 52;

/// A page's type: `XEN_DOMCTL_PFINFO_*` of Xen's public/domctl.h, shifted down to four bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageType {
    /// A normal page.
    NoTab,
    /// A PV guest's page table of this level, 1 to 4.
    Table {
        /// 1 to 4.
        level: u8,
        /// Pinned.
        pinned: bool,
    },
    /// A broken page. No contents.
    Broken,
    /// To be allocated only. No contents.
    Xalloc,
    /// No page: the pfn is, or has become, a hole. No contents.
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

    /// The four bits.
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

    /// Whether the record holds the page's contents.
    pub fn has_contents(self) -> bool {
        matches!(self, Self::NoTab | Self::Table { .. })
    }
}

/// An entry of the list: which page, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageEntry {
    /// The page's number in the guest, below 2^52.
    pub pfn: u64,
    /// Its type.
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

    /// The entry's value. Bits of the pfn above 51 are dropped.
    pub fn value(self) -> u64 {
        u64::from(self.page_type.bits()) << TYPE_SHIFT | self.pfn & PFN_MASK
    }
}

/// A page of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<'a> {
    /// Which page, and what it is.
    pub entry: PageEntry,
    /// Its contents, when its type has contents.
    pub contents: Option<&'a [u8; PAGE_SIZE]>,
}

/// PAGE_DATA's body, checked whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageData<'a> {
    pfns: &'a [u8],
    contents: &'a [u8],
}

impl<'a> PageData<'a> {
    /// Bytes before the list of pfns.
    pub const HEADER_LEN: usize = 8;

    /// The shortest body: one pfn without contents.
    pub const LEAST_LEN: usize = Self::HEADER_LEN + 8;

    /// Parses a body, whole: every entry, and that the length is exactly what they ask for.
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        let length = body.len();
        let Some((header, rest)) = body.split_first_chunk::<8>() else {
            return Err(BodyError::TooShort { length, least: Self::LEAST_LEN });
        };
        check_reserved("PAGE_DATA's header", le32(header, 4).into())?;
        let count = le32(header, 0);
        if count == 0 {
            return Err(BodyError::Value { field: "count", value: 0 });
        }
        let list_len = u64::from(count) * 8;
        let least = Self::HEADER_LEN as u64 + list_len;
        if least > length as u64 {
            return Err(BodyError::Length { length, expected: least });
        }
        let (pfns, contents) = rest.split_at(list_len as usize);
        let expected = least + count_contents(pfns)? * PAGE_SIZE as u64;
        if expected != length as u64 {
            return Err(BodyError::Length { length, expected });
        }
        Ok(Self { pfns, contents })
    }

    /// pfns in the list, at least 1.
    pub fn count(&self) -> usize {
        self.pfns.len() / 8
    }

    /// Pages with contents.
    pub fn contents_count(&self) -> usize {
        self.contents.len() / PAGE_SIZE
    }

    /// The list's bytes, as they stand in the body.
    pub(crate) fn raw_pfns(&self) -> &'a [u8] {
        self.pfns
    }

    /// The contents of the pages that have some, one after another.
    pub fn contents(&self) -> &'a [u8] {
        self.contents
    }

    /// The pages in the list's order.
    pub fn pages(&self) -> Pages<'a> {
        Pages { index: 0, pfns: self.pfns, contents: self.contents }
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.count() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(self.pfns);
        out.extend_from_slice(self.contents);
    }
}

/// Checks the entries and counts those with contents.
pub(crate) fn count_contents(pfns: &[u8]) -> Result<u64, BodyError> {
    let mut pages = 0;
    for index in 0..pfns.len() / 8 {
        let entry = PageEntry::parse(index, le64(pfns, index * 8))?;
        pages += u64::from(entry.page_type.has_contents());
    }
    Ok(pages)
}

/// Iterator over the pages of a [`PageData`].
#[derive(Clone, Debug)]
pub struct Pages<'a> {
    index: usize,
    pfns: &'a [u8],
    contents: &'a [u8],
}

impl<'a> Iterator for Pages<'a> {
    type Item = Page<'a>;

    fn next(&mut self) -> Option<Page<'a>> {
        let (entry, pfns) = self.pfns.split_first_chunk::<8>()?;
        // `PageData::parse` has checked every entry and counted the contents: neither line below
        // ends the list early.
        let entry = PageEntry::parse(self.index, u64::from_le_bytes(*entry)).ok()?;
        let contents = if entry.page_type.has_contents() {
            let (page, contents) = self.contents.split_first_chunk::<PAGE_SIZE>()?;
            self.contents = contents;
            Some(page)
        } else {
            None
        };
        self.pfns = pfns;
        self.index += 1;
        Some(Page { entry, contents })
    }
}
