//! A guest's memory and processor state, read from outside: what a saver of PVH and HVM guests
//! needs of Xen.
//!
//! The calls and their order are those of xg_sr_save.c and xg_sr_save_x86_hvm.c;
//! [`rxl_precopy::save_memory`] makes the stream.

use std::ffi::c_int;

use migrate_stream::libxc::{HvmParam, PAGE_SIZE, TscInfo};
use nix::errno::Errno;

use crate::cpu_policy::cpu_policy;
use crate::failure::Failure;
use crate::foreign::{Access, Foreign};
use crate::interface::Interface;
use crate::library::Library;
use crate::watch::MemoryWatch;
use rxl_precopy::save_memory::{Memory, PageKind};

/// The parameters that travel (xg_sr_save_x86_hvm.c: write_hvm_params), in its order.
const PARAMS: [u32; 16] = [
    libxl_sys::HVM_PARAM_STORE_PFN,
    libxl_sys::HVM_PARAM_IOREQ_PFN,
    libxl_sys::HVM_PARAM_BUFIOREQ_PFN,
    libxl_sys::HVM_PARAM_PAGING_RING_PFN,
    libxl_sys::HVM_PARAM_MONITOR_RING_PFN,
    libxl_sys::HVM_PARAM_SHARING_RING_PFN,
    libxl_sys::HVM_PARAM_VM86_TSS_SIZED,
    libxl_sys::HVM_PARAM_CONSOLE_PFN,
    libxl_sys::HVM_PARAM_ACPI_IOPORTS_LOCATION,
    libxl_sys::HVM_PARAM_VIRIDIAN,
    libxl_sys::HVM_PARAM_IDENT_PT,
    libxl_sys::HVM_PARAM_VM_GENERATION_ID_ADDR,
    libxl_sys::HVM_PARAM_IOREQ_SERVER_PFN,
    libxl_sys::HVM_PARAM_NR_IOREQ_SERVER_PAGES,
    libxl_sys::HVM_PARAM_X87_FIP_WIDTH,
    libxl_sys::HVM_PARAM_MCA_CAP,
];

/// The most pfns that a guest can have here: 16 TiB of them, a bitmap of 512 MiB.
const MOST_PFNS: u64 = 1 << 32;

/// The memory of one PVH or HVM domain, in whose p2m a pfn is its own gfn.
pub struct GuestMemory {
    xen: Interface,
    foreign: Foreign,
    bitmap: Bitmap,
    pfns: u64,
    watch: MemoryWatch,
    /// Reused from call to call.
    types: Vec<libxl_sys::xen_pfn_t>,
}

// SAFETY: `Interface` and `Foreign` may be moved between threads, as they say; the bitmap's memory
// belongs to this value alone, and its pointers are used under `&self` or `&mut self` only.
unsafe impl Send for GuestMemory {}

impl GuestMemory {
    /// Opens a domain's memory and makes room for its log-dirty bitmap.
    pub fn open(library: Library, domid: u32) -> Result<Self, Failure> {
        let xen = Interface::open(library, domid)?;
        let pfns = checked_pfns(&xen)?;
        let foreign = Foreign::open(&xen)?;
        let bitmap = Bitmap::new(&xen, pfns)?;
        let watch = MemoryWatch::start(library, domid)?;
        Ok(Self { xen, foreign, bitmap, pfns, watch, types: Vec::new() })
    }

    /// Asks Xen for the types of these pages, into `self.types`.
    fn ask_types(&mut self, pfns: &[u64]) -> Result<(), Failure> {
        self.types.clear();
        self.types.extend_from_slice(pfns);
        let number =
            u32::try_from(pfns.len()).map_err(|_| Failure::of("too many pages in a batch"))?;
        let types = self.types.as_mut_ptr();
        // SAFETY: `number` elements are there, to be read as page numbers and overwritten with
        // types.
        let rc = unsafe {
            self.xen.functions().xc_get_pfn_type_batch(
                self.xen.as_ptr(),
                self.xen.domid(),
                number,
                types,
            )
        };
        self.xen.check("XEN_DOMCTL_getpageframeinfo3", rc).map(drop)
    }
}

impl Memory for GuestMemory {
    type Error = Failure;

    /// Xen never lowers the number (x86/mm/p2m-ept.c: max_mapped_pfn).
    fn pfns(&mut self) -> Result<u64, Failure> {
        let pfns = checked_pfns(&self.xen)?;
        if pfns > self.pfns {
            let bitmap = Bitmap::new(&self.xen, pfns)?;
            std::mem::replace(&mut self.bitmap, bitmap).free(&self.xen);
            self.pfns = pfns;
        }
        Ok(self.pfns)
    }

    fn start_log_dirty(&mut self) -> Result<(), Failure> {
        let enable = libxl_sys::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY;
        // On already, for a display or left by someone who died: only a fresh start has an empty
        // bitmap.
        let on = self.xen.shadow(enable).or_else(|_| {
            self.xen
                .shadow(libxl_sys::XEN_DOMCTL_SHADOW_OP_OFF)
                .and_then(|()| self.xen.shadow(enable))
        });
        on.map_err(|errno| log_dirty_failed("on", errno))
    }

    fn stop_log_dirty(&mut self) -> Result<(), Failure> {
        let off = self.xen.shadow(libxl_sys::XEN_DOMCTL_SHADOW_OP_OFF);
        off.map_err(|errno| log_dirty_failed("off", errno))
    }

    fn resident(&mut self) -> Result<u64, Failure> {
        self.xen.info().map(|info| info.tot_pages)
    }

    fn take_growth(&mut self) -> bool {
        self.watch.take_growth()
    }

    fn xen_version(&self) -> (u32, u32) {
        crate::release()
    }

    fn collect_dirty(&mut self, last: bool) -> Result<(), Failure> {
        let (xen, clean) = (&self.xen, libxl_sys::XEN_DOMCTL_SHADOW_OP_CLEAN);
        let mode = if last { libxl_sys::XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL } else { 0 };
        let mut stats = libxl_sys::xc_shadow_op_stats_t { fault_count: 0, dirty_count: 0 };
        let buffer = &raw mut self.bitmap.buffer;
        let (at, domid, pfns) = (xen.as_ptr(), xen.domid(), self.pfns);
        // SAFETY: the buffer was allocated for as many bits as there are pfns; Xen writes no more
        // than that.
        let got = unsafe {
            xen.functions().xc_logdirty_control(
                at,
                domid,
                clean,
                buffer,
                pfns,
                mode,
                &raw mut stats,
            )
        };
        if u64::try_from(got) == Ok(pfns) {
            Ok(())
        } else {
            Err(xen.failure("XEN_DOMCTL_SHADOW_OP_CLEAN"))
        }
    }

    fn dirty(&self) -> &[u64] {
        self.bitmap.words()
    }

    fn kinds(&mut self, pfns: &[u64], kinds: &mut Vec<PageKind>) -> Result<(), Failure> {
        self.ask_types(pfns)?;
        kinds.clear();
        for (pfn, value) in pfns.iter().zip(&self.types) {
            kinds.push(kind(*value).ok_or_else(|| {
                Failure::of(format!("page {pfn:#x} has type {value:#x}, which no such guest has"))
            })?);
        }
        Ok(())
    }

    fn copy(&mut self, pfns: &[u64], out: &mut Vec<u8>) -> Result<Vec<usize>, Failure> {
        if pfns.is_empty() {
            return Ok(Vec::new());
        }
        let mapping = self.foreign.map(&self.xen, pfns, Access::Read)?;
        let mut failed = Vec::new();
        for index in 0..pfns.len() {
            if !mapping.append(index, out) {
                failed.push(index);
            }
        }
        Ok(failed)
    }

    fn cpu_policy(&mut self) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        cpu_policy(&self.xen)
    }

    fn is_suspended(&mut self) -> Result<bool, Failure> {
        let flags = self.xen.info()?.flags;
        let reason =
            (flags >> libxl_sys::XEN_DOMINF_shutdownshift) & libxl_sys::XEN_DOMINF_shutdownmask;
        Ok(flags & libxl_sys::XEN_DOMINF_shutdown != 0 && reason == libxl_sys::SHUTDOWN_suspend)
    }

    fn tsc_info(&mut self) -> Result<TscInfo, Failure> {
        let mut tsc = TscInfo { mode: 0, khz: 0, nsec: 0, incarnation: 0 };
        let xen = &self.xen;
        let (mode, nsec) = (&raw mut tsc.mode, &raw mut tsc.nsec);
        let (khz, incarnation) = (&raw mut tsc.khz, &raw mut tsc.incarnation);
        // SAFETY: the handle is open and the places for the results valid.
        let rc = unsafe {
            xen.functions().xc_domain_get_tsc_info(
                xen.as_ptr(),
                xen.domid(),
                mode,
                nsec,
                khz,
                incarnation,
            )
        };
        xen.check("XEN_DOMCTL_gettscinfo", rc).map(|_| tsc)
    }

    fn hvm_context(&mut self) -> Result<Vec<u8>, Failure> {
        let xen = &self.xen;
        let get = |at: *mut u8, room: u32| {
            // SAFETY: null with no room asks for the size; otherwise `room` bytes are there.
            let rc = unsafe {
                xen.functions().xc_domain_hvm_getcontext(xen.as_ptr(), xen.domid(), at, room)
            };
            xen.check("XEN_DOMCTL_gethvmcontext", rc)
        };
        let size = get(std::ptr::null_mut(), 0)?.unsigned_abs();
        let mut context = vec![0; size as usize];
        let got = get(context.as_mut_ptr(), size)?.unsigned_abs();
        context.truncate(got as usize);
        Ok(context)
    }

    fn hvm_params(&mut self) -> Result<Vec<HvmParam>, Failure> {
        let read = |index: u32| {
            self.xen.hvm_param(index).map(|value| HvmParam { index: index.into(), value })
        };
        let params: Result<Vec<_>, _> = PARAMS.into_iter().map(read).collect();
        let mut params = params?;
        params.retain(|param| param.value != 0);
        Ok(params)
    }
}

fn log_dirty_failed(way: &str, errno: Errno) -> Failure {
    Failure::of(format!("log-dirty mode cannot be switched {way}: {}", errno.desc()))
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        self.bitmap.free(&self.xen);
    }
}

/// One past the highest page number, where that can be saved.
fn checked_pfns(xen: &Interface) -> Result<u64, Failure> {
    let (domid, pfns) = (xen.domid(), xen.pfns()?);
    if pfns > MOST_PFNS {
        return Err(Failure::of(format!(
            "domain {domid} has {pfns} page numbers, more than rxl can save"
        )));
    }
    Ok(pfns)
}

/// The kind that one of domctl.h's `XEN_DOMCTL_PFINFO_*` stands for. Only PV guests have the types
/// of page tables.
fn kind(value: libxl_sys::xen_pfn_t) -> Option<PageKind> {
    match value >> 28 {
        0x0 => Some(PageKind::Ram),
        0xd => Some(PageKind::Broken),
        0xf => Some(PageKind::Hole),
        _ => None,
    }
}

/// One bit for each pfn, in memory that Xen may write to.
struct Bitmap {
    buffer: libxl_sys::xc_hypercall_buffer_t,
    words: usize,
    pages: c_int,
}

impl Bitmap {
    fn new(xen: &Interface, bits: u64) -> Result<Self, Failure> {
        // As the macro DECLARE_HYPERCALL_BUFFER of xenctrl.h initialises it.
        let mut buffer = libxl_sys::xc_hypercall_buffer_t {
            hbuf: std::ptr::null_mut(),
            param_shadow: std::ptr::null_mut(),
            dir: 0,
            ubuf: std::ptr::without_provenance_mut(usize::MAX),
            sz: 0,
        };
        let words = usize::try_from(bits.div_ceil(64)).map_err(|e| Failure::of(e.to_string()))?;
        let pages = c_int::try_from((words * 8).div_ceil(PAGE_SIZE).max(1))
            .map_err(|e| Failure::of(e.to_string()))?;
        // SAFETY: the handle is open, the buffer unallocated; it is freed by `free`.
        let at = unsafe {
            xen.functions().xc__hypercall_buffer_alloc_pages(xen.as_ptr(), &raw mut buffer, pages)
        };
        if at.is_null() {
            Err(xen.failure("log-dirty bitmap"))
        } else {
            Ok(Self { buffer, words, pages })
        }
    }

    /// The bits as Xen last wrote them, 64 to a word.
    fn words(&self) -> &[u64] {
        // SAFETY: page-aligned, at least so many words long, zeroed by mmap, and written by Xen
        // only during `collect_dirty`, which borrows the whole memory mutably.
        unsafe { std::slice::from_raw_parts(self.buffer.hbuf.cast::<u64>(), self.words) }
    }

    fn free(&self, xen: &Interface) {
        let mut buffer = self.buffer;
        // SAFETY: allocated by `new` with so many pages; called once, when its owner goes.
        unsafe {
            xen.functions().xc__hypercall_buffer_free_pages(
                xen.as_ptr(),
                &raw mut buffer,
                self.pages,
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_domctls() {
        assert_eq!(kind(0), Some(PageKind::Ram));
        assert_eq!(kind(0xf << 28), Some(PageKind::Hole));
        assert_eq!(kind(0xd << 28), Some(PageKind::Broken));
        assert_eq!(kind(1 << 28), None, "a PV guest's page table");
    }
}
