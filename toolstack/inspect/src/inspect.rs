//! `rxl stream inspect`: what is in a saved domain or a migration stream.

use std::io::Read;

use migrate_stream::iterations::{Batch, Iteration, Iterations};
use migrate_stream::libxc::{
    DomainHeader, DomainType, ImageHeader, PAGE_SIZE, PageData, PageEntry, PageType,
    RECORD_HEADER_LEN, RecordType,
};
use migrate_stream::reader::Place;
use migrate_stream::{frame::pages::is_zero, libxl, xl};

use crate::content::{Sampler, Seen};
use crate::finding::Findings;
use crate::listing::Listing;
use crate::map::{Map, Shade};
use crate::summary::{IterationPart, LibxlPart, PagesPart, SCHEMA, Summary, XlPart};
use crate::walk::{Format, Location, Sink, walk};
use rxl_core::domain_config::DomainSummary;

/// How an input is inspected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Put the picture of guest memory into the summary.
    pub map: bool,
    /// The kind of file that the stream was taken out of, for the summary.
    pub container: Option<&'static str>,
}

/// The result of an inspection.
pub struct Inspected {
    pub summary: Summary,
    /// The picture of guest memory, from which an image can be made.
    pub map: Map,
    pub findings: Findings,
}

/// Inspects an input, to its end.
pub fn inspect(input: impl Read, options: Options) -> Inspected {
    let mut inspector = Inspector::default();
    let walked = walk(input, &mut inspector);
    inspector.end_iteration();
    let Inspector { listed, map, compression, page_records, page_bytes, .. } = inspector;
    let Inspector { mut pages, seen, types, .. } = inspector;
    pages.repeated = (pages.with_contents > pages.zero).then(|| seen.repeated());
    pages.types = types.into_iter().filter(|&(_, count)| count > 0).collect();
    let summary = Summary {
        schema: SCHEMA,
        container: options.container,
        format: walked.format.map(Format::name),
        bytes: walked.bytes,
        xl: listed.xl,
        config: listed.config,
        libxl: listed.libxl,
        libxc: listed.libxc,
        totals: listed.totals,
        runs: listed.runs,
        runs_left_out: listed.runs_left_out,
        pages,
        iterations: listed.iterations,
        iterations_left_out: listed.iterations_left_out,
        compression: compression.estimate(walked.bytes, page_records, page_bytes),
        map: options.map.then(|| map.picture()),
        errors: walked.findings.errors,
        warnings: walked.findings.warnings,
    };
    Inspected { summary, map, findings: walked.findings }
}

struct Inspector {
    listed: Listing,
    pages: PagesPart,
    types: [(&'static str, u64); 12],
    iterations: Iterations,
    /// Pages of the iteration under way that are all zero.
    zero: u64,
    /// Bytes of its records.
    iteration_bytes: u64,
    /// Whether it comes after VERIFY.
    verify: bool,
    page_records: u64,
    page_bytes: u64,
    seen: Seen,
    compression: Sampler,
    map: Map,
}

impl Default for Inspector {
    fn default() -> Self {
        Self {
            listed: Listing::default(),
            pages: PagesPart::default(),
            types: TYPES.map(|name| (name, 0)),
            iterations: Iterations::default(),
            zero: 0,
            iteration_bytes: 0,
            verify: false,
            page_records: 0,
            page_bytes: 0,
            seen: Seen::default(),
            compression: Sampler::default(),
            map: Map::default(),
        }
    }
}

/// The specification's names of the page types, by [`type_index`].
const TYPES: [&str; 12] = [
    "NOTAB",
    "L1TAB",
    "L2TAB",
    "L3TAB",
    "L4TAB",
    "L1TAB_PIN",
    "L2TAB_PIN",
    "L3TAB_PIN",
    "L4TAB_PIN",
    "BROKEN",
    "XALLOC",
    "XTAB",
];

fn type_index(page_type: PageType) -> usize {
    match usize::from(page_type.bits()) {
        bits @ 0..=4 => bits,
        // 5 to 8 are unused: `PageType` never has them.
        bits => bits - 4,
    }
}

impl Inspector {
    /// Adds the iteration under way to the list.
    fn end_iteration(&mut self) {
        if let Some(iteration) = self.iterations.begin() {
            self.list_iteration(iteration);
        }
    }

    fn list_iteration(&mut self, iteration: Iteration) {
        self.listed.iteration(IterationPart {
            iteration: iteration.number,
            records: iteration.records,
            named: iteration.pfns,
            with_contents: iteration.data_pages,
            zero: std::mem::take(&mut self.zero),
            bytes: std::mem::take(&mut self.iteration_bytes),
            verify: self.verify,
        });
    }
}

impl Sink for Inspector {
    fn xl_header(&mut self, header: &xl::Header) {
        self.listed.xl = Some(XlPart {
            mandatory_flags: header.mandatory_flags,
            optional_flags: header.optional_flags,
            optional_data: header.optional_data_len,
        });
    }

    fn config(&mut self, config: &DomainSummary) {
        self.listed.config = Some(config.clone());
    }

    fn libxl_header(&mut self, header: &libxl::Header) {
        self.listed.libxl = Some(LibxlPart { version: libxl::VERSION, legacy: header.legacy });
    }

    fn image_header(&mut self, header: &ImageHeader) {
        self.listed.libxc.version = Some(header.version);
    }

    fn domain_header(&mut self, header: &DomainHeader) {
        self.listed.libxc.domain_type = Some(match header.domain_type {
            DomainType::Pv => "x86 PV",
            DomainType::Hvm => "x86 HVM",
        });
        self.listed.libxc.xen_version = Some(format!("{}.{}", header.xen_major, header.xen_minor));
    }

    fn record(&mut self, at: Location, length: u32) {
        let bytes = RECORD_HEADER_LEN as u64 + u64::from(length).next_multiple_of(8);
        let (stream, record_type) = match at.place {
            Place::Libxl(record_type) => ("libxl", record_type.to_string()),
            Place::Libxc(record_type) => {
                match record_type {
                    RecordType::PageData => {
                        self.page_records += 1;
                        self.page_bytes += bytes;
                    }
                    RecordType::Verify => {
                        self.end_iteration();
                        self.verify = true;
                    }
                    _ => {}
                }
                ("libxc", record_type.to_string())
            }
            _ => return,
        };
        self.listed.record(at, stream, record_type, length, bytes);
    }

    fn page_list(&mut self, entries: &[PageEntry]) -> bool {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return false };
        let contents = entries.iter().filter(|entry| entry.page_type.has_contents()).count();
        let batch = Batch {
            first_pfn: first.pfn,
            last_pfn: last.pfn,
            pfns: entries.len() as u32,
            data_pages: contents as u32,
        };
        if let Some(iteration) = self.iterations.record(&batch) {
            self.list_iteration(iteration);
        }
        let length = PageData::HEADER_LEN + entries.len() * 8 + contents * PAGE_SIZE;
        self.iteration_bytes += (RECORD_HEADER_LEN + length) as u64;
        self.pages.named += entries.len() as u64;
        self.pages.with_contents += contents as u64;
        true
    }

    fn page(&mut self, page: PageEntry, contents: Option<&[u8; PAGE_SIZE]>) {
        if let Some((_, count)) = self.types.get_mut(type_index(page.page_type)) {
            *count += 1;
        }
        self.pages.last_pfn = self.pages.last_pfn.max(Some(page.pfn));
        let shade = match contents {
            None => {
                self.compression.page(page, None);
                Shade::Hole
            }
            Some(contents) => self.contents(page, contents),
        };
        let again = self.iterations.current().number > 0 && shade != Shade::Hole;
        self.map.page(page.pfn, if again { Shade::Again } else { shade });
    }
}

impl Inspector {
    /// Counts a page with contents, and says how the picture shows it.
    fn contents(&mut self, page: PageEntry, contents: &[u8; PAGE_SIZE]) -> Shade {
        let zero = is_zero(contents);
        self.compression.page(page, (!zero).then_some(contents));
        if zero {
            self.pages.zero += 1;
            self.zero += 1;
            return Shade::Zero;
        }
        let repeated = self.seen.page(contents);
        match page.page_type {
            PageType::Table { .. } => Shade::Table,
            _ if repeated => Shade::Repeated,
            _ => Shade::Data,
        }
    }
}
