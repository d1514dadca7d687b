//! `rxl stream verify`: whether a saved domain or a migration stream keeps the rules of its
//! formats.

use std::io::Read;

use serde::Serialize;

use crate::finding::{FindingJson, Findings};
use crate::walk::{Format, Sink, walk};

/// Name and version of the JSON form. A field that changes its meaning changes the number.
pub const SCHEMA: &str = "rxl-stream-verify/1";

/// The verdict on a stream.
#[derive(Debug)]
pub struct Verified {
    /// The kind of file that the stream was taken out of, `rxl save file`; none for a bare stream.
    pub container: Option<&'static str>,
    /// The format that the input begins with; none if it is none that rxl knows.
    pub format: Option<&'static str>,
    /// Number of bytes that were read.
    pub bytes: u64,
    pub findings: Findings,
}

/// The verdict's JSON form.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VerifiedJson {
    schema: &'static str,
    verdict: &'static str,
    container: Option<&'static str>,
    format: Option<&'static str>,
    bytes: u64,
    errors: u64,
    warnings: u64,
    findings: Vec<FindingJson>,
    findings_left_out: u64,
}

/// Has every record checked, and no page shown.
struct Rules;

impl Sink for Rules {}

/// Verifies an input, to its end.
pub fn verify(input: impl Read) -> Verified {
    let walked = walk(input, &mut Rules);
    Verified {
        container: None,
        format: walked.format.map(Format::name),
        bytes: walked.bytes,
        findings: walked.findings,
    }
}

impl Verified {
    /// Whether no rule is broken.
    pub fn accepted(&self) -> bool {
        self.findings.errors == 0
    }

    /// The verdict as `--json` prints it.
    pub fn json(&self) -> VerifiedJson {
        VerifiedJson {
            schema: SCHEMA,
            verdict: if self.accepted() { "accepted" } else { "refused" },
            container: self.container,
            format: self.format,
            bytes: self.bytes,
            errors: self.findings.errors,
            warnings: self.findings.warnings,
            findings: self.findings.list().iter().map(|finding| finding.json()).collect(),
            findings_left_out: self.findings.left_out,
        }
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
