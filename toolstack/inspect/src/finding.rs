//! What is wrong with a stream, or odd about it, and where.

use std::borrow::Cow;

use migrate_stream::libxc::BodyError;
use migrate_stream::order::OrderError;
use migrate_stream::reader::{Place, Problem as Parsing};
use serde::Serialize;

use rxl_core::text::one_line;

/// Findings of a severity that are kept one by one. More of them are only counted: a damaged stream
/// of many GiB can have any number.
const MOST_FINDINGS: usize = 100;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// A rule of the formats is broken.
    Error,
    /// Allowed, but odd, or not wholly checked.
    Warning,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// What the parsers of [`migrate_stream`] find.
    #[error("{0}")]
    Parsing(Parsing),
    /// The input begins like none of the formats.
    #[error("neither xl's save file nor a libxl or libxc stream begins here")]
    Format,
    /// Reading the input failed.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Where a record should begin there is nothing like one.
    #[error(
        "type {record_type:#010x} with {length} bytes is no record: what follows cannot be told \
         apart"
    )]
    FramingLost {
        /// The type.
        record_type: u32,
        /// The length in bytes.
        length: u32,
    },
    /// The domain's configuration is not what libxl writes.
    #[error("the configuration {0}")]
    Config(String),
    /// The record comes after one that needs it.
    #[error("comes after {0}, which needs it")]
    After(&'static str),
    /// The record needs one that has not come.
    #[error("comes before {0}")]
    Before(&'static str),
    /// Xen's own savers write HVM_CONTEXT first, against the specification.
    #[error("comes after HVM_CONTEXT, as Xen writes it; the specification asks for the opposite")]
    ParamsAfterContext,
    /// The stream has no such record.
    #[error("there is no {0}")]
    Missing(&'static str),
    /// The record does not fit the word size in X86_PV_INFO.
    #[error("does not fit the word size in X86_PV_INFO")]
    GuestWidth,
    /// The record may be ignored by those who do not know it.
    #[error("not known; restorers may ignore it")]
    UnknownOptional,
    /// A record that says nothing.
    #[error("has no contents; savers should leave it out")]
    NoContents,
    /// The record is too long to be kept in memory whole.
    #[error("{length} bytes, too long to be looked at inside")]
    NotLookedAt {
        /// Its body's length in bytes.
        length: u32,
    },
    /// A device model's key with characters that xenstore does not have.
    #[error("key {0:?} has characters other than letters, digits and -/_@")]
    XenstoreKey(String),
    /// A device model's value that people could not read.
    #[error("the value of {0:?} is not readable ASCII")]
    XenstoreValue(String),
    /// More bytes after the end.
    #[error("{0} bytes follow, which nobody reads")]
    Trailing(u64),
}

impl<E: Into<Parsing>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Parsing(error.into())
    }
}

impl Problem {
    /// How much it weighs.
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

    /// The rule's name, for programs. docs/stream.md lists them.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Parsing(parsing) => parsing_rule(parsing),
            Self::Format => "format",
            Self::Unreadable(_) => "readable",
            Self::FramingLost { .. } => "framing",
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

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In which header or record.
    pub place: Place,
    /// Where that begins, in bytes from the input's first.
    pub offset: u64,
    /// What.
    pub problem: Problem,
    /// How often the same rule was broken in such a record, this time included.
    pub times: u64,
}

/// A finding as programs get it.
#[derive(Debug, Serialize)]
pub struct Told<'a> {
    severity: Severity,
    rule: &'static str,
    record: Cow<'a, str>,
    offset: u64,
    what: String,
    times: u64,
}

impl Finding {
    /// One line for people.
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

    /// For programs.
    pub fn told(&self) -> Told<'_> {
        Told {
            severity: self.problem.severity(),
            rule: self.problem.rule(),
            record: self.place.to_string().into(),
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
#[derive(Clone, Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    /// Breaches of rules.
    pub errors: u64,
    /// Oddities.
    pub warnings: u64,
    /// Findings that are counted above and not in the list.
    pub left_out: u64,
}

impl Findings {
    /// Takes a finding. One like an earlier one is counted with that.
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

    /// Those that are kept.
    pub fn list(&self) -> &[Finding] {
        &self.list
    }

    /// The first breach of a rule.
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
