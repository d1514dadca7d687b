//! Which records may come when, in the plain (not checkpointed) streams of saves and migrations.
//!
//! A stream that breaks one of these rules makes libxc's or libxl's restore code fail (Xen's
//! tools/libs/guest/xg_sr_restore*.c and tools/libs/light/libxl_stream_read.c). Three more rules
//! find a broken stream early: in version 3 STATIC_DATA_END comes before END, and the CPU policy
//! comes before STATIC_DATA_END; a libxl stream holds one libxc stream.

use crate::libxc::{DomainType, RecordType};
use crate::libxl;

/// Why a record may not come where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The record needs another one, which has not come yet.
    #[error("comes before {0}")]
    Before(&'static str),
    /// The record may come once only.
    #[error("comes a second time")]
    Twice,
    /// The record had to come before STATIC_DATA_END, after which restorers ignore it.
    #[error("comes after STATIC_DATA_END")]
    AfterStaticData,
    /// The record belongs to the other type of guest.
    #[error("does not belong to a guest of this type")]
    GuestType,
    /// The record came with version 3 of the format.
    #[error("is not of stream version 2")]
    Version2,
    /// The record belongs to checkpointed streams (Remus, COLO), which are not supported.
    #[error("belongs to a checkpointed stream, which is not supported")]
    Checkpointed,
    /// The record is deprecated: restorers refuse it.
    #[error("is deprecated")]
    Deprecated,
}

/// Follows the records of a libxc stream and refuses those that come out of order.
#[derive(Clone, Copy, Debug)]
pub struct LibxcOrder {
    version: u32,
    domain_type: DomainType,
    static_data_end: bool,
    pv_info: bool,
}

impl LibxcOrder {
    /// Begins a stream that has this version in its image header and this type in its domain
    /// header.
    pub fn new(version: u32, domain_type: DomainType) -> Self {
        Self { version, domain_type, static_data_end: false, pv_info: false }
    }

    /// Takes the next record of the stream.
    pub fn record(&mut self, record_type: RecordType) -> Result<(), OrderError> {
        use RecordType as T;
        self.check_guest_type(record_type)?;
        match record_type {
            T::StaticDataEnd => self.end_static_data(),
            T::X86CpuidPolicy | T::X86MsrPolicy => self.check_policy(),
            T::X86PvInfo => self.take_pv_info(),
            T::PageData | T::End => self.check_static_data(),
            T::X86PvP2mFrames => {
                self.check_static_data()?;
                self.check_pv_info()
            }
            T::SharedInfo => self.check_pv_info(),
            T::Checkpoint | T::CheckpointDirtyPfnList => Err(OrderError::Checkpointed),
            T::Toolstack => Err(OrderError::Deprecated),
            _ => Ok(()),
        }
    }

    fn check_guest_type(&self, record_type: RecordType) -> Result<(), OrderError> {
        use RecordType as T;
        let belongs_to = match record_type {
            T::X86PvInfo
            | T::X86PvP2mFrames
            | T::X86PvVcpuBasic
            | T::X86PvVcpuExtended
            | T::X86PvVcpuXsave
            | T::X86PvVcpuMsrs
            | T::SharedInfo => DomainType::Pv,
            T::HvmContext | T::HvmParams => DomainType::Hvm,
            _ => return Ok(()),
        };
        if belongs_to != self.domain_type {
            return Err(OrderError::GuestType);
        }
        Ok(())
    }

    fn end_static_data(&mut self) -> Result<(), OrderError> {
        if self.version < 3 {
            return Err(OrderError::Version2);
        }
        if self.static_data_end {
            return Err(OrderError::Twice);
        }
        self.static_data_end = true;
        Ok(())
    }

    fn check_policy(&self) -> Result<(), OrderError> {
        if self.version < 3 {
            return Err(OrderError::Version2);
        }
        if self.static_data_end {
            return Err(OrderError::AfterStaticData);
        }
        Ok(())
    }

    fn take_pv_info(&mut self) -> Result<(), OrderError> {
        if self.pv_info {
            return Err(OrderError::Twice);
        }
        self.pv_info = true;
        Ok(())
    }

    fn check_static_data(&self) -> Result<(), OrderError> {
        if self.version >= 3 && !self.static_data_end {
            return Err(OrderError::Before("STATIC_DATA_END"));
        }
        Ok(())
    }

    fn check_pv_info(&self) -> Result<(), OrderError> {
        if !self.pv_info {
            return Err(OrderError::Before("X86_PV_INFO"));
        }
        Ok(())
    }
}

/// Follows the records of a libxl stream and refuses those that come out of order.
#[derive(Clone, Copy, Debug, Default)]
pub struct LibxlOrder {
    libxc_context: bool,
}

impl LibxlOrder {
    /// Takes the next record of the stream.
    pub fn record(&mut self, record_type: libxl::RecordType) -> Result<(), OrderError> {
        use libxl::RecordType as T;
        match record_type {
            T::LibxcContext if self.libxc_context => return Err(OrderError::Twice),
            T::LibxcContext => self.libxc_context = true,
            T::End if !self.libxc_context => return Err(OrderError::Before("LIBXC_CONTEXT")),
            T::CheckpointEnd | T::CheckpointState => return Err(OrderError::Checkpointed),
            _ => {}
        }
        Ok(())
    }
}
