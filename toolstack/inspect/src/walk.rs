//! Goes through a saved domain or a migration stream from its first byte to its last, past whatever
//! is wrong in it.
//!
//! ```text
//!  Source ---- headers, records ----> StreamWalker ---- what there is ----> Sink     (inspect)
//!  one buffer                            |
//!                                        `------- what is wrong ----> Findings (verify)
//! ```
//! [`migrate_stream::reader::StreamReader`] stops at the first thing that a restorer would refuse.
//! This walk has to say everything that is wrong, so it goes on wherever a record's length still
//! tells where the next one begins. The rules are those of the same parsers
//! ([`migrate_stream::libxc::Body`], [`migrate_stream::order`]) and of `layout`. It ends early only
//! where the input ends, where the version or byte order is unknown, or where no record can be
//! told.
//!
//! Memory does not depend on the input: a body other than pages is kept up to [`MOST_BODY`], pages
//! go by one at a time.

mod libxc;
mod pages;

use std::io::Read;

use migrate_stream::libxc::PageEntry;
use migrate_stream::libxl::{Emulator, RecordType};
use migrate_stream::order::LibxlOrder;
use migrate_stream::reader::{Place, Problem as Parsing};
use migrate_stream::{libxc as xc, libxl, xl};

use crate::finding::{Findings, Problem};
use crate::source::{Cut, Source};
use rxl_core::domain_config::{DomainConfig, DomainSummary};

/// The longest body, in bytes, that is kept whole to be looked at: above all that Xen writes but a
/// device model's state, which has no rules inside, and pages.
pub const MOST_BODY: u32 = 16 << 20;

/// What an input begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// xl's save header.
    XlFile,
    /// The libxl stream's header.
    Libxl,
    /// The libxc stream's image header.
    Libxc,
}

impl Format {
    /// Bytes that tell the formats apart.
    const MARK_LEN: usize = 8;

    fn of(mark: &[u8]) -> Option<Self> {
        match mark {
            _ if xl::MAGIC.starts_with(mark) && mark.len() == Self::MARK_LEN => Some(Self::XlFile),
            _ if mark == libxl::IDENT.to_be_bytes() => Some(Self::Libxl),
            _ if mark == xc::MARKER.to_be_bytes() => Some(Self::Libxc),
            _ => None,
        }
    }

    /// For people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::XlFile => "xl save file",
            Self::Libxl => "libxl stream",
            Self::Libxc => "libxc stream",
        }
    }
}

/// Where a header or record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Which.
    pub place: Place,
    /// Its first byte, counted from the input's.
    pub offset: u64,
}

/// Takes what the walk comes by. Headers are shown as far as they could be understood.
pub trait Sink {
    /// xl's save header.
    fn xl_header(&mut self, _header: &xl::Header) {}
    /// The domain's configuration, when it could be read.
    fn config(&mut self, _config: &DomainSummary) {}
    /// The libxl stream's header.
    fn libxl_header(&mut self, _header: &libxl::Header) {}
    /// The libxc stream's image header.
    fn image_header(&mut self, _header: &xc::ImageHeader) {}
    /// The libxc stream's domain header.
    fn domain_header(&mut self, _header: &xc::DomainHeader) {}
    /// A record's header; `length` is the body's in bytes, without padding.
    fn record(&mut self, _at: At, _length: u32) {}
    /// The pages of the last record, a sound PAGE_DATA. Whether they shall be shown one by one.
    fn page_list(&mut self, _pages: &[PageEntry]) -> bool {
        false
    }
    /// One of them, in their order.
    fn page(&mut self, _page: PageEntry, _contents: Option<&[u8; xc::PAGE_SIZE]>) {}
}

/// A walk's end.
#[derive(Debug)]
pub struct Walked {
    /// What the input began with; none when it began like nothing known.
    pub format: Option<Format>,
    /// Bytes that were read.
    pub bytes: u64,
    /// What was wrong.
    pub findings: Findings,
}

/// Goes through an input, to its end.
pub fn walk(input: impl Read, sink: &mut impl Sink) -> Walked {
    let mut walker = StreamWalker {
        source: Source::new(input),
        sink,
        findings: Findings::default(),
        body: Vec::new(),
        entries: Vec::new(),
    };
    let mut format = None;
    // A stop has left its finding.
    let _ = walker.input(&mut format);
    Walked { format, bytes: walker.source.offset(), findings: walker.findings }
}

/// Nothing more can be told. Why stands among the findings.
struct Stop;

struct StreamWalker<'a, R, S> {
    source: Source<R>,
    sink: &'a mut S,
    findings: Findings,
    /// The last body, for its capacity.
    body: Vec<u8>,
    /// The last record's pages, for their capacity.
    entries: Vec<PageEntry>,
}

impl<R: Read, S: Sink> StreamWalker<'_, R, S> {
    fn input(&mut self, found: &mut Option<Format>) -> Result<(), Stop> {
        let start = At { place: Place::XlHeader, offset: 0 };
        let mark = self.source.peek(Format::MARK_LEN).map(Format::of);
        *found = mark.map_err(|cut| self.cut(start, cut))?;
        match found {
            Some(Format::XlFile) => {
                self.xl()?;
                self.libxl()?;
            }
            Some(Format::Libxl) => self.libxl()?,
            Some(Format::Libxc) => self.libxc()?,
            None => return Err(self.stop(start, Problem::Format)),
        }
        let end = At { place: Place::End, offset: self.source.offset() };
        match self.source.rest() {
            Ok(0) => Ok(()),
            Ok(bytes) => Err(self.stop(end, Problem::Trailing(bytes))),
            Err(cut) => Err(self.cut(end, cut)),
        }
    }

    fn find(&mut self, at: At, problem: impl Into<Problem>) {
        self.findings.add(at.place, at.offset, problem.into());
    }

    fn stop(&mut self, at: At, problem: impl Into<Problem>) -> Stop {
        self.find(at, problem);
        Stop
    }

    fn cut(&mut self, at: At, cut: Cut) -> Stop {
        self.stop(
            at,
            match cut {
                Cut::Truncated { at, missing } => {
                    Problem::Parsing(Parsing::Truncated { at, missing })
                }
                Cut::Io(error) => Problem::Unreadable(error),
            },
        )
    }

    fn here(&self, place: Place) -> At {
        At { place, offset: self.source.offset() }
    }

    fn array<const N: usize>(&mut self, at: At) -> Result<[u8; N], Stop> {
        self.source.array().map_err(|cut| self.cut(at, cut))
    }

    fn skip(&mut self, at: At, length: u64) -> Result<(), Stop> {
        self.source.pieces(length, |_| ()).map_err(|cut| self.cut(at, cut))
    }

    /// Takes `length` bytes into [`StreamWalker::body`], which grows as they come.
    fn collect(&mut self, at: At, length: u32) -> Result<(), Stop> {
        self.body.clear();
        let body = &mut self.body;
        let read = self.source.pieces(length.into(), |piece| body.extend_from_slice(piece));
        read.map_err(|cut| self.cut(at, cut))
    }

    /// Parses a header. `mend` sets right a field on which nothing depends that follows, and says
    /// whether it could: then what was wrong is told and the header is taken without it.
    fn header<const N: usize, T, E: Into<Parsing> + Copy>(
        &mut self,
        at: At,
        mut bytes: [u8; N],
        parse: impl Fn(&[u8; N]) -> Result<T, E>,
        mend: impl Fn(E, &mut [u8; N]) -> bool,
    ) -> Result<T, Stop> {
        loop {
            match parse(&bytes) {
                Ok(header) => return Ok(header),
                Err(error) => {
                    self.find(at, Problem::Parsing(error.into()));
                    if !mend(error, &mut bytes) {
                        return Err(Stop);
                    }
                }
            }
        }
    }

    fn xl(&mut self) -> Result<(), Stop> {
        let at = self.here(Place::XlHeader);
        let bytes: [u8; xl::HEADER_LEN] = self.array(at)?;
        // The length is needed although it is refused.
        let length = u32::from_le_bytes([bytes[44], bytes[45], bytes[46], bytes[47]]);
        let header = self.header(at, bytes, xl::Header::parse, |error, bytes| {
            match error {
                xl::XlError::ByteOrder(_) => {
                    bytes[32..36].copy_from_slice(&0x0102_0304_u32.to_le_bytes())
                }
                xl::XlError::MandatoryFlags(unknown) => {
                    let flags =
                        u32::from_le_bytes([bytes[36], bytes[37], bytes[38], bytes[39]]) & !unknown;
                    bytes[36..40].copy_from_slice(&flags.to_le_bytes());
                }
                xl::XlError::TooLong(_) => bytes[44..].fill(0),
                _ => return false,
            }
            true
        })?;
        let header = xl::Header { optional_data_len: length, ..header };
        self.sink.xl_header(&header);
        self.xl_optional(&header)
    }

    fn xl_optional(&mut self, header: &xl::Header) -> Result<(), Stop> {
        let at = self.here(Place::XlOptionalData);
        if header.optional_data_len > xl::MAX_OPTIONAL_DATA {
            return self.skip(at, header.optional_data_len.into());
        }
        self.collect(at, header.optional_data_len)?;
        if header.optional_data_len == 0 {
            return Ok(());
        }
        let body = std::mem::take(&mut self.body);
        match xl::OptionalData::parse(&body).and_then(|data| data.json()) {
            Ok(Some(json)) if header.mandatory_flags & xl::FLAG_JSON != 0 => self.config(at, json),
            Ok(_) => {}
            Err(error) => self.find(at, error),
        }
        self.body = body;
        Ok(())
    }

    fn config(&mut self, at: At, json: &str) {
        match DomainConfig::parse(json) {
            Ok(config) => self.sink.config(&config.summary()),
            Err(error) => self.find(at, Problem::Config(error.to_string())),
        }
    }

    fn libxl(&mut self) -> Result<(), Stop> {
        let at = self.here(Place::LibxlHeader);
        let bytes = self.array(at)?;
        let header = self.header(
            at,
            bytes,
            libxl::Header::parse,
            |error, bytes: &mut [u8; libxl::HEADER_LEN]| {
                if let libxl::HeaderError::Options(_) = error {
                    // Bits 0 and 1, which are not reserved, are in the last byte.
                    bytes[12..15].fill(0);
                    bytes[15] &= 3;
                    return true;
                }
                false
            },
        )?;
        self.sink.libxl_header(&header);
        let mut order = LibxlOrder::default();
        while self.libxl_record(&mut order)? != RecordType::End {}
        Ok(())
    }

    fn libxl_record(&mut self, order: &mut LibxlOrder) -> Result<RecordType, Stop> {
        let at = self.here(Place::LibxlRecordHeader);
        let header = libxl::RecordHeader::parse(&self.array(at)?);
        let at = At { place: Place::Libxl(header.record_type), ..at };
        self.sink.record(at, header.length);
        match (header.record_type, order.record(header.record_type)) {
            (RecordType::Unknown(_), _) => {
                self.check_framing(at, header.record_type.into(), header.length)?;
                self.find(at, Parsing::UnknownRecord);
            }
            (_, Ok(())) => {}
            (_, Err(error)) => self.find(at, error),
        }
        self.libxl_body(at, &header)?;
        self.padding(at, header.length)?;
        if header.record_type == RecordType::LibxcContext {
            self.libxc()?;
        }
        Ok(header.record_type)
    }

    /// A record of no known type and of a length that none has is none: something before it was
    /// damaged.
    fn check_framing(&mut self, at: At, record_type: u32, length: u32) -> Result<(), Stop> {
        if length <= xc::MAX_RECORD_LEN {
            return Ok(());
        }
        Err(self.stop(at, Problem::FramingLost { record_type, length }))
    }

    fn libxl_body(&mut self, at: At, header: &libxl::RecordHeader) -> Result<(), Stop> {
        if let Err(error) = header.check_length() {
            self.find(at, error);
            return self.skip(at, header.length.into());
        }
        match header.record_type {
            RecordType::EmulatorXenstoreData if header.length <= MOST_BODY => {
                self.collect(at, header.length)?;
                let body = std::mem::take(&mut self.body);
                self.xenstore_data(at, &body);
                self.body = body;
                Ok(())
            }
            RecordType::EmulatorXenstoreData | RecordType::EmulatorContext => {
                let head = self.array::<{ libxl::EMULATOR_HEADER_LEN }>(at)?;
                if let Err(error) = Emulator::parse(&head) {
                    self.find(at, error);
                }
                if header.record_type == RecordType::EmulatorXenstoreData {
                    self.find(at, Problem::NotLookedAt { length: header.length });
                }
                self.skip(at, (header.length - libxl::EMULATOR_HEADER_LEN as u32).into())
            }
            _ => self.skip(at, header.length.into()),
        }
    }

    fn xenstore_data(&mut self, at: At, body: &[u8]) {
        let pairs = Emulator::parse(body).and_then(|emulator| emulator.xenstore_pairs());
        let pairs = match pairs {
            Ok(pairs) => pairs,
            Err(error) => return self.find(at, error),
        };
        for (key, value) in pairs {
            let name = || String::from_utf8_lossy(&key[..key.len().min(64)]).into_owned();
            if key.is_empty()
                || !key.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte))
            {
                self.find(at, Problem::XenstoreKey(name()));
            }
            if !value.iter().all(|&byte| byte.is_ascii_graphic() || byte == b' ') {
                self.find(at, Problem::XenstoreValue(name()));
            }
        }
    }

    fn padding(&mut self, at: At, length: u32) -> Result<(), Stop> {
        let padding = u64::from(length.wrapping_neg() & 7);
        let mut zero = true;
        let read = self.source.pieces(padding, |piece| zero &= piece.iter().all(|&byte| byte == 0));
        read.map_err(|cut| self.cut(at, cut))?;
        if !zero {
            self.find(at, Parsing::Padding);
        }
        Ok(())
    }
}
