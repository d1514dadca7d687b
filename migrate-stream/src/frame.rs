//! rxl's data frames, in which a libxl stream travels from one rxl to another.
//!
//! All integers are **little-endian**. A data connection begins with a preamble ([`Preamble`]) and
//! then carries frames: a header ([`FrameHeader`]) and a payload of `wire length` bytes. One
//! sequence of frames is spread over all connections of a migration. The receiver puts them in
//! order by their sequence numbers.
//!
//! # Preamble, 64 bytes
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic, `RXLDATA1` |
//! | 8 | 2 | version, 1 |
//! | 10 | 1 | purpose: 0 control, 1 data |
//! | 11 | 1 | 0 |
//! | 12 | 2 | number of the connection, from 0 |
//! | 14 | 2 | 0 |
//! | 16 | 16 | migration id |
//! | 32 | 32 | token |
//!
//! # Frame header, 40 bytes
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic, `RXLF` |
//! | 4 | 1 | kind: 0 bytes, 1 pages, 2 end |
//! | 5 | 1 | codec of the payload: 0 none, 1 zstd (2 is reserved for lz4) |
//! | 6 | 2 | flags, 0 |
//! | 8 | 8 | sequence, from 0, over all connections |
//! | 16 | 4 | decoded length: bytes of the libxl stream that the frame stands for |
//! | 20 | 4 | packed length: bytes before the codec |
//! | 24 | 4 | wire length: bytes of payload |
//! | 28 | 4 | CRC-32 of the decoded bytes (of the payload, in an end frame) |
//! | 32 | 4 | CRC-32 of the payload |
//! | 36 | 4 | CRC-32 of the 36 bytes above |
//!
//! CRC-32 is that of zlib, PNG and Ethernet. The packed form of a frame of kind *bytes* is the
//! stream's bytes as they are. That of a frame of kind *pages* is a PAGE_DATA record without its
//! zero pages ([`pages`]). The *end* frame, whose sequence is the number of frames before it, holds
//! the totals ([`Totals`]), with which the receiver compares what it has put together.

mod bounds;
pub mod crc;
pub mod digest;
mod header;
pub mod pages;
mod preamble;

pub use bounds::{MAX_DECODED, MAX_PACKED, TOTALS_LEN};
pub use digest::{Digest, DigestValue, Totals};
pub use header::{Codec, FRAME_HEADER_LEN, FrameError, FrameHeader, FrameKind};
pub use preamble::{MigrationId, PREAMBLE_LEN, Preamble, PreambleError, Purpose, Token};
