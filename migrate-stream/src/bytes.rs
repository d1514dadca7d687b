//! Fixed-width fields at known offsets.
//!
//! Callers have checked the length: each reads from a fixed-size array, or from a body whose length
//! it has just compared.

/// The two bytes at `at`, little-endian.
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

/// The four bytes at `at`, little-endian.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

/// The eight bytes at `at`, little-endian.
pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// The two bytes at `at`, big-endian.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

/// The four bytes at `at`, big-endian.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

/// The eight bytes at `at`, big-endian.
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

/// `N` bytes at `at`.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// Zero bytes after a record body of this length: records end on a multiple of 8.
pub(crate) fn padding(length: u32) -> u8 {
    (length.wrapping_neg() & 7) as u8
}
