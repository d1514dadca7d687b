//! Damage of a saved domain's file.

use std::io;

use migrate_stream::frame::{DigestValue, FrameError};
use migrate_stream::savefile::SaveFileError;
use migrate_stream::xl::XlError;

use rxl_datapath::codec::DecodeError;

/// What is wrong with a file, and where. One line.
#[derive(Debug, thiserror::Error)]
#[error("damaged at byte {offset} of the file: {kind}")]
pub struct Damage {
    /// First byte of the damaged header or frame, from the file's first.
    pub offset: u64,
    #[source]
    pub kind: DamageKind,
}

#[derive(Debug, thiserror::Error)]
pub enum DamageKind {
    /// The first bytes belong to none of the formats.
    #[error("no saved domain begins here")]
    Format,
    #[error("the file was cut off")]
    CutOff,
    #[error("the file was cut off: its end frame is missing")]
    NoEndFrame,
    #[error("{0}")]
    Read(#[source] io::Error),
    /// The head of rxl's format.
    #[error("{0}")]
    Head(#[source] SaveFileError),
    /// The header or the configuration of xl's format.
    #[error("{0}")]
    XlHead(#[source] XlError),
    #[error("it holds no configuration in JSON")]
    NoConfig,
    #[error("{0}")]
    FrameHeader(#[source] FrameError),
    /// A frame's contents are malformed, or do not match its checksums.
    #[error("frame {sequence}: {source}")]
    Frame { sequence: u64, source: DecodeError },
    #[error("{0}")]
    EndFrame(#[source] DecodeError),
    #[error("frame {found} where frame {expected} should be")]
    Sequence { found: u64, expected: u64 },
    #[error("digest mismatch: {found} over all frames, {saved} when it was saved")]
    Digest { found: DigestValue, saved: DigestValue },
    #[error("more bytes follow the end frame")]
    Trailing,
}

impl DamageKind {
    /// The damage that a failed read of the file's head shows.
    pub fn of_head(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::CutOff,
            _ => Self::Read(error),
        }
    }

    pub fn at(self, offset: u64) -> Damage {
        Damage { offset, kind: self }
    }
}
