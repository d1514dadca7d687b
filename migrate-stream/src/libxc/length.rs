//! Which lengths a record of each type may have: what can be told from its header alone, before any
//! of the body has arrived.

use super::cpu::{CpuidPolicy, MsrPolicy, TscInfo};
use super::error::{BodyError, check_entries, check_exact, check_least};
use super::hvm::HvmParams;
use super::page_data::{PAGE_SIZE, PageData};
use super::pv::{P2mFrames, PvInfo, VcpuState};
use super::record::{MAX_RECORD_LEN, RecordHeader, RecordType};

impl RecordHeader {
    /// Compares the length with [`MAX_RECORD_LEN`] and with what the type allows.
    pub fn check_length(&self) -> Result<(), BodyError> {
        let (length, most) = (self.length as usize, MAX_RECORD_LEN as usize);
        if length > most {
            return Err(BodyError::TooLong { length, most });
        }
        check_length(self.record_type, length)
    }
}

/// Checks that a body of this type can have this length.
pub(super) fn check_length(record_type: RecordType, length: usize) -> Result<(), BodyError> {
    use RecordType as T;
    match record_type {
        T::End | T::Verify | T::Checkpoint | T::StaticDataEnd => check_exact(length, 0),
        T::PageData => check_least(length, PageData::LEAST_LEN),
        T::X86PvInfo => check_exact(length, PvInfo::LEN),
        T::X86PvP2mFrames => {
            check_least(length, P2mFrames::LEAST_LEN)?;
            check_entries(length, P2mFrames::HEADER_LEN, P2mFrames::ENTRY_LEN)
        }
        T::X86PvVcpuBasic => VcpuState::Basic.check_length(length),
        T::X86PvVcpuExtended => VcpuState::Extended.check_length(length),
        T::X86PvVcpuXsave => VcpuState::Xsave.check_length(length),
        T::X86PvVcpuMsrs => VcpuState::Msrs.check_length(length),
        T::SharedInfo => check_exact(length, PAGE_SIZE),
        T::X86TscInfo => check_exact(length, TscInfo::LEN),
        T::HvmContext => check_least(length, 1),
        T::HvmParams => check_entries(length, HvmParams::HEADER_LEN, HvmParams::ENTRY_LEN),
        T::CheckpointDirtyPfnList => check_entries(length, 0, 8),
        T::X86CpuidPolicy => check_policy(length, CpuidPolicy::ENTRY_LEN),
        T::X86MsrPolicy => check_policy(length, MsrPolicy::ENTRY_LEN),
        T::Toolstack | T::Unknown(_) => Ok(()),
    }
}

/// A policy has one entry or more.
fn check_policy(length: usize, entry: usize) -> Result<(), BodyError> {
    check_least(length, entry)?;
    check_entries(length, 0, entry)
}
