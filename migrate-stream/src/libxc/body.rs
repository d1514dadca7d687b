//! Record bodies by type, and what can be wrong with one.

use super::cpu::{CpuidPolicy, MsrPolicy, TscInfo};
use super::hvm::{HvmContext, HvmParams};
use super::page_data::PageData;
use super::pv::{P2mFrames, PvInfo, SharedInfo, Vcpu, VcpuState};
use super::{PAGE_SIZE, RecordType};

/// What is wrong with a record's body. Lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not the one length that the type or the counts in the body allow.
    #[error("length {length}, expected {expected}")]
    Length {
        /// The body's.
        length: usize,
        /// What it must be.
        expected: u64,
    },
    /// Shorter than anything of this type.
    #[error("length {length}, expected at least {least}")]
    TooShort {
        /// The body's.
        length: usize,
        /// The least.
        least: usize,
    },
    /// Longer than allowed.
    #[error("length {length}, at most {most} is allowed")]
    TooLong {
        /// The body's.
        length: usize,
        /// The most.
        most: usize,
    },
    /// Not a whole number of entries.
    #[error("length {length} is not {fixed} and a multiple of {entry}")]
    Entries {
        /// The body's.
        length: usize,
        /// Bytes before the entries.
        fixed: usize,
        /// Size of an entry.
        entry: usize,
    },
    /// A reserved field or bit is not zero.
    #[error("reserved bits of {field} are {value:#x}, expected 0")]
    Reserved {
        /// Where.
        field: &'static str,
        /// The reserved bits.
        value: u64,
    },
    /// A field holds a value that the format does not allow.
    #[error("{field} is {value}, which is not allowed")]
    Value {
        /// Which.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// Reserved bits in a pfn of PAGE_DATA.
    #[error("reserved bits set in pfn[{index}], {entry:#018x}")]
    PfnReserved {
        /// Its place in the list.
        index: usize,
        /// The whole entry.
        entry: u64,
    },
    /// A page type that the format does not have.
    #[error("page type {page_type:#x} of pfn[{index}] is not known")]
    PageType {
        /// Its place in the list.
        index: usize,
        /// The type.
        page_type: u8,
    },
    /// A page to be written has contents although its type has none, or the reverse.
    #[error("contents of pfn[{index}] do not go with its page type")]
    PageContents {
        /// Its place in the list.
        index: usize,
    },
    /// The first pfn of a range is above its last.
    #[error("range of pfns from {start:#x} to {end:#x} is reversed")]
    Range {
        /// First.
        start: u32,
        /// Last.
        end: u32,
    },
    /// Strings that do not end in a NUL.
    #[error("strings are not NUL-terminated")]
    NotTerminated,
    /// A key without a value.
    #[error("{strings} strings, expected pairs")]
    OddStrings {
        /// How many there are.
        strings: usize,
    },
}

/// A body of whole entries after a fixed part.
pub(super) fn check_entries(length: usize, fixed: usize, entry: usize) -> Result<(), BodyError> {
    if length < fixed {
        return Err(BodyError::TooShort { length, least: fixed });
    }
    if !(length - fixed).is_multiple_of(entry) {
        return Err(BodyError::Entries { length, fixed, entry });
    }
    Ok(())
}

/// A reserved field that must be 0.
pub(super) fn check_reserved(field: &'static str, value: u64) -> Result<(), BodyError> {
    if value != 0 {
        return Err(BodyError::Reserved { field, value });
    }
    Ok(())
}

fn check_exact(length: usize, expected: usize) -> Result<(), BodyError> {
    if length != expected {
        return Err(BodyError::Length { length, expected: expected as u64 });
    }
    Ok(())
}

fn check_least(length: usize, least: usize) -> Result<(), BodyError> {
    if length < least {
        return Err(BodyError::TooShort { length, least });
    }
    Ok(())
}

/// Whether a body of this type can have this length; what can be told before any of the body is
/// there.
pub(super) fn check_length(record_type: RecordType, length: usize) -> Result<(), BodyError> {
    match record_type {
        RecordType::End
        | RecordType::Verify
        | RecordType::Checkpoint
        | RecordType::StaticDataEnd => check_exact(length, 0),
        RecordType::PageData => check_least(length, PageData::LEAST_LEN),
        RecordType::X86PvInfo => check_exact(length, PvInfo::LEN),
        RecordType::X86PvP2mFrames => {
            check_least(length, P2mFrames::LEAST_LEN)?;
            check_entries(length, P2mFrames::HEADER_LEN, 8)
        }
        RecordType::X86PvVcpuBasic => VcpuState::Basic.check_length(length),
        RecordType::X86PvVcpuExtended => VcpuState::Extended.check_length(length),
        RecordType::X86PvVcpuXsave => VcpuState::Xsave.check_length(length),
        RecordType::X86PvVcpuMsrs => VcpuState::Msrs.check_length(length),
        RecordType::SharedInfo => check_exact(length, PAGE_SIZE),
        RecordType::X86TscInfo => check_exact(length, TscInfo::LEN),
        RecordType::HvmContext => check_least(length, 1),
        RecordType::HvmParams => check_entries(length, HvmParams::HEADER_LEN, HvmParams::ENTRY_LEN),
        RecordType::CheckpointDirtyPfnList => check_entries(length, 0, 8),
        RecordType::X86CpuidPolicy => {
            check_least(length, CpuidPolicy::ENTRY_LEN)?;
            check_entries(length, 0, CpuidPolicy::ENTRY_LEN)
        }
        RecordType::X86MsrPolicy => {
            check_least(length, MsrPolicy::ENTRY_LEN)?;
            check_entries(length, 0, MsrPolicy::ENTRY_LEN)
        }
        RecordType::Toolstack | RecordType::Unknown(_) => Ok(()),
    }
}

/// A record's body, borrowed from the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// END, VERIFY, CHECKPOINT or STATIC_DATA_END, which have none.
    Empty,
    /// PAGE_DATA.
    PageData(PageData<'a>),
    /// X86_PV_INFO.
    PvInfo(PvInfo),
    /// X86_PV_P2M_FRAMES.
    P2mFrames(P2mFrames<'a>),
    /// X86_PV_VCPU_BASIC, _EXTENDED, _XSAVE, _MSRS.
    Vcpu(Vcpu<'a>),
    /// SHARED_INFO.
    SharedInfo(SharedInfo<'a>),
    /// X86_TSC_INFO.
    TscInfo(TscInfo),
    /// HVM_CONTEXT.
    HvmContext(HvmContext<'a>),
    /// HVM_PARAMS.
    HvmParams(HvmParams<'a>),
    /// X86_CPUID_POLICY.
    CpuidPolicy(CpuidPolicy<'a>),
    /// X86_MSR_POLICY.
    MsrPolicy(MsrPolicy<'a>),
    /// TOOLSTACK, CHECKPOINT_DIRTY_PFN_LIST and types unknown here: bytes without a meaning to a
    /// restorer.
    Opaque(&'a [u8]),
}

impl<'a> Body<'a> {
    /// Parses a whole body (without its padding) of a record of this type.
    pub fn parse(record_type: RecordType, body: &'a [u8]) -> Result<Self, BodyError> {
        check_length(record_type, body.len())?;
        Ok(match record_type {
            RecordType::End
            | RecordType::Verify
            | RecordType::Checkpoint
            | RecordType::StaticDataEnd => Self::Empty,
            RecordType::PageData => Self::PageData(PageData::parse(body)?),
            RecordType::X86PvInfo => Self::PvInfo(PvInfo::parse(body)?),
            RecordType::X86PvP2mFrames => Self::P2mFrames(P2mFrames::parse(body)?),
            RecordType::X86PvVcpuBasic => Self::Vcpu(Vcpu::parse(VcpuState::Basic, body)?),
            RecordType::X86PvVcpuExtended => Self::Vcpu(Vcpu::parse(VcpuState::Extended, body)?),
            RecordType::X86PvVcpuXsave => Self::Vcpu(Vcpu::parse(VcpuState::Xsave, body)?),
            RecordType::X86PvVcpuMsrs => Self::Vcpu(Vcpu::parse(VcpuState::Msrs, body)?),
            RecordType::SharedInfo => Self::SharedInfo(SharedInfo::parse(body)?),
            RecordType::X86TscInfo => Self::TscInfo(TscInfo::parse(body)?),
            RecordType::HvmContext => Self::HvmContext(HvmContext::parse(body)?),
            RecordType::HvmParams => Self::HvmParams(HvmParams::parse(body)?),
            RecordType::X86CpuidPolicy => Self::CpuidPolicy(CpuidPolicy::parse(body)?),
            RecordType::X86MsrPolicy => Self::MsrPolicy(MsrPolicy::parse(body)?),
            RecordType::Toolstack | RecordType::CheckpointDirtyPfnList | RecordType::Unknown(_) => {
                Self::Opaque(body)
            }
        })
    }

    /// Appends the body's bytes, without padding.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Empty => {}
            Self::PageData(body) => body.write(out),
            Self::PvInfo(body) => body.write(out),
            Self::P2mFrames(body) => body.write(out),
            Self::Vcpu(body) => body.write(out),
            Self::SharedInfo(body) => out.extend_from_slice(body.0),
            Self::TscInfo(body) => body.write(out),
            Self::HvmContext(body) => out.extend_from_slice(body.0),
            Self::HvmParams(body) => body.write(out),
            Self::CpuidPolicy(body) => body.write(out),
            Self::MsrPolicy(body) => body.write(out),
            Self::Opaque(bytes) => out.extend_from_slice(bytes),
        }
    }
}
