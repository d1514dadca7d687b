//! What leader and member say to each other: one JSON value a line.

use std::io::{BufRead, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use rxl_core::error::{Exit, Failure};
use rxl_core::json_lines::{JsonLineError, JsonLines};
use rxl_report::mpi::MpiPart;

/// A report with a thousand iterations is a tenth of the longest line.
pub const LINES: JsonLines = JsonLines::up_to(4 << 20);

/// What a member says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromMember {
    /// It could begin.
    Prepared {
        /// The domain's name.
        name: String,
        /// Its number here.
        domid: u32,
    },
    /// Pre-copy is good enough.
    Stop,
    /// The guest is to be suspended next.
    Suspend,
    /// The guest stands still.
    Suspended,
    /// It does already, and nobody has asked.
    Unasked,
    /// The target has all of it.
    Ready,
    /// The user wants it cancelled, and it may not do so by itself.
    Cancel,
    /// It gives up, and cleans up next.
    Failing { what: String },
    /// Where the domain is now.
    Settled(Place),
    /// The last word.
    Ended(Box<Ended>),
}

/// Where a domain is when its member has done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// It runs on its target.
    Target {
        /// Its number there.
        domid: u32,
    },
    /// It runs where it was.
    Source,
    /// Nobody knows, or it is not to run yet.
    Elsewhere,
}

/// How a member's migration ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ended {
    /// Why it failed, if it did.
    pub failure: Option<Told>,
    /// The report, of a migration that began.
    pub report: Option<Value>,
    /// The report for people.
    pub table: String,
}

/// A [`Failure`], as it travels from a member to its leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Told {
    /// The exit code that rxl would end with.
    pub exit: u8,
    pub what: String,
    /// What the user can do next.
    pub next: Option<String>,
}

/// What the leader says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToMember {
    /// All are prepared.
    Begin {
        /// What has been found of the job, where one was asked for.
        figures: Option<Box<MpiPart>>,
        /// There is a job to be held still: the barriers are to be kept.
        together: bool,
    },
    /// The job stands still.
    Frozen,
    /// The job could not be held still, and nobody is to be waited for.
    Alone {
        /// They have the reason.
        figures: Box<MpiPart>,
    },
    /// Nothing of the job is on the wire.
    Flushed {
        /// What has been measured so far.
        figures: Box<MpiPart>,
    },
    /// All are ready.
    Go {
        /// For the domain's agent, from its target.
        agent_command: String,
    },
    /// All is to be given up.
    Abort { reason: String },
    /// The job runs.
    Closed {
        /// What was measured of the whole epoch.
        figures: Box<MpiPart>,
    },
}

impl From<&Failure> for Told {
    fn from(failure: &Failure) -> Self {
        Self { exit: failure.exit.code(), what: failure.what.clone(), next: failure.next.clone() }
    }
}

impl From<&Told> for Failure {
    fn from(told: &Told) -> Self {
        let known = Exit::TABLE.iter().map(|(exit, _)| *exit).find(|exit| exit.code() == told.exit);
        let failure = Self::new(known.unwrap_or(Exit::Internal), told.what.clone());
        match &told.next {
            Some(next) => failure.next(next.clone()),
            None => failure,
        }
    }
}

/// Says one word.
pub fn say(output: &mut impl Write, word: &impl Serialize) -> Result<(), JsonLineError> {
    LINES.write(output, word)
}

/// The next word; none at the end.
pub fn hear<T: DeserializeOwned>(input: &mut impl BufRead) -> Result<Option<T>, JsonLineError> {
    LINES.read(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lines_and_nothing_else_is_taken() {
        let mut line = Vec::new();
        let settled = FromMember::Settled(Place::Target { domid: 7 });
        say(&mut line, &settled).unwrap();
        say(&mut line, &FromMember::Ready).unwrap();
        assert_eq!(line, b"{\"settled\":{\"target\":{\"domid\":7}}}\n\"ready\"\n");
        let mut input = line.as_slice();
        assert_eq!(hear(&mut input).unwrap(), Some(settled));
        assert_eq!(hear(&mut input).unwrap(), Some(FromMember::Ready));
        assert_eq!(hear::<FromMember>(&mut input).unwrap(), None);
        assert!(hear::<FromMember>(&mut &b"\"explode\"\n"[..]).is_err());
        assert!(hear::<FromMember>(&mut vec![b'['; 5 << 20].as_slice()).is_err());
    }

    #[test]
    fn a_failure_stays_what_it_was() {
        let failure = Failure::new(Exit::Refused, "nodeB refused: no memory").next("free some");
        assert_eq!(Failure::from(&Told::from(&failure)), failure);
        let odd = Told { exit: 99, what: "a\nb".into(), next: None };
        assert_eq!(Failure::from(&odd), Failure::new(Exit::Internal, "a b"));
    }
}
