//! Looking at saved domains and migration streams, without Xen: `rxl stream inspect` and `rxl
//! stream verify`.
//!
//! Both go through the input once, from a file or a pipe, in memory that does not depend on its
//! length ([`walk`]). docs/stream.md tells what they print.

#![forbid(unsafe_code)]

mod content;
pub mod finding;
pub mod inspect;
mod layout;
mod map;
pub mod savefile;
mod source;
mod text;
pub mod verify;
pub mod walk;
