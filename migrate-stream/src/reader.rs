//! An incremental parser over a migration's nested streams.
//!
//! [`StreamReader`] does no I/O and keeps no payload: it is given the bytes in whatever pieces they
//! arrive, and gives back events. Bodies are slices of the input, so a caller that relays the
//! stream forwards its own buffer. A caller that needs a whole record reads exactly
//! [`StreamReader::wanted`] bytes behind the record's header.
//!
//! These are the events of a save file, in order. A bare libxl or libxc stream gives those of its
//! own part:
//!
//! ```text
//! XlHeader, XlOptionalData*, XlOptionalEnd
//! LibxlHeader
//!   LibxlRecord LIBXC_CONTEXT, RecordEnd
//!     ImageHeader, DomainHeader
//!     (LibxcRecord, Body*, RecordEnd)+        until the record END
//!   (LibxlRecord, Body*, RecordEnd)+          until the record END
//! End
//! ```
//!
//! The reader checks magics, versions and options of the headers; lengths, against the bounds and
//! what each type allows; that padding is zero; and the order of records ([`crate::order`]). Like
//! Xen it refuses records of unknown types, but for libxc's optional ones. It does not look into
//! bodies: [`crate::libxc::Body`] and [`crate::libxl::Emulator`] parse them.
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
mod event;
mod stash;

pub use error::{Place, Problem, StreamError};
pub use event::{Event, Start};

use crate::order::{LibxcOrder, LibxlOrder};
use crate::{fields, libxc, libxl, xl};
use stash::Stash;

/// The part of the stream that comes next.
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

/// The incremental parser. Its size is fixed: it keeps at most the bytes of one header.
#[derive(Clone, Debug)]
pub struct StreamReader {
    state: State,
    stash: Stash,
    /// Number of bytes consumed.
    offset: u64,
    /// Offset of the header or record that `state` is about.
    began: u64,
    libxl: Option<LibxlOrder>,
    failed: Option<StreamError>,
}

impl StreamReader {
    /// Begins a stream.
    pub fn new(start: Start) -> Self {
        let (state, libxl) = match start {
            Start::XlFile => (State::XlHeader, Some(LibxlOrder::default())),
            Start::Libxl => (State::LibxlHeader, Some(LibxlOrder::default())),
            Start::Libxc => (State::ImageHeader, None),
        };
        Self { state, stash: Stash::default(), offset: 0, began: 0, libxl, failed: None }
    }

    /// Takes the next event from the front of `input` and advances it. Returns `None` when the
    /// input is used up or the stream is complete. An event may need no bytes, so call this until
    /// it returns `None`. After an error it returns that error again.
    // Not an Iterator: the input differs from call to call.
    #[allow(clippy::should_implement_trait)]
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, StreamError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let before = input.len();
        let result = self.step(input);
        self.offset += before.abs_diff(input.len()) as u64;
        let event = result.map_err(|problem| self.fail(problem))?;
        if self.at_header() {
            self.began = self.offset;
        }
        Ok(event)
    }

    /// Number of bytes that are certain to follow, up to the end of the header or record (padding
    /// included) that is being read: a caller may block until it has read so many. It is not 0
    /// after [`StreamReader::next`] has returned `None`, unless the stream is complete.
    pub fn wanted(&self) -> u64 {
        let header = |length: usize| length.saturating_sub(self.stash.len()) as u64;
        match self.state {
            State::XlHeader => header(xl::HEADER_LEN),
            State::XlOptional { left } => left.into(),
            State::LibxlHeader => header(libxl::HEADER_LEN),
            State::LibxlRecord => header(libxl::RECORD_HEADER_LEN),
            State::ImageHeader => header(libxc::IMAGE_HEADER_LEN),
            State::DomainHeader { .. } => header(libxc::DOMAIN_HEADER_LEN),
            State::LibxcRecord(_) => header(libxc::RECORD_HEADER_LEN),
            State::Body { record, left } => {
                u64::from(left) + u64::from(fields::padding(record.length()))
            }
            State::Padding { left, .. } => left.into(),
            State::End | State::Complete => 0,
        }
    }

    /// Number of bytes consumed so far, which is the offset of the next one.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether [`Event::End`] has been returned: no more bytes belong to this stream, and none will
    /// be consumed.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// Judges the end of the input, where it is called: an error tells where the stream was cut.
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
        // From here on an error names the record.
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
            return self.padding(input, record, fields::padding(record.length()));
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

    /// The state after a record.
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

/// Takes at most `left` bytes from the front of `input`; `None` when there are none to take.
fn take_piece<'a>(input: &mut &'a [u8], left: u32) -> Option<&'a [u8]> {
    let (piece, rest) = input.split_at_checked(left as usize).unwrap_or((input, &[]));
    *input = rest;
    (!piece.is_empty()).then_some(piece)
}
