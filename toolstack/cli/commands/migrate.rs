//! `rxl migrate`: moves one domain by itself; several as the leader of one process for each; or one
//! of several as such a process.

mod leader;
mod member;

use std::sync::Arc;

use crate::arguments::{Compress, Migrate};
use crate::progress::display;
use crate::report_file::ReportFile;
use crate::{hosts, signals, standard_io, xl_config};
use rxl_core::error::{Exit, Failure};
use rxl_core::peer::Peer;
use rxl_core::state_dir::StateDir;
use rxl_core::steering::SaveFlags;
use rxl_datapath::packing::Packing;
use rxl_datapath::send::Sent;
use rxl_gang::placement::{Placement, placements};
use rxl_link::ssh::Route;
use rxl_link::transport::resolve;
use rxl_recover::Asking;
use rxl_report::progress::Progress;
use rxl_report::schema::Report;
use rxl_session::events::Events;
use rxl_session::request::MigrationRequest;
use rxl_session::rxl::source;
use rxl_session::xl;
use rxl_session::xl::line::Said;

/// How a migration ended, and its report if it began.
type Moved = (Result<(), Failure>, Option<Report>);

/// Runs the command. `member` is the index of this process's domain where another rxl leads.
pub fn run(options: &Migrate, member: Option<usize>) -> Result<(), Failure> {
    let all = placements(&options.places, options.ssh_command.as_deref())?;
    match (member, all.as_slice()) {
        (Some(index), all) => member::follow(options, all.get(index)),
        (None, [one]) => alone(options, one),
        (None, several) => leader::lead(options, several),
    }
}

fn alone(options: &Migrate, placement: &Placement) -> Result<(), Failure> {
    let route = Route::new(options.ssh_command.as_deref(), &placement.host)?;
    let report_file = options.report.as_deref().map(ReportFile::create).transpose()?;
    let (result, report) = migrate_one(options, &placement.domain, route)?;
    let Some(report) = report.filter(|_| !options.dry_run) else { return result };
    let json = match report.to_json() {
        Ok(json) => json,
        Err(error) => return result.and(Err(report_lost(error))),
    };
    match (options.json, &result) {
        (true, _) => standard_io::print(&json),
        (false, Ok(())) => standard_io::print(&report.to_table()),
        (false, Err(_)) => {}
    }
    let written = report_file.map_or(Ok(()), |file| file.write(&json));
    result.and(written)
}

fn report_lost(error: serde_json::Error) -> Failure {
    let what = format!("the report could not be made: {error}");
    Failure::new(Exit::MovedWithWarnings, what).caused_by(error)
}

fn migrate_one(options: &Migrate, domain: &str, route: Route) -> Result<Moved, Failure> {
    let host = Arc::new(hosts::sending()?);
    let state = StateDir::system();
    match options.peer {
        Peer::Auto | Peer::Rxl => {
            session(options, domain, route, |request, events: &Events<Sent>, progress| {
                source::migrate(host, &state, request, events, progress)
            })
        }
        Peer::Xl => session(options, domain, route, |request, events: &Events<Said>, progress| {
            xl::source::migrate(host, &state, request, events, progress)
        }),
    }
}

/// Runs a session. `D` is what the session's data connection reports through its events.
fn session<D: Send + 'static>(
    options: &Migrate,
    domain: &str,
    route: Route,
    session: impl FnOnce(&MigrationRequest, &Events<D>, &mut dyn Progress) -> Moved,
) -> Result<Moved, Failure> {
    let events = Events::default();
    signals::watch(events.sender())?;
    let request = request(options, domain, route)?;
    let mut progress = display(options.progress);
    Ok(session(&request, &events, progress.as_mut()))
}

fn request(options: &Migrate, domain: &str, route: Route) -> Result<MigrationRequest, Failure> {
    let threads = options.compress_threads.map_or_else(Packing::default_threads, usize::from);
    Ok(MigrationRequest {
        domain: domain.into(),
        route,
        config_json: options.config.as_deref().map(xl_config::to_json).transpose()?,
        flags: SaveFlags { live: !options.non_live, debug: options.debug },
        leave_paused: options.paused,
        preserve_domid: options.preserve_domid,
        peer: options.peer,
        no_monitor: options.no_monitor,
        dry_run: options.dry_run,
        transport: options.transport,
        connections: options.parallel_connections,
        data_address: options.data_address.as_deref().map(resolve).transpose()?,
        packing: Packing {
            compress: options.compress == Compress::Zstd,
            level: options.zstd_level,
            threads,
        },
        patience: options.longest_silence(),
        walker: options.walker,
        restorer: options.restorer,
        quiesce: options.mpi_quiesce,
        asking: Asking::default(),
        limits: options.limits(),
    })
}
