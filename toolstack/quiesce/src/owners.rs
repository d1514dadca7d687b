//! Whose a domain is, by dom0's word: which domains may have ranks of one job.
//!
//! What a guest says of its jobs is its own word. Without a bound on it, a guest could name another
//! tenant's job: its veto, or its silence, would then keep that job from being quiesced. So the
//! cluster's file tells whose the domains are, by their names, which guests cannot change.

use std::collections::BTreeMap;

use glob::Pattern;
use serde::Deserialize;

/// The owners of a cluster's domains: each with patterns of the names of its domains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, Vec<String>>")]
pub struct Owners(Vec<(String, Vec<Pattern>)>);

/// A pattern of the cluster's file that is none.
#[derive(Debug, thiserror::Error)]
#[error("'{pattern}' is no pattern of names: {source}")]
pub struct BadPattern {
    pattern: String,
    source: glob::PatternError,
}

impl TryFrom<BTreeMap<String, Vec<String>>> for Owners {
    type Error = BadPattern;

    fn try_from(owners: BTreeMap<String, Vec<String>>) -> Result<Self, BadPattern> {
        let pattern = |pattern: String| {
            Pattern::new(&pattern).map_err(|source| BadPattern { pattern, source })
        };
        let patterns = |(owner, names): (String, Vec<String>)| {
            Ok((owner, names.into_iter().map(pattern).collect::<Result<_, _>>()?))
        };
        owners.into_iter().map(patterns).collect::<Result<_, _>>().map(Self)
    }
}

impl Owners {
    /// Whether domains of these names may have ranks of the same job. Where nobody is named, all
    /// domains have one owner. A domain that no pattern is for is its own owner.
    pub fn share(&self, one: &str, other: &str) -> bool {
        self.0.is_empty()
            || one == other
            || self.of(one).is_some_and(|of| Some(of) == self.of(other))
    }

    /// The first owner in the order of their names that has a pattern for it.
    fn of(&self, name: &str) -> Option<&str> {
        let owner = self.0.iter().find(|(_, patterns)| patterns.iter().any(|p| p.matches(name)));
        owner.map(|(owner, _)| owner.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(text: &str) -> Result<Owners, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn domains_of_one_owner_may_share_a_job() {
        let owners = owners("alice = [\"alice-*\", \"dom3\"]\nbob = [\"b?b\"]").unwrap();
        assert!(owners.share("alice-1", "dom3") && owners.share("bob", "bab"));
        assert!(!owners.share("alice-1", "bob"));
        assert!(owners.share("other", "other") && !owners.share("other", "another"), "its own");
        assert!(Owners::default().share("alice-1", "bob"), "nobody is named");
    }

    #[test]
    fn a_pattern_that_is_none_is_named() {
        let error = owners("alice = [\"a[\"]").unwrap_err();
        assert!(error.message().contains("'a['"), "{error}");
    }
}
