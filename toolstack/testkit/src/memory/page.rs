//! The contents of a synthetic page.

use migrate_stream::libxc::PAGE_SIZE;

use super::Guest;

/// Zero, text-like or random, depending on the page's number and how often it was written.
pub(super) fn page(guest: &Guest, pfn: u64, generation: u64) -> Box<[u8; PAGE_SIZE]> {
    let mut page = Box::new([0; PAGE_SIZE]);
    let mut random =
        (guest.seed ^ pfn.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(generation) | 1;
    let kind = (random.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 56) as u8;
    if kind < guest.zero_per_256 {
        return page;
    }
    let mask = if kind.is_multiple_of(2) { u64::MAX } else { 0x0f0f };
    for word in page.chunks_exact_mut(8) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        word.copy_from_slice(&(random & mask).to_le_bytes());
    }
    page
}
