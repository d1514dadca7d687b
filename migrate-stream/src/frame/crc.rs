//! CRC-32 with a shortcut for zero pages.
//!
//! What a zero byte does to a CRC register is linear over GF(2), so 4096 of them are one matrix of
//! 32 × 32 bits. The module `zero_page` keeps the matrix as four tables of 256 words: a zero page
//! costs four look-ups.

mod zero_page;

use zero_page::TABLES;

/// The CRC-32 of bytes that come in pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crc32(u32);

impl Crc32 {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn update(&mut self, bytes: &[u8]) {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(bytes);
        self.0 = hasher.finalize();
    }

    /// Takes the zero bytes of one page, at the cost of four look-ups.
    pub fn update_zero_page(&mut self) {
        let register = (!self.0).to_le_bytes();
        let mapped = register.iter().zip(&TABLES).fold(0, |sum, (&byte, table)| {
            sum ^ table.get(usize::from(byte)).copied().unwrap_or_default()
        });
        self.0 = !mapped;
    }

    /// The CRC-32 of all bytes that were taken.
    pub fn value(self) -> u32 {
        self.0
    }
}

/// The CRC-32 of bytes that are all there.
pub fn hash(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libxc::PAGE_SIZE;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_zero_page_counts_as_its_bytes(
            before: Vec<u8>,
            after: Vec<u8>,
            zero_pages in 0_usize..5,
        ) {
            let mut crc = Crc32::new();
            crc.update(&before);
            (0..zero_pages).for_each(|_| crc.update_zero_page());
            crc.update(&after);
            let whole = [before, vec![0; zero_pages * PAGE_SIZE], after].concat();
            prop_assert_eq!(crc.value(), crc32fast::hash(&whole));
        }
    }
}
