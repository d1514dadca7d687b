//! Record headers and record types.

use std::fmt;

use crate::fields::{Builder, Fields};

/// Length of a record's header in bytes.
pub const RECORD_HEADER_LEN: usize = 8;

/// The longest record body, in bytes (libxc's `REC_LENGTH_MAX`).
pub const MAX_RECORD_LEN: u32 = 128 << 20;

/// Bit of a record's type: a restorer that does not know the type may ignore the record.
pub const OPTIONAL: u32 = 1 << 31;

/// A record's type, by the specification's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordType {
    /// Ends the stream. Its body is empty.
    End,
    /// Types and contents of guest pages.
    PageData,
    /// Word size and page table depth of a PV guest.
    X86PvInfo,
    /// Where a PV guest keeps its P2M table.
    X86PvP2mFrames,
    /// A PV vCPU's `vcpu_guest_context`.
    X86PvVcpuBasic,
    /// A PV vCPU's `xen_domctl_ext_vcpucontext`.
    X86PvVcpuExtended,
    /// A PV vCPU's extended (XSAVE) state.
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
    /// Says that memory that follows is for comparing only. Its body is empty.
    Verify,
    /// Says that the records so far are a consistent state (Remus, COLO). Its body is empty.
    Checkpoint,
    /// pfns that the secondary host has dirtied (COLO's back channel).
    CheckpointDirtyPfnList,
    /// Says that what does not change while the guest runs has been sent. Its body is empty;
    /// version 3 only.
    StaticDataEnd,
    /// The guest's CPUID leaves; version 3 only.
    X86CpuidPolicy,
    /// The guest's MSR policy; version 3 only.
    X86MsrPolicy,
    /// Any other value; [`OPTIONAL`] tells whether it may be ignored.
    Unknown(u32),
}

/// The known types, each at the index that is its value, with the specification's names.
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
    /// Whether the type is not known here and a restorer may ignore its records.
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

/// A record's header: what its body is, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the body is.
    pub record_type: RecordType,
    /// Length of the body in bytes, without padding.
    pub length: u32,
}

impl RecordHeader {
    /// Parses a header of any type and length; [`RecordHeader::check_length`] judges the length.
    pub fn parse(bytes: &[u8; RECORD_HEADER_LEN]) -> Self {
        let fields = Fields(bytes);
        Self { record_type: fields.le32::<0>().into(), length: fields.le32::<4>() }
    }

    pub fn to_bytes(&self) -> [u8; RECORD_HEADER_LEN] {
        Builder::new()
            .put::<0, 4>(u32::from(self.record_type).to_le_bytes())
            .put::<4, 4>(self.length.to_le_bytes())
            .bytes()
    }
}
