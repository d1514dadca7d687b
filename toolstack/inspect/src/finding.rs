//! Problems of a stream, and where in it they are.

use migrate_stream::libvirt::LibvirtError;
use migrate_stream::libxc::BodyError;
use migrate_stream::order::OrderError;
use migrate_stream::reader::{Place, Problem as Parsing};
use serde::Serialize;

use rxl_core::domain_config::ConfigError;
use rxl_core::text::one_line;

/// Most findings of one severity that are kept one by one. More are only counted: a damaged stream
/// of many GiB can have any number.
const MOST_FINDINGS: usize = 100;

/// Whether a finding makes `rxl stream verify` refuse the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The stream breaks a rule of its formats.
    Error,
    /// The stream breaks no rule, but is unusual, or was not checked in full.
    Warning,
}

/// A problem of a stream. Its text is one line, without the place.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A violation that the parsers of [`migrate_stream`] found.
    #[error("{0}")]
    Parsing(Parsing),
    /// The input begins like none of the known formats.
    #[error("neither xl's or libvirt's save file nor a libxl or libxc stream begins here")]
    Format,
    /// Reading the input failed.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] std::io::Error),
    /// The bytes where a record should begin are no record's header.
    #[error(
        "type {record_type:#010x} with {length} bytes is no record: what follows cannot be told \
         apart"
    )]
    FramingLost {
        record_type: u32,
        /// The length in bytes, by the header.
        length: u32,
    },
    /// libvirt's header, or the domain's XML behind it, is not what libvirt writes.
    #[error("{0}")]
    Libvirt(#[source] LibvirtError),
    /// The domain's configuration is not what libxl writes.
    #[error("the configuration {0}")]
    Config(#[source] ConfigError),
    /// The record comes after another that needs it.
    #[error("comes after {0}, which needs it")]
    After(&'static str),
    /// The record comes before another that it needs.
    #[error("comes before {0}")]
    Before(&'static str),
    /// Xen's own savers write HVM_CONTEXT first, against the specification.
    #[error("comes after HVM_CONTEXT, as Xen writes it; the specification asks for the opposite")]
    ParamsAfterContext,
    /// The stream ended without a record that it must have.
    #[error("there is no {0}")]
    Missing(&'static str),
    /// The record does not fit the word size in X86_PV_INFO.
    #[error("does not fit the word size in X86_PV_INFO")]
    GuestWidth,
    /// The record's type is unknown, and marked as optional: a restorer may ignore it.
    #[error("not known; restorers may ignore it")]
    UnknownOptional,
    /// The record is empty.
    #[error("has no contents; savers should leave it out")]
    NoContents,
    /// The record's contents were not checked: it is too long to be kept in memory.
    #[error("{length} bytes, too long to be looked at inside")]
    NotLookedAt {
        /// The body's length in bytes.
        length: u32,
    },
    /// A device model's key has characters that xenstore does not allow.
    #[error("key {0:?} has characters other than letters, digits and -/_@")]
    XenstoreKey(String),
    /// A device model's value is not printable ASCII.
    #[error("the value of {0:?} is not readable ASCII")]
    XenstoreValue(String),
    /// The input goes on after the stream's end.
    #[error("{0} bytes follow, which nobody reads")]
    Trailing(u64),
}

impl<E: Into<Parsing>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Parsing(error.into())
    }
}

impl Problem {
    pub fn severity(&self) -> Severity {
        match self {
            Self::ParamsAfterContext
            | Self::UnknownOptional
            | Self::NoContents
            | Self::NotLookedAt { .. }
            | Self::XenstoreValue(_)
            | Self::Trailing(_) => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// The name of the rule, as JSON has it. docs/stream.md lists them.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Parsing(parsing) => parsing_rule(parsing),
            Self::Format => "format",
            Self::Unreadable(_) => "readable",
            Self::FramingLost { .. } => "framing",
            Self::Libvirt(_) => "libvirt-header",
            Self::Config(_) => "config",
            Self::After(_) | Self::Before(_) => "order",
            Self::ParamsAfterContext => "params-after-context",
            Self::Missing(_) => "missing-record",
            Self::GuestWidth => "guest-width",
            Self::UnknownOptional => "unknown-optional-record",
            Self::NoContents => "no-contents",
            Self::NotLookedAt { .. } => "not-looked-at",
            Self::XenstoreKey(_) => "xenstore-key",
            Self::XenstoreValue(_) => "xenstore-value",
            Self::Trailing(_) => "trailing-bytes",
        }
    }
}

fn parsing_rule(parsing: &Parsing) -> &'static str {
    match parsing {
        Parsing::Xl(_) => "xl-header",
        Parsing::LibxlHeader(_) => "libxl-header",
        Parsing::LibxcHeader(_) => "libxc-header",
        Parsing::Body(error) => body_rule(error),
        Parsing::Order(OrderError::Checkpointed) => "checkpointed",
        Parsing::Order(OrderError::Deprecated) => "deprecated-record",
        Parsing::Order(OrderError::Version2) => "record-of-version-3",
        Parsing::Order(OrderError::GuestType) => "record-of-other-guest",
        Parsing::Order(_) => "order",
        Parsing::UnknownRecord => "unknown-record",
        Parsing::Padding => "padding",
        Parsing::Truncated { .. } => "truncated",
    }
}

fn body_rule(error: &BodyError) -> &'static str {
    match error {
        BodyError::Length { .. }
        | BodyError::TooShort { .. }
        | BodyError::TooLong { .. }
        | BodyError::Entries { .. } => "record-length",
        BodyError::Reserved { .. } | BodyError::PfnReserved { .. } => "reserved-bits",
        BodyError::PageType { .. } => "page-type",
        BodyError::Value { .. } | BodyError::Range { .. } | BodyError::PageContents { .. } => {
            "field-value"
        }
        BodyError::NotTerminated | BodyError::OddStrings { .. } => "xenstore-strings",
    }
}

/// A problem with its place, and how often it occurs.
#[derive(Debug)]
pub struct Finding {
    /// The kind of header or record that has the problem.
    pub place: Place,
    /// First byte of the first such header or record, from the input's first.
    pub offset: u64,
    pub problem: Problem,
    /// How often the same rule is broken in headers or records of this kind, at least 1.
    pub times: u64,
}

/// A finding's JSON form.
#[derive(Debug, Serialize)]
pub struct FindingJson {
    severity: Severity,
    rule: &'static str,
    record: String,
    offset: u64,
    what: String,
    times: u64,
}

impl Finding {
    /// The finding as text, one line.
    pub fn line(&self) -> String {
        let word = match self.problem.severity() {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let more = if self.times > 1 {
            format!(" ({} times, this is the first)", self.times)
        } else {
            String::new()
        };
        one_line(&format!("{word}: {self}{more}"))
    }

    /// The finding as `--json` prints it.
    pub fn json(&self) -> FindingJson {
        FindingJson {
            severity: self.problem.severity(),
            rule: self.problem.rule(),
            record: self.place.to_string(),
            offset: self.offset,
            what: one_line(&self.problem.to_string()),
            times: self.times,
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}: {}", self.place, self.offset, self.problem)
    }
}

/// All findings of a stream, in its order.
#[derive(Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    /// Number of findings of severity [`Severity::Error`].
    pub errors: u64,
    /// Number of findings of severity [`Severity::Warning`].
    pub warnings: u64,
    /// Number of findings that are counted above and not in the list.
    pub left_out: u64,
}

impl Findings {
    /// Adds a problem. If the same rule was broken in the same kind of record before, it is counted
    /// with that finding.
    pub fn add(&mut self, place: Place, offset: u64, problem: Problem) {
        let severity = problem.severity();
        match severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
        }
        let same =
            |other: &&mut Finding| other.place == place && other.problem.rule() == problem.rule();
        if let Some(earlier) = self.list.iter_mut().find(same) {
            earlier.times += 1;
        } else if self.list.iter().filter(|kept| kept.problem.severity() == severity).count()
            < MOST_FINDINGS
        {
            self.list.push(Finding { place, offset, problem, times: 1 });
        } else {
            self.left_out += 1;
        }
    }

    /// The findings that are kept one by one.
    pub fn list(&self) -> &[Finding] {
        &self.list
    }

    /// The first violation of a rule, if there is one.
    pub fn first_error(&self) -> Option<&Finding> {
        self.list.iter().find(|finding| finding.problem.severity() == Severity::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use migrate_stream::libxc::RecordType;

    #[test]
    fn the_like_are_counted_together_and_all_are_bounded() {
        let mut findings = Findings::default();
        for offset in 0..1000 {
            findings.add(
                Place::Libxc(RecordType::PageData),
                offset,
                Problem::Before("STATIC_DATA_END"),
            );
            findings.add(
                Place::Libxc(RecordType::Unknown(offset as u32)),
                offset,
                Problem::UnknownOptional,
            );
        }
        assert_eq!(
            (findings.errors, findings.warnings, findings.left_out),
            (1000, 1000, 1000 - 100)
        );
        assert_eq!(findings.list().len(), MOST_FINDINGS + 1);
        assert_eq!(
            findings.first_error().map(|finding| (finding.offset, finding.times)),
            Some((0, 1000))
        );
    }
}
