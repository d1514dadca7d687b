//! Fixed-width fields at offsets that are known when this is compiled.
//!
//! The offsets and sizes are const parameters, in the order of the formats' tables (offset, size).
//! A field that does not lie within its structure does not compile, so no access can fail at run
//! time.

/// A structure of `LEN` bytes that is read field by field.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a, const LEN: usize>(pub(crate) &'a [u8; LEN]);

impl<const LEN: usize> Fields<'_, LEN> {
    pub(crate) fn le16<const AT: usize>(self) -> u16 {
        u16::from_le_bytes(self.array::<AT, 2>())
    }

    pub(crate) fn le32<const AT: usize>(self) -> u32 {
        u32::from_le_bytes(self.array::<AT, 4>())
    }

    pub(crate) fn le64<const AT: usize>(self) -> u64 {
        u64::from_le_bytes(self.array::<AT, 8>())
    }

    pub(crate) fn be16<const AT: usize>(self) -> u16 {
        u16::from_be_bytes(self.array::<AT, 2>())
    }

    pub(crate) fn be32<const AT: usize>(self) -> u32 {
        u32::from_be_bytes(self.array::<AT, 4>())
    }

    pub(crate) fn be64<const AT: usize>(self) -> u64 {
        u64::from_be_bytes(self.array::<AT, 8>())
    }

    pub(crate) fn array<const AT: usize, const N: usize>(self) -> [u8; N] {
        const { assert!(AT + N <= LEN, "the field ends outside of the structure") };
        let field = self.0.get(AT..).and_then(|rest| rest.first_chunk::<N>());
        // The assertion above makes the default unreachable.
        field.copied().unwrap_or([0; N])
    }
}

/// A structure of `LEN` bytes that is written field by field. Bytes that no field covers are 0.
#[derive(Clone, Copy)]
pub(crate) struct Builder<const LEN: usize>([u8; LEN]);

impl<const LEN: usize> Builder<LEN> {
    pub(crate) fn new() -> Self {
        Self([0; LEN])
    }

    pub(crate) fn put<const AT: usize, const N: usize>(mut self, field: [u8; N]) -> Self {
        const { assert!(AT + N <= LEN, "the field ends outside of the structure") };
        if let Some(place) = self.0.get_mut(AT..).and_then(|rest| rest.first_chunk_mut::<N>()) {
            *place = field;
        }
        self
    }

    /// Writes at `AT` the CRC-32 of all bytes before it.
    pub(crate) fn seal<const AT: usize>(self) -> Self {
        let crc = crc_before::<AT, LEN>(&self.0);
        self.put::<AT, 4>(crc.to_le_bytes())
    }

    pub(crate) fn bytes(self) -> [u8; LEN] {
        self.0
    }
}

/// CRC-32 of the bytes before `AT`, where a header keeps its own checksum.
pub(crate) fn crc_before<const AT: usize, const LEN: usize>(bytes: &[u8; LEN]) -> u32 {
    const { assert!(AT <= LEN, "the checksum is outside of the structure") };
    crc32fast::hash(bytes.get(..AT).unwrap_or(bytes))
}

/// Number of zero bytes after a record's body of this length: libxl's and libxc's records end on a
/// multiple of 8 bytes.
pub(crate) fn padding(length: u32) -> u8 {
    (length.wrapping_neg() & 7) as u8
}
