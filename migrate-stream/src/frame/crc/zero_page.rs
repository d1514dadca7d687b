//! The linear map by which a page of zero bytes changes a CRC register.
#![allow(
    clippy::indexing_slicing,
    reason = "only the compiler evaluates these functions, and stops at an index out of bounds"
)]

use crate::libxc::PAGE_SIZE;

/// The map's image of each value of each byte of the register, lowest byte first. The image of a
/// register is the sum (XOR) of those of its bytes.
pub(super) const TABLES: [[u32; 256]; 4] = tables(&zero_page());

/// The polynomial of zlib, PNG and Ethernet, lowest bit first (reflected).
const POLYNOMIAL: u32 = 0xedb8_8320;

/// A linear map of the register, as the image of each of its bits.
type Matrix = [u32; 32];

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
