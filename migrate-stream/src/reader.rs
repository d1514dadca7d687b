//! An incremental parser over a migration's nested streams.
//!
//! [`StreamReader`] does no I/O and keeps no payload: it is handed the bytes in whatever pieces
//! they come, and gives back events. Bodies come as slices of the input, so a caller that relays
//! the stream forwards its own buffer, and one that wants a whole record reads exactly
//! [`StreamReader::wanted`] bytes into place after the record's header.
//!
//! The events of a save file, in order; those of a bare libxl or libxc stream begin further down or
//! lack the outer part:
//!
//! ```text
//! XlHeader, XlOptionalData*, XlOptionalEnd
//! LibxlHeader
//!   LibxlRecord LIBXC_CONTEXT, RecordEnd
//!     ImageHeader, DomainHeader
//!     (LibxcRecord, Body*, RecordEnd)+        the last one is END
//!   (LibxlRecord, Body*, RecordEnd)+          the last one is END
//! End
//! ```
//!
//! Checked on the way: magics, versions and options of the headers; lengths against the bounds and
//! against what each type allows; zero padding; unknown records (mandatory ones of libxc and all of
//! libxl's are refused, as Xen does); and the order of records ([`crate::order`]). What is inside
//! bodies is left to [`crate::libxc::Body`] and [`crate::libxl::Emulator`].
//!
//! ```
//! use migrate_stream::reader::{Event, Start, StreamReader};
//! # let mut stream = Vec::new();
//! # migrate_stream::writer::libxl_header(&mut stream);
//! let mut reader = StreamReader::new(Start::Libxl);
//! for mut piece in stream.chunks(5) {
//!     while let Some(event) = reader.next(&mut piece)? {
//!         assert!(matches!(event, Event::LibxlHeader(_)));
//!     }
//! }
//! assert_eq!(reader.wanted(), 8); // the header of the first record
//! # Ok::<(), migrate_stream::reader::StreamError>(())
//! ```

mod error;
mod stash;

pub use error::{Place, Problem, StreamError};

use crate::order::{LibxcOrder, LibxlOrder};
use crate::{bytes, libxc, libxl, xl};
use stash::Stash;

/// Where the bytes begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With xl's save header: a save file, or what follows the banner of `xl migrate-receive`.
    XlFile,
    /// With the libxl stream's header: what `libxl_domain_suspend` writes.
    Libxl,
    /// With the libxc stream's image header: what `xc_domain_save` writes.
    Libxc,
}

/// A step through the stream. Offsets count from the stream's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// xl's save header.
    XlHeader(xl::Header),
    /// A piece of xl's optional data; [`xl::OptionalData`] parses the whole.
    XlOptionalData(&'a [u8]),
    /// The optional data, which may have been empty, is complete.
    XlOptionalEnd,
    /// The header of the libxl stream.
    LibxlHeader(libxl::Header),
    /// The header of a libxl record.
    LibxlRecord {
        /// The header.
        header: libxl::RecordHeader,
        /// Where it begins.
        offset: u64,
    },
    /// The image header of the libxc stream.
    ImageHeader(libxc::ImageHeader),
    /// The domain header of the libxc stream.
    DomainHeader(libxc::DomainHeader),
    /// The header of a libxc record.
    LibxcRecord {
        /// The header.
        header: libxc::RecordHeader,
        /// Where it begins.
        offset: u64,
    },
    /// A piece of the last record's body, not empty.
    Body(&'a [u8]),
    /// The last record's body and padding are complete.
    RecordEnd,
    /// The outermost stream is complete. Comes once; what follows in the input is left there.
    End,
}

/// What the reader is about to read.
#[derive(Clone, Copy, Debug)]
enum State {
    XlHeader,
    XlOptional { left: u32 },
    LibxlHeader,
    LibxlRecord,
    ImageHeader,
    DomainHeader { version: u32 },
    LibxcRecord(LibxcOrder),
    Body { record: Record, left: u32 },
    Padding { record: Record, left: u8 },
    End,
    Complete,
}

/// The record whose body is being read.
#[derive(Clone, Copy, Debug)]
enum Record {
    Libxl(libxl::RecordHeader),
    Libxc(libxc::RecordHeader, LibxcOrder),
}

impl Record {
    fn length(&self) -> u32 {
        match self {
            Self::Libxl(header) => header.length,
            Self::Libxc(header, _) => header.length,
        }
    }

    fn place(&self) -> Place {
        match self {
            Self::Libxl(header) => Place::Libxl(header.record_type),
            Self::Libxc(header, _) => Place::Libxc(header.record_type),
        }
    }
}

/// The incremental parser. Its size is fixed: at most one split header is kept.
#[derive(Clone, Debug)]
pub struct StreamReader {
    state: State,
    stash: Stash,
    /// Bytes consumed.
    offset: u64,
    /// Where the header or record that `state` is about began.
    began: u64,
    libxl: Option<LibxlOrder>,
    failed: Option<StreamError>,
}

impl StreamReader {
    /// A reader at the beginning of a stream.
    pub fn new(start: Start) -> Self {
        let (state, libxl) = match start {
            Start::XlFile => (State::XlHeader, Some(LibxlOrder::default())),
            Start::Libxl => (State::LibxlHeader, Some(LibxlOrder::default())),
            Start::Libxc => (State::ImageHeader, None),
        };
        Self { state, stash: Stash::default(), offset: 0, began: 0, libxl, failed: None }
    }

    /// Takes the next event from the front of `input`, advancing it. `Ok(None)`: the input is used
    /// up, or the stream is complete. An event may need no bytes, so call this until it gives
    /// `None`. After an error it gives that error again.
    // Not an Iterator: the input differs from call to call.
    #[allow(clippy::should_implement_trait)]
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, StreamError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let before = input.len();
        let result = self.step(input);
        self.offset += (before - input.len()) as u64;
        let event = result.map_err(|problem| self.fail(problem))?;
        if self.at_header() {
            self.began = self.offset;
        }
        Ok(event)
    }

    /// Bytes of this stream that are certain to follow, up to the end of the header or record that
    /// is being read: a caller may block until it has read so many. Not 0 after
    /// [`StreamReader::next`] has given `None`, unless the stream is complete. Within a record it
    /// counts the padding.
    pub fn wanted(&self) -> u64 {
        let header = |length: usize| (length - self.stash.len()) as u64;
        match self.state {
            State::XlHeader => header(xl::HEADER_LEN),
            State::XlOptional { left } => left.into(),
            State::LibxlHeader => header(libxl::HEADER_LEN),
            State::LibxlRecord => header(libxl::RECORD_HEADER_LEN),
            State::ImageHeader => header(libxc::IMAGE_HEADER_LEN),
            State::DomainHeader { .. } => header(libxc::DOMAIN_HEADER_LEN),
            State::LibxcRecord(_) => header(libxc::RECORD_HEADER_LEN),
            State::Body { record, left } => {
                u64::from(left) + u64::from(bytes::padding(record.length()))
            }
            State::Padding { left, .. } => left.into(),
            State::End | State::Complete => 0,
        }
    }

    /// Bytes consumed so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether [`Event::End`] has been given: no more bytes belong to this stream, and none will be
    /// consumed.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// To be called at the end of the input: an error that tells where the stream was cut, unless
    /// it is complete.
    pub fn finish(&self) -> Result<(), StreamError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.is_complete() {
            return Ok(());
        }
        Err(self.error(Problem::Truncated { at: self.offset, missing: self.wanted() }))
    }

    fn fail(&mut self, problem: Problem) -> StreamError {
        let error = self.error(problem);
        self.failed = Some(error);
        error
    }

    fn error(&self, problem: Problem) -> StreamError {
        let place = match &self.state {
            State::XlHeader => Place::XlHeader,
            State::XlOptional { .. } => Place::XlOptionalData,
            State::LibxlHeader => Place::LibxlHeader,
            State::LibxlRecord => Place::LibxlRecordHeader,
            State::ImageHeader => Place::ImageHeader,
            State::DomainHeader { .. } => Place::DomainHeader,
            State::LibxcRecord(_) => Place::LibxcRecordHeader,
            State::Body { record, .. } | State::Padding { record, .. } => record.place(),
            State::End | State::Complete => Place::End,
        };
        StreamError { place, offset: self.began, problem }
    }

    fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Problem> {
        match self.state {
            State::XlHeader => self.xl_header(input),
            State::XlOptional { left } => Ok(self.xl_optional(input, left)),
            State::LibxlHeader => self.libxl_header(input),
            State::LibxlRecord => self.libxl_record(input),
            State::ImageHeader => self.image_header(input),
            State::DomainHeader { version } => self.domain_header(input, version),
            State::LibxcRecord(order) => self.libxc_record(input, order),
            State::Body { record, left } => self.body(input, record, left),
            State::Padding { record, left } => self.padding(input, record, left),
            State::End => {
                self.state = State::Complete;
                Ok(Some(Event::End))
            }
            State::Complete => Ok(None),
        }
    }

    /// Whether the next byte is the first of a header.
    fn at_header(&self) -> bool {
        let in_body = matches!(
            self.state,
            State::XlOptional { .. } | State::Body { .. } | State::Padding { .. }
        );
        self.stash.len() == 0 && !in_body
    }

    fn xl_header(&mut self, input: &mut &[u8]) -> Result<Option<Event<'static>>, Problem> {
        let Some(bytes) = self.stash.take(input) else {
            return Ok(None);
        };
        let header = xl::Header::parse(&bytes)?;
        self.began = xl::HEADER_LEN as u64;
        self.state = State::XlOptional { left: header.optional_data_len };
        Ok(Some(Event::XlHeader(header)))
    }

    fn xl_optional<'a>(&mut self, input: &mut &'a [u8], left: u32) -> Option<Event<'a>> {
        if left == 0 {
            self.state = State::LibxlHeader;
            return Some(Event::XlOptionalEnd);
        }
        let piece = take_piece(input, left)?;
        self.state = State::XlOptional { left: left - piece.len() as u32 };
        Some(Event::XlOptionalData(piece))
    }

    fn libxl_header(&mut self, input: &mut &[u8]) -> Result<Option<Event<'static>>, Problem> {
        let Some(bytes) = self.stash.take(input) else {
            return Ok(None);
        };
        let header = libxl::Header::parse(&bytes)?;
        self.state = State::LibxlRecord;
        Ok(Some(Event::LibxlHeader(header)))
    }

    fn libxl_record(&mut self, input: &mut &[u8]) -> Result<Option<Event<'static>>, Problem> {
        let Some(bytes) = self.stash.take(input) else {
            return Ok(None);
        };
        let header = libxl::RecordHeader::parse(&bytes);
        // From here on errors name the record.
        self.state = State::Body { record: Record::Libxl(header), left: header.length };
        if matches!(header.record_type, libxl::RecordType::Unknown(_)) {
            return Err(Problem::UnknownRecord);
        }
        header.check_length()?;
        if let Some(order) = &mut self.libxl {
            order.record(header.record_type)?;
        }
        Ok(Some(Event::LibxlRecord { header, offset: self.began }))
    }

    fn image_header(&mut self, input: &mut &[u8]) -> Result<Option<Event<'static>>, Problem> {
        let Some(bytes) = self.stash.take(input) else {
            return Ok(None);
        };
        let header = libxc::ImageHeader::parse(&bytes)?;
        self.state = State::DomainHeader { version: header.version };
        Ok(Some(Event::ImageHeader(header)))
    }

    fn domain_header(
        &mut self,
        input: &mut &[u8],
        version: u32,
    ) -> Result<Option<Event<'static>>, Problem> {
        let Some(bytes) = self.stash.take(input) else {
            return Ok(None);
        };
        let header = libxc::DomainHeader::parse(&bytes)?;
        self.state = State::LibxcRecord(LibxcOrder::new(version, header.domain_type));
        Ok(Some(Event::DomainHeader(header)))
    }

    fn libxc_record(
        &mut self,
        input: &mut &[u8],
        mut order: LibxcOrder,
    ) -> Result<Option<Event<'static>>, Problem> {
        let Some(bytes) = self.stash.take(input) else {
            return Ok(None);
        };
        let header = libxc::RecordHeader::parse(&bytes);
        let known = order.record(header.record_type);
        self.state = State::Body { record: Record::Libxc(header, order), left: header.length };
        if matches!(header.record_type, libxc::RecordType::Unknown(_))
            && !header.record_type.is_unknown_optional()
        {
            return Err(Problem::UnknownRecord);
        }
        header.check_length()?;
        known?;
        Ok(Some(Event::LibxcRecord { header, offset: self.began }))
    }

    fn body<'a>(
        &mut self,
        input: &mut &'a [u8],
        record: Record,
        left: u32,
    ) -> Result<Option<Event<'a>>, Problem> {
        if left == 0 {
            return self.padding(input, record, bytes::padding(record.length()));
        }
        let Some(piece) = take_piece(input, left) else {
            return Ok(None);
        };
        self.state = State::Body { record, left: left - piece.len() as u32 };
        Ok(Some(Event::Body(piece)))
    }

    fn padding(
        &mut self,
        input: &mut &[u8],
        record: Record,
        left: u8,
    ) -> Result<Option<Event<'static>>, Problem> {
        let piece = take_piece(input, left.into()).unwrap_or_default();
        let left = left - piece.len() as u8;
        self.state = State::Padding { record, left };
        if piece.iter().any(|&byte| byte != 0) {
            return Err(Problem::Padding);
        }
        if left > 0 {
            return Ok(None);
        }
        self.state = self.after(record);
        Ok(Some(Event::RecordEnd))
    }

    /// What follows a record.
    fn after(&self, record: Record) -> State {
        match record {
            Record::Libxl(header) => match header.record_type {
                libxl::RecordType::End => State::End,
                libxl::RecordType::LibxcContext => State::ImageHeader,
                _ => State::LibxlRecord,
            },
            Record::Libxc(header, order) => match header.record_type {
                libxc::RecordType::End if self.libxl.is_some() => State::LibxlRecord,
                libxc::RecordType::End => State::End,
                _ => State::LibxcRecord(order),
            },
        }
    }
}

/// At most `left` bytes from the front of `input`; `None` when there are none to take.
fn take_piece<'a>(input: &mut &'a [u8], left: u32) -> Option<&'a [u8]> {
    let (piece, rest) = input.split_at(input.len().min(left as usize));
    *input = rest;
    (!piece.is_empty()).then_some(piece)
}
