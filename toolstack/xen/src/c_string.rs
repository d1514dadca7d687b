//! Strings that C code allocated.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;

use nix::libc;

/// Takes over a string that libxl or libxenstore allocated. Bytes that are not UTF-8 are replaced.
///
/// # Safety
/// `raw` is null or a terminated string from `malloc` that nobody else uses or frees.
pub(super) unsafe fn take_string(raw: *mut c_char) -> Option<String> {
    let raw = NonNull::new(raw)?;
    // SAFETY: not null, so by the caller's promise a terminated string, which lives until the free
    // below.
    let text = unsafe { CStr::from_ptr(raw.as_ptr()) }.to_string_lossy().into_owned();
    // SAFETY: by the caller's promise it came from `malloc` and belongs to nobody else; `text` is a
    // copy.
    unsafe { libc::free(raw.as_ptr().cast::<c_void>()) };
    Some(text)
}
