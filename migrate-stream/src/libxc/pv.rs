//! Records of PV guests.

use super::PAGE_SIZE;
use super::body::{BodyError, check_entries, check_reserved};
use crate::bytes::{le16, le32, le64};

/// Word size of a PV guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestWidth {
    /// 4 bytes, 3 levels of page tables.
    Bits32,
    /// 8 bytes, 4 levels of page tables.
    Bits64,
}

impl GuestWidth {
    /// P2M entries in a page.
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
    /// Length of the body.
    pub const LEN: usize = 8;

    /// Parses a body.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let Ok(body) = <&[u8; Self::LEN]>::try_from(body) else {
            return Err(BodyError::Length { length: body.len(), expected: Self::LEN as u64 });
        };
        check_reserved("X86_PV_INFO", u64::from(le16(body, 2)) << 32 | u64::from(le32(body, 4)))?;
        let width = match body[0] {
            4 => GuestWidth::Bits32,
            8 => GuestWidth::Bits64,
            other => {
                return Err(BodyError::Value { field: "guest_width", value: other.into() });
            }
        };
        let info = Self { width };
        if body[1] != info.levels() {
            return Err(BodyError::Value { field: "pt_levels", value: body[1].into() });
        }
        Ok(info)
    }

    /// Levels of page tables.
    pub fn levels(self) -> u8 {
        match self.width {
            GuestWidth::Bits32 => 3,
            GuestWidth::Bits64 => 4,
        }
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let bytes = match self.width {
            GuestWidth::Bits32 => 4,
            GuestWidth::Bits64 => 8,
        };
        out.extend_from_slice(&[bytes, self.levels(), 0, 0, 0, 0, 0, 0]);
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
    frames: &'a [u8],
}

impl<'a> P2mFrames<'a> {
    /// Bytes before the list of frames.
    pub const HEADER_LEN: usize = 8;

    /// The shortest body: one frame.
    pub const LEAST_LEN: usize = Self::HEADER_LEN + 8;

    /// Parses a body. The number of frames must fit the range for one of the two word sizes; which
    /// one the guest has is in X86_PV_INFO: see [`P2mFrames::fits`].
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        check_entries(body.len(), Self::HEADER_LEN, 8)?;
        let (header, frames) = body.split_at(Self::HEADER_LEN);
        let parsed = Self { start_pfn: le32(header, 0), end_pfn: le32(header, 4), frames };
        if parsed.start_pfn > parsed.end_pfn {
            return Err(BodyError::Range { start: parsed.start_pfn, end: parsed.end_pfn });
        }
        if !parsed.fits(GuestWidth::Bits64) && !parsed.fits(GuestWidth::Bits32) {
            let expected = Self::HEADER_LEN as u64 + parsed.frames_for(GuestWidth::Bits64) * 8;
            return Err(BodyError::Length { length: body.len(), expected });
        }
        Ok(parsed)
    }

    /// Whether the number of frames is what the range asks for in a guest of this word size.
    pub fn fits(&self, width: GuestWidth) -> bool {
        self.frames_for(width) == self.frames.len() as u64 / 8
    }

    fn frames_for(&self, width: GuestWidth) -> u64 {
        let per_frame = width.pfns_per_frame();
        u64::from(self.end_pfn / per_frame - self.start_pfn / per_frame) + 1
    }

    /// pfns of the frames.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = u64> + use<'a> {
        self.frames.chunks_exact(8).map(|frame| le64(frame, 0))
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.start_pfn.to_le_bytes());
        out.extend_from_slice(&self.end_pfn.to_le_bytes());
        out.extend_from_slice(self.frames);
    }
}

/// Which part of a vCPU's state a record holds, by the domctl that gets it.
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

impl VcpuState {
    /// Compares a body's length with what libxc restores. Records without a context, which Xen 4.6
    /// to 4.8 could write, are allowed, as the specification's errata ask.
    pub(super) fn check_length(self, length: usize) -> Result<(), BodyError> {
        const HEADER: usize = Vcpu::HEADER_LEN;
        if length < HEADER {
            return Err(BodyError::TooShort { length, least: HEADER });
        }
        match (self, length - HEADER) {
            (_, 0) | (Self::Basic, 2800 | 5168) => Ok(()),
            (Self::Basic, _) => Err(BodyError::Length { length, expected: HEADER as u64 + 5168 }),
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
    /// Which part of the state; the record's type tells it.
    pub state: VcpuState,
    /// Which vCPU.
    pub vcpu_id: u32,
    /// What the domctl gave.
    pub context: &'a [u8],
}

impl<'a> Vcpu<'a> {
    /// Bytes before the context.
    pub const HEADER_LEN: usize = 8;

    /// Parses a body.
    pub fn parse(state: VcpuState, body: &'a [u8]) -> Result<Self, BodyError> {
        state.check_length(body.len())?;
        let (header, context) = body.split_at(Self::HEADER_LEN);
        check_reserved("the vCPU header", le32(header, 4).into())?;
        Ok(Self { state, vcpu_id: le32(header, 0), context })
    }

    /// Whether the context can be of a guest of this word size: the length of a
    /// `vcpu_guest_context` depends on it.
    pub fn fits(&self, width: GuestWidth) -> bool {
        match (self.state, width) {
            (VcpuState::Basic, GuestWidth::Bits32) => matches!(self.context.len(), 0 | 2800),
            (VcpuState::Basic, GuestWidth::Bits64) => matches!(self.context.len(), 0 | 5168),
            _ => true,
        }
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
    /// Parses a body.
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        let wrong = BodyError::Length { length: body.len(), expected: PAGE_SIZE as u64 };
        body.try_into().map(Self).map_err(|_| wrong)
    }
}
