//! Records of PV guests.

use super::error::{BodyError, check_entries, check_reserved};
use super::page_data::PAGE_SIZE;
use crate::fields::Fields;

/// Word size of a PV guest. It decides the levels of page tables, and so the size of the P2M.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestWidth {
    /// Words of 4 bytes, 3 levels of page tables.
    Bits32,
    /// Words of 8 bytes, 4 levels of page tables.
    Bits64,
}

impl GuestWidth {
    /// Number of P2M entries in a page.
    fn pfns_per_frame(self) -> u32 {
        match self {
            Self::Bits32 => 1024,
            Self::Bits64 => 512,
        }
    }
}

/// X86_PV_INFO: u8 word size in bytes, u8 levels of page tables, 6 bytes 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PvInfo {
    /// The word size, and with it the number of levels: libxc accepts 4 with 3, and 8 with 4.
    pub width: GuestWidth,
}

impl PvInfo {
    /// Length of the body in bytes.
    pub const LEN: usize = 8;

    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let Ok(body) = <&[u8; Self::LEN]>::try_from(body) else {
            return Err(BodyError::Length { length: body.len(), expected: Self::LEN as u64 });
        };
        let fields = Fields(body);
        let reserved = u64::from(fields.le16::<2>()) << 32 | u64::from(fields.le32::<4>());
        check_reserved("X86_PV_INFO", reserved)?;
        let &[width, levels, ..] = body;
        let info = match width {
            4 => Self { width: GuestWidth::Bits32 },
            8 => Self { width: GuestWidth::Bits64 },
            other => {
                return Err(BodyError::Value { field: "guest_width", value: other.into() });
            }
        };
        if levels != info.levels() {
            return Err(BodyError::Value { field: "pt_levels", value: levels.into() });
        }
        Ok(info)
    }

    /// Levels of the guest's page tables, 3 or 4.
    pub fn levels(self) -> u8 {
        match self.width {
            GuestWidth::Bits32 => 3,
            GuestWidth::Bits64 => 4,
        }
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let word_len = match self.width {
            GuestWidth::Bits32 => 4,
            GuestWidth::Bits64 => 8,
        };
        out.extend_from_slice(&[word_len, self.levels(), 0, 0, 0, 0, 0, 0]);
    }
}

/// X86_PV_P2M_FRAMES: u32 first pfn, u32 last pfn, then the u64 pfn of each frame of the P2M that
/// holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct P2mFrames<'a> {
    /// First pfn whose P2M entry is in the frames.
    pub start_pfn: u32,
    /// Last pfn whose P2M entry is in the frames.
    pub end_pfn: u32,
    frames: &'a [[u8; P2mFrames::ENTRY_LEN]],
}

impl<'a> P2mFrames<'a> {
    /// Length of the part before the list of frames, in bytes.
    pub const HEADER_LEN: usize = 8;

    /// Length of an entry of the list in bytes.
    pub const ENTRY_LEN: usize = 8;

    /// Length of the shortest body, in bytes: one frame.
    pub const LEAST_LEN: usize = Self::HEADER_LEN + Self::ENTRY_LEN;

    /// Parses a body. The number of frames must fit the range for one of the two word sizes.
    /// X86_PV_INFO tells the guest's: see [`P2mFrames::fits`].
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        let length = body.len();
        check_entries(length, Self::HEADER_LEN, Self::ENTRY_LEN)?;
        let Some((header, frames)) = body.split_first_chunk::<8>() else {
            return Err(BodyError::TooShort { length, least: Self::LEAST_LEN });
        };
        let (header, (frames, _)) = (Fields(header), frames.as_chunks());
        let parsed = Self { start_pfn: header.le32::<0>(), end_pfn: header.le32::<4>(), frames };
        if parsed.start_pfn > parsed.end_pfn {
            return Err(BodyError::Range { start: parsed.start_pfn, end: parsed.end_pfn });
        }
        if !parsed.fits(GuestWidth::Bits64) && !parsed.fits(GuestWidth::Bits32) {
            let frames_len = parsed.frames_for(GuestWidth::Bits64) * Self::ENTRY_LEN as u64;
            let expected = Self::HEADER_LEN as u64 + frames_len;
            return Err(BodyError::Length { length, expected });
        }
        Ok(parsed)
    }

    /// Whether the number of frames is what the range asks for in a guest of this word size.
    pub fn fits(&self, width: GuestWidth) -> bool {
        self.frames_for(width) == self.frames.len() as u64
    }

    fn frames_for(&self, width: GuestWidth) -> u64 {
        let per_frame = width.pfns_per_frame();
        u64::from(self.end_pfn / per_frame - self.start_pfn / per_frame) + 1
    }

    /// The pfns of the frames, in the order of the pfns that they describe.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = u64> + use<'a> {
        self.frames.iter().map(|frame| u64::from_le_bytes(*frame))
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.start_pfn.to_le_bytes());
        out.extend_from_slice(&self.end_pfn.to_le_bytes());
        out.extend_from_slice(self.frames.as_flattened());
    }
}

/// Part of a vCPU's state, by the domctl that gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuState {
    /// `getvcpucontext`: `vcpu_guest_context`, 2800 bytes for a 32-bit guest, 5168 for a 64-bit
    /// one.
    Basic,
    /// `get_ext_vcpucontext`, at most 128 bytes.
    Extended,
    /// `getvcpuextstate`, at least 16 bytes.
    Xsave,
    /// `get_vcpu_msrs`, entries of 16 bytes.
    Msrs,
}

/// Length of a 32-bit guest's `vcpu_guest_context` in bytes.
const CONTEXT_LEN_32: usize = 2800;

/// Length of a 64-bit guest's `vcpu_guest_context` in bytes.
const CONTEXT_LEN_64: usize = 5168;

impl VcpuState {
    /// Compares a body's length with what libxc restores. Records without a context, which Xen 4.6
    /// to 4.8 could write, are allowed, as the specification's errata ask.
    pub(super) fn check_length(self, length: usize) -> Result<(), BodyError> {
        const HEADER: usize = Vcpu::HEADER_LEN;
        let Some(context) = length.checked_sub(HEADER) else {
            return Err(BodyError::TooShort { length, least: HEADER });
        };
        match (self, context) {
            (_, 0) | (Self::Basic, CONTEXT_LEN_32 | CONTEXT_LEN_64) => Ok(()),
            (Self::Basic, _) => {
                Err(BodyError::Length { length, expected: (HEADER + CONTEXT_LEN_64) as u64 })
            }
            (Self::Extended, 129..) => Err(BodyError::TooLong { length, most: HEADER + 128 }),
            (Self::Xsave, ..16) => Err(BodyError::TooShort { length, least: HEADER + 16 }),
            (Self::Msrs, _) => check_entries(length, HEADER, 16),
            _ => Ok(()),
        }
    }
}

/// X86_PV_VCPU_BASIC, _EXTENDED, _XSAVE, _MSRS: u32 vCPU, u32 0, then what the domctl gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vcpu<'a> {
    /// Which part of the state the context is. The record's type tells it.
    pub state: VcpuState,
    /// The vCPU's number in the guest, from 0.
    pub vcpu_id: u32,
    /// The bytes that the domctl gave.
    pub context: &'a [u8],
}

impl<'a> Vcpu<'a> {
    /// Length of the part before the context, in bytes.
    pub const HEADER_LEN: usize = 8;

    pub fn parse(state: VcpuState, body: &'a [u8]) -> Result<Self, BodyError> {
        let length = body.len();
        state.check_length(length)?;
        let Some((header, context)) = body.split_first_chunk::<8>() else {
            return Err(BodyError::TooShort { length, least: Self::HEADER_LEN });
        };
        let header = Fields(header);
        check_reserved("the vCPU header", header.le32::<4>().into())?;
        Ok(Self { state, vcpu_id: header.le32::<0>(), context })
    }

    /// Whether the context can be of a guest of this word size: the length of a
    /// `vcpu_guest_context` depends on it.
    pub fn fits(&self, width: GuestWidth) -> bool {
        let full = match (self.state, width) {
            (VcpuState::Basic, GuestWidth::Bits32) => CONTEXT_LEN_32,
            (VcpuState::Basic, GuestWidth::Bits64) => CONTEXT_LEN_64,
            _ => return true,
        };
        self.context.is_empty() || self.context.len() == full
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.vcpu_id.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(self.context);
    }
}

/// SHARED_INFO: the page as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedInfo<'a>(pub &'a [u8; PAGE_SIZE]);

impl<'a> SharedInfo<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        let wrong = BodyError::Length { length: body.len(), expected: PAGE_SIZE as u64 };
        body.try_into().map(Self).map_err(|_| wrong)
    }
}
