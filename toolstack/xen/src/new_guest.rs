//! A domain that is being built: what a restorer of PVH guests needs of Xen.
//!
//! The calls are those of xg_sr_restore.c and xg_sr_restore_x86_hvm.c;
//! [`rxl_precopy::load_memory`] says in which order.

use std::ffi::c_int;

use migrate_stream::libxc::{CpuidLeaf, CpuidPolicy, HvmParam, MsrEntry, MsrPolicy, TscInfo};
use nix::errno::Errno;

use crate::failure::Failure;
use crate::foreign::{Access, Foreign};
use crate::interface::Interface;
use crate::library::Library;
use rxl_core::domain::SpecialPages;
use rxl_precopy::load_memory::{Contents, EventChannels, NewGuest, SUPERPAGE};

/// Order of a superpage of 2 MiB.
const SUPERPAGE_ORDER: u32 = SUPERPAGE.trailing_zeros();

const PAGES_PER_MIB: u64 = 256;

/// The domains at the other end of a new domain's rings, and the new domain's ports to them. libxl
/// tells its save helper so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rings {
    /// The new domain's event channel to xenstored.
    pub store_port: u32,
    /// The domain in which xenstored runs.
    pub store_domid: u32,
    /// The new domain's event channel to xenconsoled.
    pub console_port: u32,
    /// The domain in which xenconsoled runs.
    pub console_domid: u32,
}

/// Why no memory is kept free for a domain.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("{needed} MiB that were free have been taken or claimed by another domain")]
    Taken {
        /// What the domain may still take, in MiB.
        needed: u64,
    },
    #[error("this Xen does not keep memory for a domain (XENMEM_claim_pages: {})", .0.desc())]
    Refused(Errno),
    #[error("this Xen does not keep memory for a domain (it has no XENMEM_claim_pages)")]
    Unknown,
    #[error(transparent)]
    Xen(#[from] Failure),
}

/// A new PVH domain, whose memory is to be filled.
pub struct BuiltGuest {
    xen: Interface,
    foreign: Foreign,
    rings: Rings,
    /// Reused from call to call.
    numbers: Vec<libxl_sys::xen_pfn_t>,
}

impl BuiltGuest {
    /// Opens a domain that libxl has just made.
    pub fn open(library: Library, domid: u32, rings: Rings) -> Result<Self, Failure> {
        let xen = Interface::open(library, domid)?;
        let foreign = Foreign::open(&xen)?;
        Ok(Self { xen, foreign, rings, numbers: Vec::new() })
    }

    /// XENMEM_populate_physmap, all or nothing.
    fn give(&mut self, pfns: &[u64], order: u32) -> Result<(), Failure> {
        self.numbers.clear();
        self.numbers.extend_from_slice(pfns);
        let (xen, count, at) = (&self.xen, pfns.len() as u64, self.numbers.as_mut_ptr());
        // SAFETY: the handle is open; `count` numbers are there, to be read and overwritten.
        let rc = unsafe {
            xen.functions().xc_domain_populate_physmap_exact(
                xen.as_ptr(),
                xen.domid(),
                count,
                order,
                0,
                at,
            )
        };
        xen.check("XENMEM_populate_physmap", rc).map(drop)
    }

    /// Has Xen keep free what the domain may still take: all that it may have, as libxl has set it
    /// from the guest's target. What the domain takes is taken from the claim. Xen takes a claim
    /// back with the domain (domain.c: domain_kill).
    pub fn claim(&self) -> Result<(), ClaimError> {
        let info = self.xen.info()?;
        if set_claim(&self.xen, info.max_pages) < 0 {
            let needed = info.max_pages.saturating_sub(info.tot_pages).div_ceil(PAGES_PER_MIB);
            return Err(match Errno::last() {
                Errno::ENOMEM => ClaimError::Taken { needed },
                errno => ClaimError::Refused(errno),
            });
        }
        // Where Xen knows no claims libxenctrl of 4.17 tells of none (xc_domain.c:
        // xc_domain_claim_pages).
        if self.xen.info()?.outstanding_pages == 0 { Err(ClaimError::Unknown) } else { Ok(()) }
    }

    /// Says which of the two kinds of memory was too little.
    fn explained(&self, mut failure: Failure, wanted: u64) -> Failure {
        if let Ok(info) = self.xen.info()
            && info.tot_pages.saturating_add(wanted) > info.max_pages
        {
            let most = info.max_pages / PAGES_PER_MIB;
            failure.lines.push(format!(
                "it may have {most} MiB here: its memory has grown since it was offered"
            ));
        }
        failure
    }

    /// XENMEM_decrease_reservation, all or nothing.
    fn take_back(&mut self, pfns: &[u64]) -> Result<(), Failure> {
        self.numbers.clear();
        self.numbers.extend_from_slice(pfns);
        let (xen, count, at) = (&self.xen, pfns.len() as u64, self.numbers.as_mut_ptr());
        // SAFETY: the handle is open; `count` numbers are there, to be read and overwritten.
        let rc = unsafe {
            xen.functions().xc_domain_decrease_reservation_exact(
                xen.as_ptr(),
                xen.domid(),
                count,
                0,
                at,
            )
        };
        xen.check("XENMEM_decrease_reservation", rc).map(drop)
    }

    fn put(&mut self, pages: &[Contents<'_>]) -> Result<(), Failure> {
        self.numbers.clear();
        self.numbers.extend(pages.iter().map(|(pfn, _)| *pfn));
        let mut mapping = self.foreign.map(&self.xen, &self.numbers, Access::Write)?;
        for (index, (pfn, contents)) in pages.iter().enumerate() {
            if !mapping.fill(index, contents) {
                let why = mapping.error(index).unwrap_or(Errno::EFAULT).desc();
                return Err(Failure::of(format!("page {pfn:#x} cannot be mapped: {why}")));
            }
        }
        Ok(())
    }

    fn set_policy(&self, cpuid: &[u8], msr: &[u8]) -> Result<(), Failure> {
        let malformed = |error| Failure::of(format!("CPU policy: {error}"));
        let mut leaves = Vec::new();
        if !cpuid.is_empty() {
            leaves.extend(CpuidPolicy::parse(cpuid).map_err(malformed)?.leaves().map(raw_leaf));
        }
        let mut msrs = Vec::new();
        if !msr.is_empty() {
            msrs.extend(MsrPolicy::parse(msr).map_err(malformed)?.msrs().map(raw_msr));
        }
        let (xen, count) = (&self.xen, |length: usize| u32::try_from(length).unwrap_or(u32::MAX));
        let (mut leaf, mut subleaf, mut index) = (u32::MAX, u32::MAX, u32::MAX);
        // SAFETY: the handle is open; both arrays have as many elements as is said and are only
        // read; the places for what is wrong are valid.
        let rc = unsafe {
            xen.functions().xc_set_domain_cpu_policy(
                xen.as_ptr(),
                xen.domid(),
                count(leaves.len()),
                leaves.as_mut_ptr(),
                count(msrs.len()),
                msrs.as_mut_ptr(),
                &raw mut leaf,
                &raw mut subleaf,
                &raw mut index,
            )
        };
        let call = format!(
            "XEN_DOMCTL_set_cpu_policy (leaf {leaf:#x}, subleaf {subleaf:#x}, MSR {index:#x})"
        );
        xen.check(&call, rc).map(drop)
    }

    fn checked(&self, call: &str, rc: c_int) -> Result<(), Failure> {
        self.xen.check(call, rc).map(drop)
    }
}

/// Ends a domain's claim, if it has one.
pub fn end_claim(library: Library, domid: u32) -> Result<(), Failure> {
    let xen = Interface::open(library, domid)?;
    xen.check("XENMEM_claim_pages", set_claim(&xen, 0)).map(drop)
}

/// XENMEM_claim_pages; 0 takes the claim back.
fn set_claim(xen: &Interface, pages: u64) -> c_int {
    // SAFETY: the handle is open; only numbers are passed.
    unsafe { xen.functions().xc_domain_claim_pages(xen.as_ptr(), xen.domid(), pages) }
}

impl NewGuest for BuiltGuest {
    type Error = Failure;

    fn set_cpu_policy(&mut self, cpuid: &[u8], msr: &[u8]) -> Result<(), Failure> {
        self.set_policy(cpuid, msr)
    }

    fn populate(&mut self, pfns: &[u64]) -> Result<(), Failure> {
        self.give(pfns, 0).map_err(|failure| self.explained(failure, pfns.len() as u64))
    }

    fn give_back(&mut self, pfns: &[u64]) -> Result<(), Failure> {
        self.take_back(pfns)
    }

    /// A failure is taken for a lack of memory in one piece, as Xen does not tell (xg_sr_restore.c:
    /// populate_small_superpage).
    fn populate_superpage(&mut self, first: u64) -> Result<bool, Failure> {
        Ok(self.give(&[first], SUPERPAGE_ORDER).is_ok())
    }

    fn write(&mut self, pages: &[Contents<'_>]) -> Result<(), Failure> {
        self.put(pages)
    }

    fn clear(&mut self, pfn: u64) -> Result<(), Failure> {
        let xen = &self.xen;
        // SAFETY: the handle is open; Xen checks the number.
        let rc =
            unsafe { xen.functions().xc_clear_domain_pages(xen.as_ptr(), xen.domid(), pfn, 1) };
        self.checked("clearing a page", rc)
    }

    fn grant(&mut self, special: SpecialPages) -> Result<(), Failure> {
        let (xen, Rings { store_domid, console_domid, .. }) = (&self.xen, self.rings);
        let SpecialPages { store, console } = special;
        // SAFETY: the handle is open; only numbers are passed.
        let rc = unsafe {
            xen.functions().xc_dom_gnttab_seed(
                xen.as_ptr(),
                xen.domid(),
                true,
                console,
                store,
                console_domid,
                store_domid,
            )
        };
        self.checked("xc_dom_gnttab_seed", rc)
    }

    fn set_tsc_info(&mut self, tsc: &TscInfo) -> Result<(), Failure> {
        let (xen, TscInfo { mode, khz, nsec, incarnation }) = (&self.xen, *tsc);
        // SAFETY: the handle is open; only numbers are passed.
        let rc = unsafe {
            xen.functions().xc_domain_set_tsc_info(
                xen.as_ptr(),
                xen.domid(),
                mode,
                nsec,
                khz,
                incarnation,
            )
        };
        self.checked("XEN_DOMCTL_settscinfo", rc)
    }

    fn set_hvm_param(&mut self, param: HvmParam) -> Result<(), Failure> {
        let (xen, HvmParam { index, value }) = (&self.xen, param);
        let index = u32::try_from(index)
            .map_err(|_| Failure::of(format!("parameter {index} is none of Xen's")))?;
        // SAFETY: the handle is open; only numbers are passed.
        let rc =
            unsafe { xen.functions().xc_hvm_param_set(xen.as_ptr(), xen.domid(), index, value) };
        self.checked(&format!("HVMOP_set_param {index} to {value:#x}"), rc)
    }

    fn set_hvm_context(&mut self, context: &[u8]) -> Result<(), Failure> {
        let (xen, mut context) = (&self.xen, context.to_vec());
        let size = u32::try_from(context.len()).map_err(|error| Failure::of(error.to_string()))?;
        // SAFETY: `size` bytes are there, which are only read.
        let rc = unsafe {
            xen.functions().xc_domain_hvm_setcontext(
                xen.as_ptr(),
                xen.domid(),
                context.as_mut_ptr(),
                size,
            )
        };
        self.checked("XEN_DOMCTL_sethvmcontext", rc)
    }

    fn end_claim(&mut self) -> Result<(), Failure> {
        self.checked("XENMEM_claim_pages", set_claim(&self.xen, 0))
    }

    fn event_channels(&self) -> EventChannels {
        EventChannels { store: self.rings.store_port, console: self.rings.console_port }
    }
}

fn raw_leaf(leaf: CpuidLeaf) -> libxl_sys::xen_cpuid_leaf_t {
    let [a, b, c, d] = leaf.registers;
    libxl_sys::xen_cpuid_leaf_t { leaf: leaf.leaf, subleaf: leaf.subleaf, a, b, c, d }
}

fn raw_msr(entry: MsrEntry) -> libxl_sys::xen_msr_entry_t {
    libxl_sys::xen_msr_entry_t { idx: entry.index, flags: 0, val: entry.value }
}
