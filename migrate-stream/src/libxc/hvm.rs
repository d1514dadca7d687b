//! Records of HVM and PVH guests.

use super::error::{BodyError, check_reserved};
use crate::fields::Fields;

/// HVM_CONTEXT: what `XEN_DOMCTL_gethvmcontext` gave, at least one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HvmContext<'a>(pub &'a [u8]);

impl<'a> HvmContext<'a> {
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
    pub value: u64,
}

/// HVM_PARAMS: u32 count, u32 0, then pairs of u64 index and u64 value. Xen 4.6 to 4.8 could write
/// a count of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HvmParams<'a> {
    entries: &'a [[u8; HvmParams::ENTRY_LEN]],
}

impl<'a> HvmParams<'a> {
    /// Length of the part before the entries, in bytes.
    pub const HEADER_LEN: usize = 8;

    /// Length of an entry in bytes.
    pub const ENTRY_LEN: usize = 16;

    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        let length = body.len();
        let Some((header, entries)) = body.split_first_chunk::<8>() else {
            return Err(BodyError::TooShort { length, least: Self::HEADER_LEN });
        };
        let header = Fields(header);
        check_reserved("HVM_PARAMS' header", header.le32::<4>().into())?;
        let entries_len = u64::from(header.le32::<0>()) * Self::ENTRY_LEN as u64;
        let expected = Self::HEADER_LEN as u64 + entries_len;
        if expected != length as u64 {
            return Err(BodyError::Length { length, expected });
        }
        Ok(Self { entries: entries.as_chunks().0 })
    }

    pub fn params(&self) -> impl ExactSizeIterator<Item = HvmParam> + use<'a> {
        self.entries.iter().map(|entry| {
            let fields = Fields(entry);
            HvmParam { index: fields.le64::<0>(), value: fields.le64::<8>() }
        })
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(self.entries.as_flattened());
    }
}
