//! `rxl stream inspect`: what is in a saved domain or a migration stream.

use std::io::Read;

use migrate_stream::iterations::{Batch, Iteration, Iterations};
use migrate_stream::libxc::{
    DomainHeader, DomainType, ImageHeader, PAGE_SIZE, PageData, PageEntry, PageType,
    RECORD_HEADER_LEN, RecordType,
};
use migrate_stream::reader::Place;
use migrate_stream::{frame::pages::is_zero, libxl, xl};
use serde::Serialize;

use crate::content::{Compression, Count, Sampler, Seen};
use crate::finding::Findings;
use crate::map::{Map, Picture, Shade};
use crate::walk::{At, Sink, walk};
use rxl_core::domain_config::DomainSummary;

/// Name and version of the JSON form. A field that changes its meaning changes the number.
pub const SCHEMA: &str = "rxl-stream-inspect/1";

/// Runs of records, and iterations, that are kept one by one; more are only counted. Xen's own
/// streams have a few of each.
const MOST_LISTED: usize = 1000;

/// What is in a stream. Sizes are bytes, offsets count from the input's first byte.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// What the input was taken out of: `rxl save file`, or null. All that follows is of what was
    /// in there.
    pub container: Option<&'static str>,
    /// What the input begins with; null: with nothing known.
    pub format: Option<&'static str>,
    /// Length of the input, as far as it was read.
    pub bytes: u64,
    /// xl's save header.
    pub xl: Option<XlPart>,
    /// The domain, from its configuration.
    pub config: Option<DomainSummary>,
    /// The libxl stream's header.
    pub libxl: Option<LibxlPart>,
    /// The libxc stream's headers.
    pub libxc: LibxcPart,
    /// All records by type.
    pub totals: Vec<Total>,
    /// Runs of records of one type, in the stream's order.
    pub runs: Vec<Run>,
    /// Runs that are not in the list.
    pub runs_left_out: u64,
    /// Pages.
    pub pages: PagesPart,
    /// Iterations over memory, told apart by page numbers that go back.
    #[serde(rename = "passes")]
    pub iterations: Vec<IterationPart>,
    /// Iterations that are not in the list.
    #[serde(rename = "passes-left-out")]
    pub iterations_left_out: u64,
    /// What rxl's compression would make of the stream; null: there are no pages.
    pub compression: Option<Compression>,
    /// The picture, when it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<Picture>,
    /// Breaches of the formats' rules: `rxl stream verify` tells them.
    pub errors: u64,
    /// Oddities.
    pub warnings: u64,
}

/// xl's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct XlPart {
    /// 1: the configuration is JSON, 2: the stream is libxl's version 2.
    pub mandatory_flags: u32,
    /// Nobody looks at them.
    pub optional_flags: u32,
    /// Bytes between the header and the stream.
    pub optional_data: u32,
}

/// The libxl stream's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LibxlPart {
    /// Always 2.
    pub version: u32,
    /// Converted from the format of Xen 4.5 and before.
    pub legacy: bool,
}

/// The libxc stream's headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LibxcPart {
    /// 2 or 3.
    pub version: Option<u32>,
    /// `x86 PV` or `x86 HVM`, which PVH guests are too.
    pub domain_type: Option<&'static str>,
    /// `MAJOR.MINOR` of the Xen that saved it.
    pub xen_version: Option<String>,
}

/// Records of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Total {
    /// `libxl` or `libxc`.
    pub stream: &'static str,
    /// In the specification's words.
    #[serde(rename = "type")]
    pub record_type: String,
    /// How many.
    pub records: u64,
    /// Their bytes, headers and padding included.
    pub bytes: u64,
}

/// Records of one type that follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Where the first begins.
    pub offset: u64,
    /// `libxl` or `libxc`.
    pub stream: &'static str,
    /// In the specification's words.
    #[serde(rename = "type")]
    pub record_type: String,
    /// How many.
    pub records: u64,
    /// Their bytes, headers and padding included.
    pub bytes: u64,
    /// The shortest body.
    pub shortest: u32,
    /// The longest body.
    pub longest: u32,
}

/// Pages, each counted as often as it comes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PagesPart {
    /// Named in PAGE_DATA.
    pub named: u64,
    /// By type, those that there are.
    pub types: Vec<(&'static str, u64)>,
    /// With contents.
    pub with_contents: u64,
    /// Of these, all zero.
    pub zero: u64,
    /// Of the others, those whose contents came before in the stream.
    pub repeated: Option<Count>,
    /// The highest page number.
    pub last_pfn: Option<u64>,
}

/// An iteration over memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct IterationPart {
    /// Its number, from 0.
    pub iteration: u32,
    /// PAGE_DATA records.
    pub records: u64,
    /// Pages named.
    pub named: u64,
    /// Pages with contents.
    pub with_contents: u64,
    /// Pages of zeroes.
    pub zero: u64,
    /// Bytes of its records.
    pub bytes: u64,
    /// After VERIFY: for comparing only.
    pub verify: bool,
}

/// What to look at besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Put the picture into the summary.
    pub map: bool,
    /// What the input was taken out of, for the summary.
    pub container: Option<&'static str>,
}

/// What was found.
pub struct Inspected {
    /// For the user.
    pub summary: Summary,
    /// For the image.
    pub map: Map,
    /// What is wrong.
    pub findings: Findings,
}

/// Looks at an input, to its end.
pub fn inspect(input: impl Read, options: Options) -> Inspected {
    let mut inspector = Inspector::default();
    let walked = walk(input, &mut inspector);
    inspector.end_iteration();
    let Inspector {
        listed,
        map,
        compression,
        page_records,
        page_bytes,
        mut pages,
        seen,
        types,
        ..
    } = inspector;
    pages.repeated = (pages.with_contents > pages.zero).then(|| seen.repeated());
    pages.types = types.into_iter().filter(|&(_, count)| count > 0).collect();
    let summary = Summary {
        schema: SCHEMA,
        container: options.container,
        format: walked.format.map(super::walk::Format::name),
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

/// What is taken over as it comes.
#[derive(Default)]
struct Listed {
    xl: Option<XlPart>,
    config: Option<DomainSummary>,
    libxl: Option<LibxlPart>,
    libxc: LibxcPart,
    totals: Vec<Total>,
    runs: Vec<Run>,
    runs_left_out: u64,
    last: Option<Place>,
    iterations: Vec<IterationPart>,
    iterations_left_out: u64,
}

struct Inspector {
    listed: Listed,
    pages: PagesPart,
    types: [(&'static str, u64); 12],
    iterations: Iterations,
    /// Of the iteration under way.
    zero: u64,
    iteration_bytes: u64,
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
            listed: Listed::default(),
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
        // 5 to 8 are no types.
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
        let part = IterationPart {
            iteration: iteration.number,
            records: iteration.records,
            named: iteration.pfns,
            with_contents: iteration.data_pages,
            zero: std::mem::take(&mut self.zero),
            bytes: std::mem::take(&mut self.iteration_bytes),
            verify: self.verify,
        };
        if self.listed.iterations.len() < MOST_LISTED {
            self.listed.iterations.push(part);
        } else {
            self.listed.iterations_left_out += 1;
        }
    }
}

impl Listed {
    fn total(&mut self, stream: &'static str, record_type: &str, bytes: u64) {
        let same = |total: &&mut Total| total.stream == stream && total.record_type == record_type;
        if let Some(total) = self.totals.iter_mut().find(same) {
            total.records += 1;
            total.bytes += bytes;
        } else if self.totals.len() < MOST_LISTED {
            self.totals.push(Total { stream, record_type: record_type.into(), records: 1, bytes });
        }
    }

    fn run(&mut self, at: At, stream: &'static str, record_type: String, length: u32, bytes: u64) {
        let continues = self.last.replace(at.place) == Some(at.place);
        if !continues && self.runs.len() == MOST_LISTED {
            self.runs_left_out += 1;
        }
        if self.runs_left_out > 0 {
            return;
        }
        match self.runs.last_mut().filter(|_| continues) {
            Some(run) => {
                run.records += 1;
                run.bytes += bytes;
                run.shortest = run.shortest.min(length);
                run.longest = run.longest.max(length);
            }
            None => {
                let (shortest, longest) = (length, length);
                self.runs.push(Run {
                    offset: at.offset,
                    stream,
                    record_type,
                    records: 1,
                    bytes,
                    shortest,
                    longest,
                });
            }
        }
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

    fn record(&mut self, at: At, length: u32) {
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
        self.listed.total(stream, &record_type, bytes);
        self.listed.run(at, stream, record_type, length, bytes);
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
        self.types[type_index(page.page_type)].1 += 1;
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

impl Summary {
    /// The JSON form, indented, with a line's end.
    pub fn to_json(&self) -> String {
        // Only maps with keys that are not strings could fail, and there are none.
        serde_json::to_string_pretty(self).map(|json| json + "\n").unwrap_or_default()
    }
}
