//! The libxc stream, versions 2 and 3 (Xen's docs/specs/libxc-migration-stream.pandoc).
//!
//! The stream begins with an image header of 24 bytes, **big-endian**, and a domain header of 16
//! bytes. Records follow. The domain header and the records are **little-endian**. A record is u32
//! type, u32 length, the body, and zeroes up to a multiple of 8 that the length does not count.
//! Version 3 adds STATIC_DATA_END and the CPU policy records.
//!
//! [`Body`] parses a record's body by its type. The specification lets a restorer ignore reserved
//! bits. This parser demands that they are 0, as Xen's own verify-stream-v2 does: a set bit is
//! either damage or a format that this code does not know.

mod body;
mod cpu;
mod error;
mod header;
mod hvm;
mod length;
mod page_data;
mod pv;
mod record;

pub use body::Body;
pub use cpu::{CpuidLeaf, CpuidPolicy, MsrEntry, MsrPolicy, TscInfo};
pub use error::BodyError;
pub use header::{
    DOMAIN_HEADER_LEN, DomainHeader, DomainType, HeaderError, IDENT, IMAGE_HEADER_LEN, ImageHeader,
    MARKER, VERSIONS,
};
pub use hvm::{HvmContext, HvmParam, HvmParams};
pub use page_data::{PAGE_SIZE, Page, PageData, PageEntry, PageType, Pages};
pub(crate) use page_data::{PFN_MASK, count_contents};
pub use pv::{GuestWidth, P2mFrames, PvInfo, SharedInfo, Vcpu, VcpuState};
pub use record::{MAX_RECORD_LEN, OPTIONAL, RECORD_HEADER_LEN, RecordHeader, RecordType};
