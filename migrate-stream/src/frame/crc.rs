//! CRC-32 with a shortcut for zero pages.
//!
//! What a zero byte does to a CRC register is linear over GF(2), so 4096 of them are one matrix of
//! 32 × 32 bits. The matrix is kept as four tables of 256 words, computed when this is compiled: a
//! zero page costs four look-ups.

use crate::libxc::PAGE_SIZE;

/// The polynomial of zlib, PNG and Ethernet, lowest bit first (reflected).
const POLYNOMIAL: u32 = 0xedb8_8320;

/// A linear map of the register, as the image of each of its bits.
type Matrix = [u32; 32];

const PAGE_TABLES: [[u32; 256]; 4] = tables(&zero_page());

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

    /// Takes [`PAGE_SIZE`] zero bytes, at the cost of four look-ups.
    pub fn update_zero_page(&mut self) {
        let register = (!self.0).to_le_bytes();
        let mapped = register.iter().zip(&PAGE_TABLES).fold(0, |sum, (&byte, table)| {
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

const fn apply(matrix: &Matrix, register: u32) -> u32 {
    let (mut sum, mut bit) = (0, 0);
    while bit < 32 {
        if register >> bit & 1 == 1 {
            sum ^= matrix[bit];
        }
        bit += 1;
    }
    sum
}

const fn square(matrix: &Matrix) -> Matrix {
    let (mut squared, mut bit) = ([0; 32], 0);
    while bit < 32 {
        squared[bit] = apply(matrix, matrix[bit]);
        bit += 1;
    }
    squared
}

/// The map of one zero bit: the register shifts down, and a bit that falls out adds the polynomial.
const fn zero_bit() -> Matrix {
    let (mut matrix, mut bit) = ([0; 32], 1);
    matrix[0] = POLYNOMIAL;
    while bit < 32 {
        matrix[bit] = 1 << (bit - 1);
        bit += 1;
    }
    matrix
}

/// The map of a page of zero bits: that of one bit, doubled as often as it takes.
const fn zero_page() -> Matrix {
    let (mut matrix, mut bits) = (zero_bit(), 1);
    while bits < PAGE_SIZE * 8 {
        matrix = square(&matrix);
        bits *= 2;
    }
    matrix
}

const fn tables(matrix: &Matrix) -> [[u32; 256]; 4] {
    let (mut tables, mut entry) = ([[0; 256]; 4], 0);
    while entry < 1024 {
        tables[entry / 256][entry % 256] = apply(matrix, (entry as u32 % 256) << (entry / 256 * 8));
        entry += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;
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
