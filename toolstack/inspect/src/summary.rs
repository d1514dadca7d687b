//! What `rxl stream inspect` found, in the JSON form. The module `text` has the form for people.

use serde::Serialize;

use crate::content::{Compression, Count};
use crate::map::Picture;
use rxl_core::domain_config::DomainSummary;

/// Name and version of the JSON form. A field that changes its meaning changes the number.
pub const SCHEMA: &str = "rxl-stream-inspect/1";

/// What is in a stream. Sizes are bytes, offsets count from the input's first byte.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// The form and its version, always [`SCHEMA`].
    pub schema: &'static str,
    /// The kind of file that holds the stream, `rxl save file`; null for a stream as it is. All
    /// other fields describe the stream in it.
    pub container: Option<&'static str>,
    /// The format that the input begins with; null if it is none that rxl knows.
    pub format: Option<&'static str>,
    /// Length of the input, as far as it was read.
    pub bytes: u64,
    /// The header of xl's save file; null in a bare stream.
    pub xl: Option<XlPart>,
    /// The domain, from its configuration.
    pub config: Option<DomainSummary>,
    /// The libxl stream's header; null in a bare libxc stream.
    pub libxl: Option<LibxlPart>,
    /// The libxc stream's headers.
    pub libxc: LibxcPart,
    /// All records by type.
    pub totals: Vec<Total>,
    /// Runs of records of one type, in the stream's order.
    pub runs: Vec<Run>,
    /// Runs that are not in the list.
    pub runs_left_out: u64,
    pub pages: PagesPart,
    /// Iterations over memory: a new one begins where page numbers go back.
    #[serde(rename = "passes")]
    pub iterations: Vec<IterationPart>,
    /// Iterations that are not in the list.
    #[serde(rename = "passes-left-out")]
    pub iterations_left_out: u64,
    /// What rxl's compression would make of the stream; null if it has no pages.
    pub compression: Option<Compression>,
    /// The picture, when it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<Picture>,
    /// Number of violations of the formats' rules. `rxl stream verify` lists them.
    pub errors: u64,
    /// Number of findings that break no rule.
    pub warnings: u64,
}

/// The header of xl's save file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct XlPart {
    /// 1: the configuration is JSON, 2: the stream is libxl's version 2.
    pub mandatory_flags: u32,
    /// xl ignores all of these flags.
    pub optional_flags: u32,
    /// Bytes between the header and the stream.
    pub optional_data: u32,
}

/// The libxl stream's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LibxlPart {
    /// The format's version, always 2.
    pub version: u32,
    /// Whether the stream was converted from the format of Xen 4.5 and before.
    pub legacy: bool,
}

/// The libxc stream's headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LibxcPart {
    /// The format's version, 2 or 3.
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
    /// The specification's name of the type.
    #[serde(rename = "type")]
    pub record_type: String,
    /// Number of records.
    pub records: u64,
    /// Their bytes, headers and padding included.
    pub bytes: u64,
}

/// Records of one type that follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// First byte of the first record.
    pub offset: u64,
    /// `libxl` or `libxc`.
    pub stream: &'static str,
    /// The specification's name of the type.
    #[serde(rename = "type")]
    pub record_type: String,
    /// Number of records.
    pub records: u64,
    /// Their bytes, headers and padding included.
    pub bytes: u64,
    /// Length of the shortest body, without padding.
    pub shortest: u32,
    /// Length of the longest body, without padding.
    pub longest: u32,
}

/// Pages, each counted as often as it comes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PagesPart {
    /// Page numbers named in PAGE_DATA records.
    pub named: u64,
    /// Their number by the specification's name of the type, without types that do not occur.
    pub types: Vec<(&'static str, u64)>,
    /// Pages that have contents in the stream.
    pub with_contents: u64,
    /// Pages with contents that are all zero.
    pub zero: u64,
    /// Pages with other contents that an earlier page had too; null if there are none but zeroes.
    pub repeated: Option<Count>,
    /// The highest page number.
    pub last_pfn: Option<u64>,
}

/// An iteration over memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct IterationPart {
    /// The iteration's number, from 0.
    pub iteration: u32,
    /// Number of PAGE_DATA records.
    pub records: u64,
    /// Page numbers named in them.
    pub named: u64,
    /// Pages that have contents in the stream.
    pub with_contents: u64,
    /// Pages with contents that are all zero.
    pub zero: u64,
    /// Bytes of the records.
    pub bytes: u64,
    /// Whether the iteration comes after VERIFY: the restorer then compares and restores nothing.
    pub verify: bool,
}
