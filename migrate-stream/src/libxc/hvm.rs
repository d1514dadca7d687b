//! Records of HVM and PVH guests.

use super::body::{BodyError, check_reserved};
use crate::bytes::{le32, le64};

/// HVM_CONTEXT: what `XEN_DOMCTL_gethvmcontext` gave, not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HvmContext<'a>(pub &'a [u8]);

impl<'a> HvmContext<'a> {
    /// Takes a body.
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        if body.is_empty() {
            return Err(BodyError::TooShort { length: 0, least: 1 });
        }
        Ok(Self(body))
    }
}

/// A parameter of an HVM guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HvmParam {
    /// `HVM_PARAM_*` of Xen's public/hvm/params.h.
    pub index: u64,
    /// Its value.
    pub value: u64,
}

/// HVM_PARAMS: u32 count, u32 0, then pairs of u64 index and u64 value. Xen 4.6 to 4.8 could write
/// a count of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HvmParams<'a> {
    entries: &'a [u8],
}

impl<'a> HvmParams<'a> {
    /// Bytes before the entries.
    pub const HEADER_LEN: usize = 8;

    /// Length of an entry.
    pub const ENTRY_LEN: usize = 16;

    /// Parses a body.
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        let length = body.len();
        let Some((header, entries)) = body.split_first_chunk::<8>() else {
            return Err(BodyError::TooShort { length, least: Self::HEADER_LEN });
        };
        check_reserved("HVM_PARAMS' header", le32(header, 4).into())?;
        let expected =
            Self::HEADER_LEN as u64 + u64::from(le32(header, 0)) * Self::ENTRY_LEN as u64;
        if expected != length as u64 {
            return Err(BodyError::Length { length, expected });
        }
        Ok(Self { entries })
    }

    /// The parameters.
    pub fn params(&self) -> impl ExactSizeIterator<Item = HvmParam> + use<'a> {
        self.entries
            .chunks_exact(Self::ENTRY_LEN)
            .map(|entry| HvmParam { index: le64(entry, 0), value: le64(entry, 8) })
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let count = self.entries.len() / Self::ENTRY_LEN;
        out.extend_from_slice(&(count as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(self.entries);
    }
}
