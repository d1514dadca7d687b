//! Goes through a saved domain or a migration stream from its first byte to its last, and continues
//! after violations of its format.
//!
//! ```text
//!  Source ---- headers, records ----> StreamWalker -- contents ----> Sink     (inspect)
//!  one buffer                              |
//!                                          `-------- problems ----> Findings (verify)
//! ```
//! [`migrate_stream::reader::StreamReader`] stops at the first violation for which a restorer would
//! refuse the stream. This walk has to report all of them, so it continues wherever a record's
//! length still tells where the next one begins. The rules are those of the same parsers
//! ([`migrate_stream::libxc::Body`], [`migrate_stream::order`]) and of `layout`. It ends early only
//! where the input ends, where the version or byte order is unknown, or where records cannot be
//! told apart any more.
//!
//! Memory does not depend on the input: a body other than pages is kept up to [`MOST_BODY`] bytes,
//! and pages are read one at a time.

mod libvirt;
mod libxc;
mod libxl;
mod pages;
mod xl;

use std::io::Read;

use migrate_stream::libxc::{self as xc, PageEntry};
use migrate_stream::reader::{Place, Problem as Parsing};
use migrate_stream::{libvirt as libvirt_file, libxl as xl_stream, xl as xl_file};

use crate::finding::{Findings, Problem};
use crate::source::{Cut, Source};
use rxl_core::domain_config::DomainSummary;

/// The longest body, in bytes, that is kept whole to be checked. Xen writes longer ones only for
/// pages, which are read one at a time, and a device model's state, which has no rules inside.
pub const MOST_BODY: u32 = 16 << 20;

/// The format of an input, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// xl's save header.
    XlFile,
    /// The header that libvirt writes.
    LibvirtFile,
    /// The libxl stream's header.
    Libxl,
    /// The libxc stream's image header.
    Libxc,
}

impl Format {
    /// Number of bytes that tell the formats apart.
    const MARK_LEN: usize = 8;

    fn of(mark: &[u8]) -> Option<Self> {
        match mark {
            _ if xl_file::MAGIC.starts_with(mark) && mark.len() == Self::MARK_LEN => {
                Some(Self::XlFile)
            }
            _ if libvirt_file::MAGIC.starts_with(mark) && mark.len() == Self::MARK_LEN => {
                Some(Self::LibvirtFile)
            }
            _ if mark == xl_stream::IDENT.to_be_bytes() => Some(Self::Libxl),
            _ if mark == xc::MARKER.to_be_bytes() => Some(Self::Libxc),
            _ => None,
        }
    }

    /// The format's name in text and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::XlFile => "xl save file",
            Self::LibvirtFile => "libvirt save file",
            Self::Libxl => "libxl stream",
            Self::Libxc => "libxc stream",
        }
    }
}

/// A header or record, and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The kind of header or record.
    pub place: Place,
    /// Its first byte, counted from the input's first.
    pub offset: u64,
}

/// Receives what the walk finds, in the stream's order. A header comes as far as it was understood.
pub trait Sink {
    /// xl's save header.
    fn xl_header(&mut self, _header: &xl_file::Header) {}
    /// The domain's configuration, if it is libxl's JSON.
    fn config(&mut self, _config: &DomainSummary) {}
    /// The libxl stream's header.
    fn libxl_header(&mut self, _header: &xl_stream::Header) {}
    /// The libxc stream's image header.
    fn image_header(&mut self, _header: &xc::ImageHeader) {}
    /// The libxc stream's domain header.
    fn domain_header(&mut self, _header: &xc::DomainHeader) {}
    /// A record's header; `length` is the body's in bytes, without padding.
    fn record(&mut self, _at: Location, _length: u32) {}
    /// The list of pages in the last record, a PAGE_DATA without violations. The answer says
    /// whether the walk shall call [`Sink::page`] for each of them.
    fn page_list(&mut self, _pages: &[PageEntry]) -> bool {
        false
    }
    /// One page of that list, in its order.
    fn page(&mut self, _page: PageEntry, _contents: Option<&[u8; xc::PAGE_SIZE]>) {}
}

/// The result of a walk.
#[derive(Debug)]
pub struct Walked {
    /// The input's format; none if its first bytes belong to no format that rxl knows.
    pub format: Option<Format>,
    /// Number of bytes that were read.
    pub bytes: u64,
    pub findings: Findings,
}

/// Goes through an input, to its end.
pub fn walk(input: impl Read, sink: &mut impl Sink) -> Walked {
    let mut walk = StreamWalker {
        source: Source::new(input),
        sink,
        findings: Findings::default(),
        body: Vec::new(),
        entries: Vec::new(),
    };
    let mut format = None;
    // Why it could not continue is among the findings.
    let _ = walk.input(&mut format);
    Walked { format, bytes: walk.source.offset(), findings: walk.findings }
}

/// The rest of the input cannot be understood. The reason is among the findings.
struct CannotContinue;

struct StreamWalker<'a, R, S> {
    source: Source<R>,
    sink: &'a mut S,
    findings: Findings,
    /// The last body. It is kept for its capacity.
    body: Vec<u8>,
    /// The last record's list of pages. It is kept for its capacity.
    entries: Vec<PageEntry>,
}

impl<R: Read, S: Sink> StreamWalker<'_, R, S> {
    fn input(&mut self, found: &mut Option<Format>) -> Result<(), CannotContinue> {
        let start = Location { place: Place::XlHeader, offset: 0 };
        let mark = self.source.peek(Format::MARK_LEN).map(Format::of);
        *found = mark.map_err(|cut| self.cut(start, cut))?;
        match found {
            Some(Format::XlFile) => {
                self.xl()?;
                self.libxl()?;
            }
            Some(Format::LibvirtFile) => {
                self.libvirt()?;
                self.libxl()?;
            }
            Some(Format::Libxl) => self.libxl()?,
            Some(Format::Libxc) => self.libxc()?,
            None => return Err(self.stop(start, Problem::Format)),
        }
        let end = Location { place: Place::End, offset: self.source.offset() };
        match self.source.rest() {
            Ok(0) => Ok(()),
            Ok(bytes) => Err(self.stop(end, Problem::Trailing(bytes))),
            Err(cut) => Err(self.cut(end, cut)),
        }
    }

    fn find(&mut self, at: Location, problem: impl Into<Problem>) {
        self.findings.add(at.place, at.offset, problem.into());
    }

    fn stop(&mut self, at: Location, problem: impl Into<Problem>) -> CannotContinue {
        self.find(at, problem);
        CannotContinue
    }

    fn cut(&mut self, at: Location, cut: Cut) -> CannotContinue {
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

    fn here(&self, place: Place) -> Location {
        Location { place, offset: self.source.offset() }
    }

    fn array<const N: usize>(&mut self, at: Location) -> Result<[u8; N], CannotContinue> {
        self.source.array().map_err(|cut| self.cut(at, cut))
    }

    fn skip(&mut self, at: Location, length: u64) -> Result<(), CannotContinue> {
        self.source.pieces(length, |_| ()).map_err(|cut| self.cut(at, cut))
    }

    /// Takes `length` bytes into [`StreamWalker::body`], which grows as they come.
    fn collect(&mut self, at: Location, length: u32) -> Result<(), CannotContinue> {
        self.body.clear();
        let body = &mut self.body;
        let read = self.source.pieces(length.into(), |piece| body.extend_from_slice(piece));
        read.map_err(|cut| self.cut(at, cut))
    }

    /// Parses a header. After a violation `mend` corrects the field, if nothing that follows
    /// depends on its value, and says whether it did. The violation is reported and parsing tried
    /// again.
    fn header<const N: usize, T, E: Into<Parsing> + Copy>(
        &mut self,
        at: Location,
        mut bytes: [u8; N],
        parse: impl Fn(&[u8; N]) -> Result<T, E>,
        mend: impl Fn(E, &mut [u8; N]) -> bool,
    ) -> Result<T, CannotContinue> {
        loop {
            match parse(&bytes) {
                Ok(header) => return Ok(header),
                Err(error) => {
                    self.find(at, Problem::Parsing(error.into()));
                    if !mend(error, &mut bytes) {
                        return Err(CannotContinue);
                    }
                }
            }
        }
    }

    /// A record of unknown type, with a length that no record has, is no record: something before
    /// it was damaged.
    fn check_framing(
        &mut self,
        at: Location,
        record_type: u32,
        length: u32,
    ) -> Result<(), CannotContinue> {
        if length <= xc::MAX_RECORD_LEN {
            return Ok(());
        }
        Err(self.stop(at, Problem::FramingLost { record_type, length }))
    }

    fn padding(&mut self, at: Location, length: u32) -> Result<(), CannotContinue> {
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
