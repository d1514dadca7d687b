//! Options whose value is one of a few words: the words, and the help for each.
//!
//! The types come from crates that know nothing of command lines, so the words are here.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::progress::ProgressMode;
use rxl_core::level::Level;
use rxl_core::peer::{Peer, Transport};
use rxl_core::steering::{Restorer, Walker};
use rxl_precopy::policy::Otherwise;

/// One value of an option: the word on the command line, the value, and its help.
pub struct Choice<T>(&'static str, T, &'static str);

/// A type of which every value has a word on the command line.
pub trait Choices: Copy + Send + Sync + Sized + 'static {
    /// All values, in the order in which `--help` shows them.
    const CHOICES: &'static [Choice<Self>];
}

/// The parser for an option whose value is one of `T`'s words.
pub fn choice<T: Choices>() -> impl TypedValueParser<Value = T> {
    let words =
        T::CHOICES.iter().map(|Choice(word, _, help)| PossibleValue::new(*word).help(*help));
    PossibleValuesParser::new(words).try_map(|given: String| {
        let found = T::CHOICES.iter().find(|Choice(word, ..)| *word == given);
        found.map(|Choice(_, value, _)| *value).ok_or("not one of the possible values")
    })
}

/// Compression of pages on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compress {
    /// zstd on each batch by itself; a batch that would grow is sent raw.
    Zstd,
    /// No compression. Zero pages are still left out.
    None,
}

impl Choices for Compress {
    const CHOICES: &'static [Choice<Self>] = &[
        Choice(
            "zstd",
            Self::Zstd,
            "zstd on each batch of pages; a batch that would grow is sent raw",
        ),
        Choice("none", Self::None, "No compression; zero pages are still left out"),
    ];
}

impl Choices for Level {
    const CHOICES: &'static [Choice<Self>] = &[
        Choice("off", Self::Off, "Freeze nothing"),
        Choice("domain", Self::Domain, "Freeze the ranks in the domains that are moved or saved"),
        Choice(
            "job",
            Self::Job,
            "Freeze all ranks of the job, on all hosts; continue without if that fails",
        ),
        Choice("require", Self::Require, "Freeze as job does; move or save nothing if that fails"),
    ];
}

impl Choices for Peer {
    const CHOICES: &'static [Choice<Self>] = &[
        Choice("auto", Self::Auto, "rxl; the error suggests xl if the target has no rxl"),
        Choice("rxl", Self::Rxl, "rxl, and no suggestion if the target has none"),
        Choice("xl", Self::Xl, "Stock xl, over its own protocol"),
    ];
}

impl Choices for Transport {
    const CHOICES: &'static [Choice<Self>] = &[
        Choice("ssh", Self::Ssh, "One ssh connection for each data connection"),
        Choice(
            "tcp",
            Self::Tcp,
            "Plain TCP: not encrypted, and authenticated by a token only; for an isolated network",
        ),
    ];
}

impl Choices for Otherwise {
    const CHOICES: &'static [Choice<Self>] = &[
        Choice("cancel", Self::Cancel, "Cancel the migration; the domain runs on at the source"),
        Choice("force", Self::Force, "Suspend the domain, however long the rest then takes"),
    ];
}

impl Choices for Walker {
    const CHOICES: &'static [Choice<Self>] = &[
        Choice("rxl", Self::Rxl, "rxl itself; libxc for PV guests"),
        Choice(
            "libxc",
            Self::Libxc,
            "libxc in rxl's save helper, with rxl's stop policy; all guests",
        ),
        Choice(
            "stock",
            Self::Stock,
            "libxl's own save helper, which stops after five iterations or below 50 dirty pages",
        ),
    ];
}

impl Choices for Restorer {
    const CHOICES: &'static [Choice<Self>] = &[
        Choice("rxl", Self::Rxl, "rxl itself, while libxl attaches the devices; PVH guests"),
        Choice(
            "libxc",
            Self::Libxc,
            "libxl's own save helper, before libxl attaches the devices; all guests",
        ),
    ];
}

impl Choices for ProgressMode {
    const CHOICES: &'static [Choice<Self>] = &[
        Choice("auto", Self::Auto, "A bar on a terminal, lines of text elsewhere"),
        Choice("plain", Self::Plain, "Lines of text, also on a terminal"),
        Choice("none", Self::None, "No progress"),
    ];
}
