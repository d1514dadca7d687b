//! Writes a libxl stream into a file that has its head.

use std::sync::Arc;

use crate::savefile::file::Unfinished;
use crate::savefile::plain::Copy;
use rxl_core::error::Failure;
use rxl_core::io::{Cancel, Guarded};
use rxl_core::save_format::Format;
use rxl_datapath::broken::Broken;
use rxl_datapath::feed::feed;
use rxl_datapath::meter::Meter;
use rxl_datapath::packing::Packing;
use rxl_datapath::send::{Sender, Sent};

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of libxl's stream.
    pub stream_bytes: u64,
    /// Bytes of the file; 0 until it is put in place.
    pub file_bytes: u64,
    /// The digest over all frames, in hexadecimal; xl's format has none.
    pub digest: Option<String>,
}

/// A stream on its way into a file. Dropping it stops the writing, and waits until the stream has
/// been read to its end.
pub enum Writer {
    /// In rxl's format. The data path of a migration does this, with the file in place of the
    /// connections.
    Frames(Sender),
    /// In xl's format, as libxl writes it.
    Plain(Copy),
}

impl Writer {
    /// Starts writing; `on_end` hears of the first failure at once, or of the end when every byte
    /// has been written, though not yet to the disk.
    ///
    /// The stream is read until its end whatever happens: libxl's save helper must not meet a
    /// closed pipe.
    pub fn start(
        format: Format,
        packing: Packing,
        stream: Guarded,
        file: &Unfinished,
        on_end: impl FnOnce(Result<Written, Broken>) + Send + 'static,
    ) -> Result<Self, Failure> {
        let broken = |e| Failure::internal("data path", &e);
        let to = file.stream()?;
        let written = |stream_bytes, digest| Written { stream_bytes, file_bytes: 0, digest };
        if format == Format::Plain {
            let on_end =
                move |copied: Result<u64, Broken>| on_end(copied.map(|bytes| written(bytes, None)));
            return Copy::start(stream, to, on_end).map(Self::Plain).map_err(broken);
        }
        let cancel = Cancel::new().map_err(broken)?;
        let to = Guarded::new(to, cancel.clone(), None).map_err(broken)?;
        let on_end = move |sent: Result<Sent, Broken>| {
            on_end(sent.map(|sent| written(sent.stream_bytes, Some(sent.digest))));
        };
        let meter = Arc::new(Meter::default());
        // Nobody walks past libxl's pipe.
        let (_, fed) = feed(meter.clone());
        Sender::start(stream, fed, vec![to], cancel, packing, meter, on_end)
            .map(Self::Frames)
            .map_err(broken)
    }

    /// Nothing more is written; the stream is read to its end.
    pub fn abandon(&self) {
        match self {
            Self::Frames(sender) => sender.abandon(),
            Self::Plain(copy) => copy.abandon(),
        }
    }
}
