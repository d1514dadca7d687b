//! `rxl stream verify`: whether a saved domain or a migration stream keeps the rules of its
//! formats.

use std::io::Read;

use serde::Serialize;

use crate::finding::{Findings, Told};
use crate::walk::{Sink, walk};

/// Name and version of the JSON form. A field that changes its meaning changes the number.
pub const SCHEMA: &str = "rxl-stream-verify/1";

/// The verdict on a stream.
#[derive(Debug)]
pub struct Verified {
    /// What the input was taken out of: `rxl save file`, or nothing.
    pub container: Option<&'static str>,
    /// What the input begins with; none: with nothing known.
    pub format: Option<&'static str>,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is wrong or odd.
    pub findings: Findings,
}

/// The verdict as programs get it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Json<'a> {
    schema: &'static str,
    verdict: &'static str,
    container: Option<&'static str>,
    format: Option<&'static str>,
    bytes: u64,
    errors: u64,
    warnings: u64,
    findings: Vec<Told<'a>>,
    findings_left_out: u64,
}

/// Looks at every record and at none of the pages.
struct Rules;

impl Sink for Rules {}

/// Judges an input, read to its end.
pub fn verify(input: impl Read) -> Verified {
    let walked = walk(input, &mut Rules);
    Verified {
        container: None,
        format: walked.format.map(super::walk::Format::name),
        bytes: walked.bytes,
        findings: walked.findings,
    }
}

impl Verified {
    /// Whether no rule is broken.
    pub fn accepted(&self) -> bool {
        self.findings.errors == 0
    }

    /// The JSON form, indented, with a line's end.
    pub fn to_json(&self) -> String {
        let json = Json {
            schema: SCHEMA,
            verdict: if self.accepted() { "accepted" } else { "refused" },
            container: self.container,
            format: self.format,
            bytes: self.bytes,
            errors: self.findings.errors,
            warnings: self.findings.warnings,
            findings: self.findings.list().iter().map(|finding| finding.told()).collect(),
            findings_left_out: self.findings.left_out,
        };
        // Only maps with keys that are not strings could fail, and there are none.
        serde_json::to_string_pretty(&json).map(|json| json + "\n").unwrap_or_default()
    }

    /// A line for each finding, and the verdict.
    pub fn to_text(&self, name: &str) -> String {
        let mut text: String =
            self.findings.list().iter().map(|finding| finding.line() + "\n").collect();
        if self.findings.left_out > 0 {
            text += &format!("and {} more findings of other kinds\n", self.findings.left_out);
        }
        let verdict = if self.accepted() {
            "keeps the rules of its formats"
        } else {
            "breaks the rules of its formats"
        };
        let format = self.container.or(self.format).unwrap_or("no known format");
        text + &format!(
            "{name}: {verdict} ({format}, {} bytes, {} warnings)\n",
            self.bytes, self.findings.warnings
        )
    }
}
