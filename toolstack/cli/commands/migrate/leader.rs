//! Several domains: this process leads, and each domain is moved by a process of its own.

use std::path::Path;

use crate::arguments::Migrate;
use crate::report_file::ReportFile;
use crate::{signals, standard_io};
use rxl_core::error::{Exit, Failure};
use rxl_core::own_program::OWN_PROGRAM;
use rxl_core::peer::Peer;
use rxl_gang::barriers::{GangOutcome, Quiesce};
use rxl_gang::leader::{self, Heard};
use rxl_gang::members::Members;
use rxl_gang::placement::{Placement, targets};
use rxl_report::schema::gang_json;
use rxl_session::events::Events;
use rxl_session::gang_words::Ended;
use rxl_session::job::reach_agents;

pub fn lead(options: &Migrate, all: &[Placement]) -> Result<(), Failure> {
    refuse_what_cannot_be_shared(options)?;
    let (routes, places) = targets(all, options.ssh_command.as_deref())?;
    let report_file = options.report.as_deref().map(ReportFile::create).transpose()?;
    let events: Events<Heard> = Events::default();
    signals::watch(events.sender())?;
    let quiesce = Quiesce {
        level: options.mpi_quiesce,
        dry_run: options.dry_run,
        agents: reach_agents(options.mpi_quiesce, &routes)?,
        // Host 0 is this one.
        targets: places.iter().map(|place| place + 1).collect(),
    };
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (members, lines) = Members::start(Path::new(OWN_PROGRAM), &arguments, all.len())?;
    let names: Vec<String> = all.iter().map(|placement| placement.domain.clone()).collect();
    let outcome = leader::lead(&names, lines, quiesce, &events)?;
    drop(members);
    conclude(options, report_file, &names, outcome)
}

fn refuse_what_cannot_be_shared(options: &Migrate) -> Result<(), Failure> {
    let refused = |what: &str, next: &str| Err(Failure::new(Exit::Usage, what).next(next));
    if options.config.is_some() {
        return refused(
            "-C is for one domain: they cannot share a configuration",
            "move that domain alone",
        );
    }
    if options.peer == Peer::Xl {
        return refused("--peer xl moves one domain at a time", "move them one after the other");
    }
    Ok(())
}

/// Writes the reports to standard output and to the file, and the failures to standard error. The
/// failure that gives the exit code is returned, and so is printed last.
fn conclude(
    options: &Migrate,
    file: Option<ReportFile>,
    names: &[String],
    outcome: GangOutcome,
) -> Result<(), Failure> {
    let json = gang_json(outcome.members.iter().filter_map(|member| member.report.as_ref()));
    if !options.dry_run {
        standard_io::print(&if options.json { json.clone() } else { tables(&outcome) });
    }
    let began = !options.dry_run && outcome.members.iter().any(|member| member.report.is_some());
    let written = file.filter(|_| began).map_or(Ok(()), |file| file.write(&json));
    let mut failures = failures(names, outcome);
    let Some(last) = failures.pop() else { return written };
    failures.iter().for_each(|failure| eprintln!("rxl: {failure}"));
    Err(last)
}

fn tables(outcome: &GangOutcome) -> String {
    let succeeded = outcome.members.iter().filter(|member| member.failure.is_none());
    succeeded.map(|member| member.table.as_str()).collect()
}

/// All failures, the most important one last: an undecided domain, about which the user has to do
/// something, or else the one that came first.
fn failures(names: &[String], outcome: GangOutcome) -> Vec<Failure> {
    let GangOutcome { members, failure, first } = outcome;
    let failed = |(index, (name, ended)): (usize, (&String, &Ended))| {
        let failure = Failure::from(ended.failure.as_ref()?);
        Some((Some(index), failure.context(name)))
    };
    let mut failures: Vec<_> = names.iter().zip(&members).enumerate().filter_map(failed).collect();
    failures.extend(failure.map(|failure| (None, failure)));
    failures.sort_by_key(|(member, failure)| {
        (failure.exit == Exit::Undecided, member.is_none(), *member == first)
    });
    failures.into_iter().map(|(_, failure)| failure).collect()
}
