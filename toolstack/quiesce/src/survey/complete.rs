//! Whether all ranks of a job were found, and what is said where that cannot be known.

use std::collections::{BTreeMap, BTreeSet};

use super::visit::{Found, Part};
use super::{Jobs, Search};
use crate::error::NotQuiesced;
use rxl_core::level::Level;
use rxl_core::text::one_line;
use rxl_report::mpi::MpiPart;

/// How many ranks of a job were found, of how many.
struct Count {
    /// Ranks of the job by its launcher; 0 where that does not tell.
    size: u32,
    found: usize,
}

impl Count {
    fn is_all(&self) -> bool {
        self.size > 0 && u32::try_from(self.found).is_ok_and(|found| found >= self.size)
    }
}

/// Counts the ranks of each job. Two domains that name the same rank count once.
fn count<'f>(
    found: impl Iterator<Item = &'f Found> + Clone,
    jobs: &Jobs,
) -> BTreeMap<String, Count> {
    let mut counts: BTreeMap<_, _> =
        jobs.iter().map(|job| (job.clone(), Count { size: 0, found: 0 })).collect();
    for row in found.clone().flat_map(|found| &found.rows) {
        if let Some(count) = counts.get_mut(&row.id.to_string()) {
            count.size = count.size.max(row.size);
        }
    }
    let ranks: BTreeSet<_> = found.flat_map(|found| found.ranks_of(jobs)).collect();
    for (job, _) in ranks {
        if let Some(count) = counts.get_mut(&job) {
            count.found += 1;
        }
    }
    counts
}

fn all<'p>(home: &'p Part, parts: &'p [Part]) -> impl Iterator<Item = &'p Found> + Clone {
    home.mine.iter().chain(parts.iter().flat_map(|part| &part.mine))
}

/// Whether all ranks of all these jobs are found.
pub(super) fn is_all(home: &Part, parts: &[Part], jobs: &Jobs) -> bool {
    count(all(home, parts), jobs).values().all(Count::is_all)
}

/// At level job all ranks must have been found, or the cut could not be known to be clean.
/// `silent`: why other hosts could not be asked.
pub(super) fn check(
    search: &Search<'_>,
    home: &Part,
    parts: &[Part],
    silent: &[String],
    jobs: &Jobs,
) -> Result<(), NotQuiesced> {
    for (job, count) in count(all(home, parts), jobs) {
        if count.size == 0 && search.level == Level::Require {
            return Err(NotQuiesced::UnknownSize { job });
        }
        if count.size > 0 && !count.is_all() {
            let agents = parts.iter().chain([home]).flat_map(|part| &part.troubles);
            let troubles = silent.iter().chain(agents).cloned();
            let (size, found) = (count.size, count.found);
            return Err(NotQuiesced::RanksMissing {
                job,
                size,
                found,
                troubles: troubles.collect(),
            });
        }
    }
    Ok(())
}

/// What is to be known about a job that is held still nevertheless.
pub(super) fn warnings(search: &Search<'_>, found: &Part, jobs: &Jobs) -> Vec<String> {
    if search.level == Level::Domain {
        return Vec::new();
    }
    let unknown = count(found.mine.iter(), jobs).into_iter().filter(|(_, count)| count.size == 0);
    let warning = |(job, _)| {
        format!("its launcher does not tell how many ranks job {job} has: some may run elsewhere")
    };
    unknown.map(warning).collect()
}

/// No rank was found in the domains that move: what the report says of that.
pub(super) fn no_rank(search: &Search<'_>, warnings: Vec<String>) -> Result<MpiPart, NotQuiesced> {
    match search.level {
        Level::Require => Err(NotQuiesced::NoRank(one_line(&search.names.join(", ")))),
        level => Ok(MpiPart { problem: None, warnings, ..MpiPart::none(level, String::new()) }),
    }
}
