//! Bounds of the lengths in a frame header, all in bytes.

use crate::libxc::{PageData, RECORD_HEADER_LEN};

/// The longest part of the libxl stream that a frame may stand for: a PAGE_DATA record of 1024
/// pages, the most that libxc writes (8 + 8 + 1024 × 8 + 1024 × 4096), and 56 KiB of reserve.
pub const MAX_DECODED: u32 = (4 << 20) + (64 << 10);

/// The longest that a frame may be before compression.
pub const MAX_PACKED: u32 = MAX_DECODED + MAX_OVERHEAD;

/// The shortest PAGE_DATA record with its header: one pfn without contents.
pub const LEAST_RECORD_LEN: u32 = (RECORD_HEADER_LEN + PageData::LEAST_LEN) as u32;

/// How much longer than the record its packed form can be, when no page is zero: the bitmap, less
/// the fields that are left out. The bitmap of the longest record is shorter than this.
pub const MAX_OVERHEAD: u32 = 132;

/// Length of an end frame's payload.
pub const TOTALS_LEN: usize = 48;
