//! Saved domains and migration streams, inspected and verified without Xen.
//!
//! [`inspect`](mod@inspect) and [`verify`](mod@verify) are `rxl stream inspect` and `rxl stream
//! verify`. Both go through the input once, from a file or a pipe, in memory that does not depend
//! on its length ([`walk`](mod@walk)). [`savefile`] reads the files that `rxl restore` takes.
//! docs/stream.md describes what the commands print.

#![forbid(unsafe_code)]

mod content;
pub mod finding;
pub mod inspect;
mod layout;
mod listing;
mod map;
pub mod savefile;
mod source;
pub mod summary;
mod text;
pub mod verify;
pub mod walk;
