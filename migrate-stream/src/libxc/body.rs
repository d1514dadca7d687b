//! A record's body, parsed by its type.

use super::cpu::{CpuidPolicy, MsrPolicy, TscInfo};
use super::error::BodyError;
use super::hvm::{HvmContext, HvmParams};
use super::length::check_length;
use super::page_data::PageData;
use super::pv::{P2mFrames, PvInfo, SharedInfo, Vcpu, VcpuState};
use super::record::RecordType;

/// A record's body, borrowed from the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// The body of END, VERIFY, CHECKPOINT or STATIC_DATA_END.
    Empty,
    /// The body of PAGE_DATA.
    PageData(PageData<'a>),
    /// The body of X86_PV_INFO.
    PvInfo(PvInfo),
    /// The body of X86_PV_P2M_FRAMES.
    P2mFrames(P2mFrames<'a>),
    /// The body of X86_PV_VCPU_BASIC, _EXTENDED, _XSAVE or _MSRS.
    Vcpu(Vcpu<'a>),
    /// The body of SHARED_INFO.
    SharedInfo(SharedInfo<'a>),
    /// The body of X86_TSC_INFO.
    TscInfo(TscInfo),
    /// The body of HVM_CONTEXT.
    HvmContext(HvmContext<'a>),
    /// The body of HVM_PARAMS.
    HvmParams(HvmParams<'a>),
    /// The body of X86_CPUID_POLICY.
    CpuidPolicy(CpuidPolicy<'a>),
    /// The body of X86_MSR_POLICY.
    MsrPolicy(MsrPolicy<'a>),
    /// The body of TOOLSTACK, CHECKPOINT_DIRTY_PFN_LIST or a type unknown here: bytes without a
    /// meaning to a restorer.
    Opaque(&'a [u8]),
}

impl<'a> Body<'a> {
    /// Parses a whole body, without its padding, of a record of this type.
    pub fn parse(record_type: RecordType, body: &'a [u8]) -> Result<Self, BodyError> {
        use RecordType as T;
        check_length(record_type, body.len())?;
        Ok(match record_type {
            T::End | T::Verify | T::Checkpoint | T::StaticDataEnd => Self::Empty,
            T::PageData => Self::PageData(PageData::parse(body)?),
            T::X86PvInfo => Self::PvInfo(PvInfo::parse(body)?),
            T::X86PvP2mFrames => Self::P2mFrames(P2mFrames::parse(body)?),
            T::X86PvVcpuBasic => Self::Vcpu(Vcpu::parse(VcpuState::Basic, body)?),
            T::X86PvVcpuExtended => Self::Vcpu(Vcpu::parse(VcpuState::Extended, body)?),
            T::X86PvVcpuXsave => Self::Vcpu(Vcpu::parse(VcpuState::Xsave, body)?),
            T::X86PvVcpuMsrs => Self::Vcpu(Vcpu::parse(VcpuState::Msrs, body)?),
            T::SharedInfo => Self::SharedInfo(SharedInfo::parse(body)?),
            T::X86TscInfo => Self::TscInfo(TscInfo::parse(body)?),
            T::HvmContext => Self::HvmContext(HvmContext::parse(body)?),
            T::HvmParams => Self::HvmParams(HvmParams::parse(body)?),
            T::X86CpuidPolicy => Self::CpuidPolicy(CpuidPolicy::parse(body)?),
            T::X86MsrPolicy => Self::MsrPolicy(MsrPolicy::parse(body)?),
            T::Toolstack | T::CheckpointDirtyPfnList | T::Unknown(_) => Self::Opaque(body),
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
