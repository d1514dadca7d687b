//! One of several domains, in a process that another rxl started and leads.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::{Moved, request};
use crate::arguments::Migrate;
use crate::progress::{ProgressMode, display};
use crate::{hosts, signals};
use rxl_core::error::{Exit, Failure};
use rxl_core::state_dir::StateDir;
use rxl_datapath::send::Sent;
use rxl_gang::placement::Placement;
use rxl_link::ssh::Route;
use rxl_report::schema::Report;
use rxl_session::events::Events;
use rxl_session::gang_member::{self, GangMember};
use rxl_session::gang_words::{Ended, Told};
use rxl_session::rxl::source;

/// Moves the domain, and tells the leader how it ended. Where there is no leader any more, the user
/// is told here.
pub fn follow(options: &Migrate, placement: Option<&Placement>) -> Result<(), Failure> {
    name_process()?;
    let line = take_line().map_err(|_| not_started_by_rxl())?;
    let ours = line.try_clone().map_err(|e| Failure::internal("the line to the leader", &e))?;
    let (result, report) = placement
        .ok_or_else(not_started_by_rxl)
        .and_then(|placement| migrate(options, placement, ours))
        .unwrap_or_else(|failure| (Err(failure), None));
    let report = report.filter(|_| !options.dry_run);
    let ended = Ended {
        failure: result.as_ref().err().map(Told::from),
        table: report.as_ref().map_or_else(String::new, Report::to_table),
        report: report.and_then(json_value),
    };
    gang_member::end(line, ended).or(result)
}

fn json_value(report: Report) -> Option<serde_json::Value> {
    let value = serde_json::to_value(report);
    value.inspect_err(|error| tracing::error!("the report is lost: {error}")).ok()
}

/// The process was started as `/proc/self/exe`, of which the kernel made the name `exe`.
fn name_process() -> Result<(), Failure> {
    nix::sys::prctl::set_name(c"rxl").map_err(|e| Failure::internal("process name", &e.into()))
}

fn not_started_by_rxl() -> Failure {
    Failure::new(Exit::Usage, "--gang-member is rxl's own").next("name several domains instead")
}

fn migrate(options: &Migrate, placement: &Placement, line: UnixStream) -> Result<Moved, Failure> {
    let route = Route::new(options.ssh_command.as_deref(), &placement.host)?;
    let host = Arc::new(hosts::sending()?);
    let events: Events<Sent> = Events::default();
    signals::watch(events.sender())?;
    let member = Some(GangMember::new(line, events.sender())?);
    let request = request(options, &placement.domain, route)?;
    let mut progress = display(progress_mode(options));
    let (state, progress) = (StateDir::system(), progress.as_mut());
    Ok(source::migrate_in_gang(host, &state, &request, member, &events, progress))
}

/// Bars of several processes would overwrite each other.
fn progress_mode(options: &Migrate) -> ProgressMode {
    match options.progress {
        ProgressMode::None => ProgressMode::None,
        ProgressMode::Auto | ProgressMode::Plain => ProgressMode::Plain,
    }
}

/// Takes the socket to the leader, which is standard input, and puts /dev/null there: ssh and
/// libxl's children inherit standard input, and must not have the socket.
fn take_line() -> io::Result<UnixStream> {
    let line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    line.local_addr()?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    Ok(line)
}
