//! The formats of a Xen domain's migration, as pure functions over bytes: no I/O, no FFI, no unsafe
//! code.
//!
//! - [`xl`]: the header that `xl save` and `xl migrate` put before the stream;
//! - [`libvirt`]: the header that `virsh save` puts before it;
//! - [`libxl`]: the libxl stream, version 2 (Xen's docs/specs/libxl-migration-stream.pandoc);
//! - [`libxc`]: the libxc stream inside it, versions 2 and 3
//!   (docs/specs/libxc-migration-stream.pandoc);
//! - [`reader`]: an incremental parser of all three, whatever the pieces in which bytes arrive;
//! - [`order`]: which records may come when;
//! - [`iterations`]: the iterations of pre-copy, as seen in the stream;
//! - [`writer`]: composes streams;
//! - [`frame`]: rxl's own data frames, in which the stream travels between two rxl;
//! - [`savefile`]: rxl's own file of a saved domain, which holds such frames.
//!
//! What is parsed and written again gives the same bytes. All input is taken for hostile: lengths
//! are compared with bounds before anything is allocated by them, and no input makes a function
//! here panic.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unreachable))]

mod fields;
pub mod frame;
pub mod iterations;
pub mod libvirt;
pub mod libxc;
pub mod libxl;
pub mod order;
pub mod reader;
pub mod savefile;
pub mod writer;
pub mod xl;
