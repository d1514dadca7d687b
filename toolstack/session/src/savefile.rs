//! Saved domains: `rxl save` and `rxl restore`.
//!
//! ```text
//!  rxl save                                      rxl restore
//!  libxl's save helper                           check every byte: nothing has happened yet
//!   `- pipe -> frames, as for the wire -> .part  read again, checked again
//!   or         copied as it is (--plain)          `- pipe -> libxl's restore helper
//!  =========== fsync, rename ===========         =========== digest agrees ===========
//!  destroy the domain, or let it run on          let it run
//! ```
//! Above the line every failure leads back: when saving, to the running domain and no file; when
//! restoring, to no domain and the file as it was. A file is put in place whole, under a name that
//! it did not have before it was, so whoever finds one finds a complete one.
//!
//! [`migrate_stream::savefile`] has the format. `--plain` is xl's own, which has no checksums.

pub mod file;
mod plain;
pub mod restore;
pub mod save;
pub mod writer;
