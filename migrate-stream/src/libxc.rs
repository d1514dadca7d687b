//! The libxc stream, versions 2 and 3 (Xen's docs/specs/libxc-migration-stream.pandoc).
//!
//! An image header of 24 bytes, **big-endian**; a domain header of 16 bytes and then records,
//! **little-endian**: u32 type, u32 length, the body, zeroes up to a multiple of 8 (the length does
//! not count them). Version 3 adds STATIC_DATA_END and the CPU policy records.
//!
//! [`Body`] parses a record's body by its type. The specification lets a restorer ignore reserved
//! bits; here they must be 0, as in Xen's own verify-stream-v2, for a set bit is either damage or a
//! format that this code does not know.

mod body;
mod cpu;
mod hvm;
mod page_data;
mod pv;

use std::fmt;

pub use body::{Body, BodyError};
pub use cpu::{CpuidLeaf, CpuidPolicy, MsrEntry, MsrPolicy, TscInfo};
pub use hvm::{HvmContext, HvmParam, HvmParams};
pub(crate) use page_data::{PFN_MASK, count_contents};
pub use page_data::{Page, PageData, PageEntry, PageType, Pages};
pub use pv::{GuestWidth, P2mFrames, PvInfo, SharedInfo, Vcpu, VcpuState};

use crate::bytes::{array, be16, be32, be64, le16, le32};

/// What an image begins with: eight bytes of ones.
pub const MARKER: u64 = u64::MAX;

/// `XENF`.
pub const IDENT: u32 = 0x5845_4e46;

/// Versions understood.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;

/// Length of the image header in bytes.
pub const IMAGE_HEADER_LEN: usize = 24;

/// Length of the domain header in bytes.
pub const DOMAIN_HEADER_LEN: usize = 16;

/// Length of a record's header in bytes.
pub const RECORD_HEADER_LEN: usize = 8;

/// The longest record body, in bytes (`REC_LENGTH_MAX`).
pub const MAX_RECORD_LEN: u32 = 128 << 20;

/// Size of a guest page in bytes.
pub const PAGE_SIZE: usize = 4096;

/// Bit of a record's type: a restorer that does not know the type may ignore the record.
pub const OPTIONAL: u32 = 1 << 31;

/// Why an image or domain header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not [`MARKER`]: a legacy image, or none.
    #[error("marker {0:#018x}, expected all ones")]
    Marker(u64),
    /// Not [`IDENT`].
    #[error("id {0:#010x}, expected \"XENF\"")]
    Ident(u32),
    /// Not in [`VERSIONS`].
    #[error("version {0}, expected 2 or 3")]
    Version(u32),
    /// The records are big-endian.
    #[error("big-endian records, which are not supported")]
    BigEndian,
    /// Reserved option bits are set.
    #[error("reserved options {0:#x}")]
    Options(u16),
    /// Reserved bytes are not zero.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// The domain is of a type that is not known.
    #[error("domain type {0:#x}, expected 1 (x86 PV) or 2 (x86 HVM)")]
    DomainType(u32),
    /// The guest's pages are not of 4 KiB.
    #[error("page shift {0}, expected 12")]
    PageShift(u16),
}

/// The image header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// One of [`VERSIONS`].
    pub version: u32,
}

impl ImageHeader {
    /// Parses and checks a header.
    pub fn parse(bytes: &[u8; IMAGE_HEADER_LEN]) -> Result<Self, HeaderError> {
        let (marker, ident, version) = (be64(bytes, 0), be32(bytes, 8), be32(bytes, 12));
        if marker != MARKER {
            return Err(HeaderError::Marker(marker));
        }
        if ident != IDENT {
            return Err(HeaderError::Ident(ident));
        }
        if !VERSIONS.contains(&version) {
            return Err(HeaderError::Version(version));
        }
        match be16(bytes, 16) {
            0 => {}
            options if options & 1 != 0 => return Err(HeaderError::BigEndian),
            options => return Err(HeaderError::Options(options)),
        }
        if array::<6>(bytes, 18) != [0; 6] {
            return Err(HeaderError::Reserved);
        }
        Ok(Self { version })
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; IMAGE_HEADER_LEN] {
        let mut bytes = [0; IMAGE_HEADER_LEN];
        bytes[..8].copy_from_slice(&MARKER.to_be_bytes());
        bytes[8..12].copy_from_slice(&IDENT.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.version.to_be_bytes());
        bytes
    }
}

/// How Xen runs the guest, as far as the stream tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainType {
    /// x86 PV.
    Pv,
    /// x86 HVM and PVH.
    Hvm,
}

/// The domain header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainHeader {
    /// How Xen runs the guest.
    pub domain_type: DomainType,
    /// Xen's major version where the image was saved; 0 for one converted from the legacy format.
    pub xen_major: u32,
    /// Xen's minor version where the image was saved.
    pub xen_minor: u32,
}

impl DomainHeader {
    /// Parses and checks a header.
    pub fn parse(bytes: &[u8; DOMAIN_HEADER_LEN]) -> Result<Self, HeaderError> {
        let domain_type = match le32(bytes, 0) {
            1 => DomainType::Pv,
            2 => DomainType::Hvm,
            other => return Err(HeaderError::DomainType(other)),
        };
        match le16(bytes, 4) {
            12 => {}
            shift => return Err(HeaderError::PageShift(shift)),
        }
        if le16(bytes, 6) != 0 {
            return Err(HeaderError::Reserved);
        }
        Ok(Self { domain_type, xen_major: le32(bytes, 8), xen_minor: le32(bytes, 12) })
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; DOMAIN_HEADER_LEN] {
        let domain_type = match self.domain_type {
            DomainType::Pv => 1,
            DomainType::Hvm => 2,
        };
        let mut bytes = [0; DOMAIN_HEADER_LEN];
        bytes[0] = domain_type;
        bytes[4] = 12;
        bytes[8..12].copy_from_slice(&self.xen_major.to_le_bytes());
        bytes[12..].copy_from_slice(&self.xen_minor.to_le_bytes());
        bytes
    }
}

/// A record's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordType {
    /// The last record. Empty.
    End,
    /// Guest pages.
    PageData,
    /// Word size and page table depth of a PV guest.
    X86PvInfo,
    /// Where a PV guest keeps its P2M table.
    X86PvP2mFrames,
    /// A PV vCPU's `vcpu_guest_context`.
    X86PvVcpuBasic,
    /// A PV vCPU's `xen_domctl_ext_vcpucontext`.
    X86PvVcpuExtended,
    /// A PV vCPU's extended state.
    X86PvVcpuXsave,
    /// A PV guest's shared info page.
    SharedInfo,
    /// The guest's TSC mode and offset.
    X86TscInfo,
    /// State of an HVM guest's vCPUs and platform.
    HvmContext,
    /// Parameters of an HVM guest.
    HvmParams,
    /// Deprecated: no Xen release restores it.
    Toolstack,
    /// A PV vCPU's MSRs.
    X86PvVcpuMsrs,
    /// Memory that follows is for comparing only. Empty.
    Verify,
    /// The records so far are a consistent state (Remus, COLO). Empty.
    Checkpoint,
    /// pfns that the secondary host has dirtied (COLO's back channel).
    CheckpointDirtyPfnList,
    /// What does not change while the guest runs has been sent. Empty; version 3.
    StaticDataEnd,
    /// The guest's CPUID leaves. Version 3.
    X86CpuidPolicy,
    /// The guest's MSR policy. Version 3.
    X86MsrPolicy,
    /// Any other value; [`OPTIONAL`] tells whether it may be ignored.
    Unknown(u32),
}

/// The known types by value, with the specification's names.
const RECORD_TYPES: [(RecordType, &str); 19] = [
    (RecordType::End, "END"),
    (RecordType::PageData, "PAGE_DATA"),
    (RecordType::X86PvInfo, "X86_PV_INFO"),
    (RecordType::X86PvP2mFrames, "X86_PV_P2M_FRAMES"),
    (RecordType::X86PvVcpuBasic, "X86_PV_VCPU_BASIC"),
    (RecordType::X86PvVcpuExtended, "X86_PV_VCPU_EXTENDED"),
    (RecordType::X86PvVcpuXsave, "X86_PV_VCPU_XSAVE"),
    (RecordType::SharedInfo, "SHARED_INFO"),
    (RecordType::X86TscInfo, "X86_TSC_INFO"),
    (RecordType::HvmContext, "HVM_CONTEXT"),
    (RecordType::HvmParams, "HVM_PARAMS"),
    (RecordType::Toolstack, "TOOLSTACK"),
    (RecordType::X86PvVcpuMsrs, "X86_PV_VCPU_MSRS"),
    (RecordType::Verify, "VERIFY"),
    (RecordType::Checkpoint, "CHECKPOINT"),
    (RecordType::CheckpointDirtyPfnList, "CHECKPOINT_DIRTY_PFN_LIST"),
    (RecordType::StaticDataEnd, "STATIC_DATA_END"),
    (RecordType::X86CpuidPolicy, "X86_CPUID_POLICY"),
    (RecordType::X86MsrPolicy, "X86_MSR_POLICY"),
];

impl RecordType {
    /// A type unknown here that a restorer may ignore.
    pub fn is_unknown_optional(self) -> bool {
        matches!(self, Self::Unknown(value) if value & OPTIONAL != 0)
    }
}

impl From<u32> for RecordType {
    fn from(value: u32) -> Self {
        RECORD_TYPES.get(value as usize).map_or(Self::Unknown(value), |&(known, _)| known)
    }
}

impl From<RecordType> for u32 {
    fn from(record_type: RecordType) -> Self {
        if let RecordType::Unknown(value) = record_type {
            return value;
        }
        RECORD_TYPES
            .iter()
            .zip(0..)
            .find(|((known, _), _)| *known == record_type)
            .map_or(0, |(_, value)| value)
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RECORD_TYPES.iter().find(|(known, _)| known == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "of type {:#010x}", u32::from(*self)),
        }
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the body is.
    pub record_type: RecordType,
    /// Length of the body in bytes, without padding.
    pub length: u32,
}

impl RecordHeader {
    /// Parses a header; any type and length.
    pub fn parse(bytes: &[u8; RECORD_HEADER_LEN]) -> Self {
        Self { record_type: le32(bytes, 0).into(), length: le32(bytes, 4) }
    }

    /// Compares the length with [`MAX_RECORD_LEN`] and with what the type allows.
    pub fn check_length(&self) -> Result<(), BodyError> {
        if self.length > MAX_RECORD_LEN {
            return Err(BodyError::TooLong {
                length: self.length as usize,
                most: MAX_RECORD_LEN as usize,
            });
        }
        body::check_length(self.record_type, self.length as usize)
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; RECORD_HEADER_LEN] {
        let mut bytes = [0; RECORD_HEADER_LEN];
        bytes[..4].copy_from_slice(&u32::from(self.record_type).to_le_bytes());
        bytes[4..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }
}
