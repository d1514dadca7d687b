//! Whether all ranks of a job were found, and what is said where that cannot be known.

use std::collections::{BTreeMap, BTreeSet};

use super::visit::{Found, Part};
use super::{Jobs, Search};
use crate::error::NotQuiesced;
use rxl_agent_protocol::JobRow;
use rxl_core::level::Level;
use rxl_core::text::one_line;
use rxl_report::mpi::MpiPart;

/// How many ranks of a job were found, of how many.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    /// Ranks of the job by its launcher; 0 where that does not tell.
    size: u32,
    found: usize,
}

impl Count {
    fn is_all(&self) -> bool {
        self.size > 0 && u32::try_from(self.found).is_ok_and(|found| found >= self.size)
    }

    /// Sums up over the job's process groups. A spawned group tells nothing of the one that has
    /// spawned it, so a job without its first group is of unknown size.
    fn of(groups: &BTreeMap<u32, Group>) -> Self {
        let is_known = groups.contains_key(&0) && groups.values().all(|group| group.size > 0);
        let sizes = groups.values().map(|group| group.size);
        Self {
            size: if is_known { sizes.fold(0, u32::saturating_add) } else { 0 },
            found: groups.values().map(Group::found).sum(),
        }
    }
}

/// The ranks of a process group of a job.
#[derive(Default)]
struct Group {
    size: u32,
    ranks: BTreeSet<u32>,
}

impl Group {
    /// No more than there are: what one group has too many is no rank of another.
    fn found(&self) -> usize {
        let most = usize::try_from(self.size).unwrap_or(usize::MAX);
        if self.size > 0 { self.ranks.len().min(most) } else { self.ranks.len() }
    }
}

/// Counts the ranks of each job. Two domains that name the same rank count once.
fn count<'f>(found: impl Iterator<Item = &'f Found>, jobs: &Jobs) -> BTreeMap<String, Count> {
    count_rows(found.flat_map(|found| &found.rows), jobs)
}

fn count_rows<'r>(rows: impl Iterator<Item = &'r JobRow>, jobs: &Jobs) -> BTreeMap<String, Count> {
    let mut all: BTreeMap<String, BTreeMap<u32, Group>> =
        jobs.iter().map(|job| (job.clone(), BTreeMap::new())).collect();
    for row in rows {
        if let Some(groups) = all.get_mut(&row.id.to_string()) {
            let group = groups.entry(row.part).or_default();
            group.size = group.size.max(row.size);
            group.ranks.extend(row.ranks.iter().map(|rank| rank.number));
        }
    }
    all.into_iter().map(|(job, groups)| (job, Count::of(&groups))).collect()
}

fn all<'p>(home: &'p Part, parts: &'p [Part]) -> impl Iterator<Item = &'p Found> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(rows: &[&str]) -> Count {
        let rows: Vec<JobRow> = rows.iter().map(|row| row.parse().unwrap()).collect();
        count_rows(rows.iter(), &Jobs::from(["a".to_owned()])).remove("a").unwrap()
    }

    #[test]
    fn each_process_group_is_counted_by_itself() {
        let first = "id=a launcher=openmpi size=2 ranks=0:1,1:2";
        let half = "id=a launcher=openmpi size=2 ranks=0:1";
        let spawned = "id=a launcher=openmpi size=2 part=1 ranks=0:3,1:4";
        assert_eq!(counted(&[first, spawned]), Count { size: 4, found: 4 });
        let missing = counted(&[half, spawned]);
        assert_eq!(missing, Count { size: 4, found: 3 }, "rank 1 of another group is not its own");
        assert!(!missing.is_all());
        assert_eq!(counted(&[first, first, half]), Count { size: 2, found: 2 }, "told twice");
    }

    #[test]
    fn what_is_not_told_leaves_the_size_unknown() {
        let spawned = "id=a launcher=openmpi size=2 part=1 ranks=0:3,1:4";
        assert_eq!(counted(&[spawned]).size, 0, "of whom?");
        let untold = "id=a launcher=hydra size=0 ranks=0:1";
        assert_eq!(counted(&[untold]), Count { size: 0, found: 1 });
        assert_eq!(counted(&[untold, spawned]).size, 0);
        assert_eq!(counted(&["id=b launcher=hydra size=1 ranks=0:1"]), Count::default());
    }
}
