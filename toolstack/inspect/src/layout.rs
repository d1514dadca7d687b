//! The records that a libxc stream must have, and their order, by the specification's chapter
//! "Layout". [`migrate_stream::order`] has those of its rules that restorers enforce.

use migrate_stream::libxc::{Body, DomainType, GuestWidth, RecordType};
use migrate_stream::order::LibxcOrder;

use crate::finding::Problem;

/// What the records of a stream so far say about the next ones.
pub struct Layout {
    /// None if the domain header named no known kind of guest: then the order cannot be checked.
    order: Option<(LibxcOrder, DomainType)>,
    width: Option<GuestWidth>,
    p2m_frames: bool,
    vcpu: bool,
    vcpu_basic: bool,
    hvm_context: bool,
}

impl Layout {
    /// The rules for a stream of this version and kind of guest.
    pub fn new(version: u32, domain_type: Option<DomainType>) -> Self {
        let order =
            domain_type.map(|domain_type| (LibxcOrder::new(version, domain_type), domain_type));
        Self {
            order,
            width: None,
            p2m_frames: false,
            vcpu: false,
            vcpu_basic: false,
            hvm_context: false,
        }
    }

    /// Takes the next record's type and reports violations of the order.
    pub fn record(&mut self, record_type: RecordType, mut find: impl FnMut(Problem)) {
        use RecordType as T;
        let Some((order, domain_type)) = &mut self.order else { return };
        if let Err(error) = order.record(record_type) {
            find(error.into());
        }
        match (*domain_type, record_type) {
            (DomainType::Pv, T::PageData) => self.pv_pages(find),
            (DomainType::Pv, T::End) => self.pv_end(find),
            (DomainType::Hvm, T::HvmParams) if self.hvm_context => {
                find(Problem::ParamsAfterContext)
            }
            (DomainType::Hvm, T::End) if !self.hvm_context => find(Problem::Missing("HVM_CONTEXT")),
            _ => {}
        }
        match record_type {
            T::X86PvP2mFrames => self.p2m_frames = true,
            T::X86PvVcpuBasic => (self.vcpu, self.vcpu_basic) = (true, true),
            T::X86PvVcpuExtended | T::X86PvVcpuXsave | T::X86PvVcpuMsrs => self.vcpu = true,
            T::HvmContext => self.hvm_context = true,
            _ => {}
        }
    }

    fn pv_pages(&self, mut find: impl FnMut(Problem)) {
        if !self.p2m_frames {
            find(Problem::Before("X86_PV_P2M_FRAMES"));
        }
        if self.vcpu {
            find(Problem::After("X86_PV_VCPU records"));
        }
    }

    fn pv_end(&self, mut find: impl FnMut(Problem)) {
        for (seen, name) in
            [(self.p2m_frames, "X86_PV_P2M_FRAMES"), (self.vcpu_basic, "X86_PV_VCPU_BASIC")]
        {
            if !seen {
                find(Problem::Missing(name));
            }
        }
    }

    /// Takes a body and returns the problem if it contradicts an earlier record, or is empty.
    pub fn body(&mut self, body: &Body<'_>) -> Option<Problem> {
        match body {
            Body::PvInfo(info) => self.width = Some(info.width),
            Body::P2mFrames(frames) if self.width.is_some_and(|width| !frames.fits(width)) => {
                return Some(Problem::GuestWidth);
            }
            Body::Vcpu(vcpu) if vcpu.context.is_empty() => return Some(Problem::NoContents),
            Body::Vcpu(vcpu) if self.width.is_some_and(|width| !vcpu.fits(width)) => {
                return Some(Problem::GuestWidth);
            }
            Body::HvmParams(params) if params.params().len() == 0 => {
                return Some(Problem::NoContents);
            }
            _ => {}
        }
        None
    }
}
