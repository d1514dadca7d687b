//! Pages of a guest, mapped into this process (libxenforeignmemory).

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;

use migrate_stream::libxc::PAGE_SIZE;
use nix::errno::Errno;
use nix::libc;

use crate::failure::Failure;
use crate::interface::Interface;

/// Whether a mapping may be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// A handle of libxenforeignmemory.
pub(super) struct Foreign {
    functions: &'static libxl_sys::Libxl,
    raw: NonNull<libxl_sys::xenforeignmemory_handle>,
}

// SAFETY: the handle is a structure with a descriptor, tied to no thread; the lack of Sync keeps it
// to one at a time.
unsafe impl Send for Foreign {}

impl Foreign {
    pub(super) fn open(xen: &Interface) -> Result<Self, Failure> {
        let functions = xen.functions();
        // SAFETY: no logger is passed; the handle is closed on drop.
        let raw = unsafe { functions.xenforeignmemory_open(std::ptr::null_mut(), 0) };
        let raw = NonNull::new(raw).ok_or_else(|| xen.failure("xenforeignmemory_open"))?;
        Ok(Self { functions, raw })
    }

    /// Maps pages of the domain. Each may fail by itself: see [`Mapping::error`].
    pub(super) fn map(
        &self,
        xen: &Interface,
        pfns: &[u64],
        access: Access,
    ) -> Result<Mapping<'_>, Failure> {
        let mut errors = vec![0; pfns.len()];
        let (numbers, at_errors) = (pfns.as_ptr(), errors.as_mut_ptr());
        let protection = match access {
            Access::Read => libc::PROT_READ,
            Access::Write => libc::PROT_READ | libc::PROT_WRITE,
        };
        let (handle, domid) = (self.raw.as_ptr(), xen.domid());
        // SAFETY: the handle is open; both arrays have as many elements as is said.
        let at = unsafe {
            self.functions.xenforeignmemory_map(
                handle,
                domid,
                protection,
                pfns.len(),
                numbers,
                at_errors,
            )
        };
        let at = NonNull::new(at).ok_or_else(|| xen.failure("xenforeignmemory_map"))?;
        Ok(Mapping { functions: self.functions, handle, at, errors, access, of: PhantomData })
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // SAFETY: it is open, nothing is mapped through it any more, as mappings borrow it, and it
        // is not used afterwards.
        unsafe { self.functions.xenforeignmemory_close(self.raw.as_ptr()) };
    }
}

/// Pages of a guest, mapped until dropped.
pub(super) struct Mapping<'a> {
    functions: &'static libxl_sys::Libxl,
    handle: *mut libxl_sys::xenforeignmemory_handle,
    at: NonNull<c_void>,
    errors: Vec<c_int>,
    access: Access,
    of: PhantomData<&'a Foreign>,
}

impl Mapping<'_> {
    /// Why this page is not there; none where it is.
    pub(super) fn error(&self, index: usize) -> Option<Errno> {
        match self.errors.get(index) {
            Some(0) => None,
            // libxenforeignmemory gives negative numbers, and positive ones on some kernels.
            Some(error) => Some(Errno::from_raw(error.saturating_abs())),
            None => Some(Errno::EFAULT),
        }
    }

    /// Appends one page; false where it is not there. The guest may be writing to it: the copy is
    /// whatever the processor reads, and the page is then dirty again and will be sent again.
    pub(super) fn append(&self, index: usize, out: &mut Vec<u8>) -> bool {
        let Some(from) = self.page(index) else { return false };
        let to = out.len();
        out.reserve(PAGE_SIZE);
        // SAFETY: `reserve` made room for one page behind `to`.
        let into = unsafe { out.as_mut_ptr().add(to) };
        // SAFETY: both are a page long and apart. No reference is made to memory that a guest may
        // change: the bytes are copied by address alone.
        unsafe { std::ptr::copy_nonoverlapping(from, into, PAGE_SIZE) };
        // SAFETY: the copy above initialised that page, and `reserve` made room for it.
        unsafe { out.set_len(to + PAGE_SIZE) };
        true
    }

    /// Fills one page; false where it is not there, or where the mapping is for reading.
    pub(super) fn fill(&mut self, index: usize, contents: &[u8; PAGE_SIZE]) -> bool {
        let Some(into) = self.page(index).filter(|_| self.access == Access::Write) else {
            return false;
        };
        // SAFETY: both are a page long and apart, and the mapping may be written to; no reference
        // is made to the guest's memory.
        unsafe { std::ptr::copy_nonoverlapping(contents.as_ptr(), into, PAGE_SIZE) };
        true
    }

    /// Where one page of the mapping is; none where it is not there.
    fn page(&self, index: usize) -> Option<*mut u8> {
        if self.error(index).is_some() {
            return None;
        }
        // SAFETY: `errors` has an element for each page of the mapping, and one for `index`, which
        // is 0: so the page is inside the mapping, and there.
        Some(unsafe { self.at.as_ptr().cast::<u8>().add(index * PAGE_SIZE) })
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        // SAFETY: mapped with this handle, which is still open as it is borrowed, and so many
        // pages; nothing refers to it.
        unsafe {
            self.functions.xenforeignmemory_unmap(self.handle, self.at.as_ptr(), self.errors.len())
        };
    }
}
