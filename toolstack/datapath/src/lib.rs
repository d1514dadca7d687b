//! The data path: libxl's stream from the source's pipe to the target's, over frames.
//!
//! ```text
//! source                                                  target libxl -> pipe -> split ->
//! [workers] -> in order -> N    N -> readers -> [workers] -> in order records  leave out
//! connections           frames     decompress   digest, zero pages,
//! rebuild,     pipe -> libxl compress                                      check CRC
//! ```
//! A frame is one PAGE_DATA record, or a stretch of other bytes, in which small PAGE_DATA records
//! travel too. On each side a [`window::Window`] keeps the frames in order and bounds how many are
//! under way, so memory does not depend on the guest's size: at most [`packing::Packing::window`]
//! frames of 4 MiB, each in two forms, besides one buffer a worker.
//!
//! The target's libxl reads what the source's libxl wrote, byte for byte. Each frame's CRC-32 is
//! of the decoded bytes and is compared with the bytes that were rebuilt; the digest over all
//! frames tells that none is missing or out of place.

#![forbid(unsafe_code)]

pub mod backlog;
pub mod broken;
pub mod buffers;
pub mod codec;
pub mod drain;
pub mod feed;
pub mod iterations;
pub mod meter;
pub mod packing;
pub mod plain;
pub mod receive;
pub mod send;
pub mod sink;
mod split;
pub mod window;

pub use drain::drain;
