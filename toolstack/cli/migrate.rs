//! `rxl migrate`: one domain; several, led; or one of several, as a member.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{steered_host, watch_signals};
use rxl::arguments::{Compress, Migrate};
use rxl::xl_config as config;
use rxl_core::error::{Exit, Failure};
use rxl_core::peer::Peer;
use rxl_core::state_dir::StateDir;
use rxl_core::steering::SaveFlags;
use rxl_datapath::packing::Packing;
use rxl_datapath::send::Sent;
use rxl_gang::barriers::{Outcome, Quiesce};
use rxl_gang::leader;
use rxl_gang::leader::Heard;
use rxl_gang::members::Members;
use rxl_gang::placement::{Placement, placements, targets};
use rxl_link::ssh::Route;
use rxl_report::migration::{Report, gang_json};
use rxl_report::progress;
use rxl_report::progress::Progress;
use rxl_report::progress::ProgressMode;
use rxl_session::events::Events;
use rxl_session::gang_member as member;
use rxl_session::gang_member::Member;
use rxl_session::gang_words::{Ended, Told};
use rxl_session::job::reach_agents;
use rxl_session::xl::line::Said;
use rxl_session::{source, xl};

/// How a migration ended, and its report where it began.
type Moved = (Result<(), Failure>, Option<Report>);

/// Does what the command line asks for, in the part that this process has in it.
pub fn run(options: &Migrate, member: Option<usize>) -> Result<(), Failure> {
    let all = placements(&options.places, options.ssh_command.as_deref())?;
    match (member, all.as_slice()) {
        (Some(member), all) => follow(options, all.get(member)),
        (None, [one]) => alone(options, one),
        (None, several) => lead(options, several),
    }
}

fn alone(options: &Migrate, placement: &Placement) -> Result<(), Failure> {
    let route = Route::new(options.ssh_command.as_deref(), &placement.host)?;
    let report_file = options.report.as_deref().map(ReportFile::create).transpose()?;
    let host = Arc::new(steered_host()?);
    let state = StateDir::system();
    let domain = &placement.domain;
    let (result, report) = match options.peer {
        Peer::Auto | Peer::Rxl => {
            session(options, domain, route, |request, events: &Events<Sent>, progress| {
                source::migrate(host, &state, request, events, progress)
            })
        }
        Peer::Xl => session(options, domain, route, |request, events: &Events<Said>, progress| {
            xl::source::migrate(host, &state, request, events, progress)
        }),
    }?;
    let Some(report) = report.filter(|_| !options.dry_run) else { return result };
    let text = match (options.json, &result) {
        (true, _) => report.to_json(),
        (false, Ok(())) => report.to_table(),
        (false, Err(_)) => String::new(),
    };
    print(&text);
    let written = report_file.map_or(Ok(()), |file| file.write(&report.to_json()));
    result.and(written)
}

/// Nobody may be left to read it; the migration is what it is.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Runs a session whose events are told `D`.
fn session<D: Send + 'static>(
    options: &Migrate,
    domain: &str,
    route: Route,
    session: impl FnOnce(&source::Request, &Events<D>, &mut dyn Progress) -> Moved,
) -> Result<Moved, Failure> {
    let events = Events::default();
    watch_signals(events.sender())?;
    let request = request(options, domain, route)?;
    let mut progress = progress::new(options.progress);
    Ok(session(&request, &events, progress.as_mut()))
}

/// Several domains, each moved by a process of its own.
fn lead(options: &Migrate, all: &[Placement]) -> Result<(), Failure> {
    check_several(options)?;
    let (routes, places) = targets(all, options.ssh_command.as_deref())?;
    let report_file = options.report.as_deref().map(ReportFile::create).transpose()?;
    let events: Events<Heard> = Events::default();
    watch_signals(events.sender())?;
    let quiesce = Quiesce {
        level: options.mpi_quiesce,
        dry_run: options.dry_run,
        hosts: reach_agents(options.mpi_quiesce, &routes)?,
        // The first is this one.
        targets: places.iter().map(|place| place + 1).collect(),
    };
    let program = std::env::current_exe().map_err(|e| Failure::internal("this program", &e))?;
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (members, lines) = Members::start(&program, &arguments, all.len())?;
    let names: Vec<String> = all.iter().map(|placement| placement.domain.clone()).collect();
    let outcome = leader::lead(&names, lines, quiesce, &events)?;
    drop(members);
    tell(options, report_file, &names, outcome)
}

/// What several domains cannot share.
fn check_several(options: &Migrate) -> Result<(), Failure> {
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

/// Reports on standard output and in the file; on standard error a line for each that failed, that
/// of the exit code last.
fn tell(
    options: &Migrate,
    file: Option<ReportFile>,
    names: &[String],
    outcome: Outcome,
) -> Result<(), Failure> {
    let Outcome { members, failure, first } = outcome;
    let json = gang_json(members.iter().filter_map(|member| member.report.as_ref()));
    let tables = members
        .iter()
        .filter(|member| member.failure.is_none())
        .map(|member| member.table.as_str());
    match options.json {
        _ if options.dry_run => {}
        true => print(&json),
        false => print(&tables.collect::<String>()),
    }
    let began = !options.dry_run && members.iter().any(|member| member.report.is_some());
    let written = file.filter(|_| began).map_or(Ok(()), |file| file.write(&json));
    let failed = |(member, ended): (usize, &Ended)| {
        let failure = ended.failure.as_ref().map(Failure::from)?;
        Some((Some(member), failure.context(&names[member])))
    };
    let mut failures: Vec<_> = members.iter().enumerate().filter_map(failed).collect();
    failures.extend(failure.map(|failure| (None, failure)));
    // The user has to act on an undecided one. But for that what came first tells most.
    failures.sort_by_key(|(member, failure)| {
        (failure.exit == Exit::Undecided, member.is_none(), *member == first)
    });
    let Some((_, last)) = failures.pop() else { return written };
    failures.iter().for_each(|(_, failure)| eprintln!("rxl: {failure}"));
    Err(last)
}

/// One of several. What came of it is told to the leader.
fn follow(options: &Migrate, placement: Option<&Placement>) -> Result<(), Failure> {
    let no_line = || {
        Failure::new(Exit::Usage, "--gang-member is rxl's own").next("name several domains instead")
    };
    let line = take_line().map_err(|_| no_line())?;
    let ours = line.try_clone().map_err(|e| Failure::internal("the line to the leader", &e))?;
    let (result, report) = placement
        .ok_or_else(no_line)
        .and_then(|placement| moved(options, placement, ours))
        .unwrap_or_else(|failure| (Err(failure), None));
    let report = report.filter(|_| !options.dry_run);
    let ended = Ended {
        failure: result.as_ref().err().map(Told::from),
        table: report.as_ref().map(Report::to_table).unwrap_or_default(),
        report: report.and_then(|report| serde_json::to_value(report).ok()),
    };
    // Without a leader the user is to be told here.
    member::end(line, ended).or(result)
}

fn moved(options: &Migrate, placement: &Placement, line: UnixStream) -> Result<Moved, Failure> {
    let route = Route::new(options.ssh_command.as_deref(), &placement.host)?;
    let host = Arc::new(steered_host()?);
    let events: Events<Sent> = Events::default();
    watch_signals(events.sender())?;
    let member = Member::new(line, events.sender())?;
    let request = request(options, &placement.domain, route)?;
    // Several bars would overwrite each other.
    let mode = if options.progress == ProgressMode::None {
        ProgressMode::None
    } else {
        ProgressMode::Plain
    };
    let mut progress = progress::new(mode);
    Ok(source::migrate_in_gang(
        host,
        &StateDir::system(),
        &request,
        Some(member),
        &events,
        progress.as_mut(),
    ))
}

/// The line comes as the standard input. libxl's and ssh's processes inherit that, and are not to
/// have the line.
fn take_line() -> std::io::Result<UnixStream> {
    let line = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    line.local_addr()?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    Ok(line)
}

fn request(options: &Migrate, domain: &str, route: Route) -> Result<source::Request, Failure> {
    let threads = options.compress_threads.map_or_else(Packing::default_threads, usize::from);
    Ok(source::Request {
        domain: domain.into(),
        route,
        config_json: options.config.as_deref().map(config::from_xl_file).transpose()?,
        flags: SaveFlags { live: !options.non_live, debug: options.debug },
        leave_paused: options.paused,
        preserve_domid: options.preserve_domid,
        peer: options.peer,
        no_monitor: options.no_monitor,
        dry_run: options.dry_run,
        transport: options.transport,
        connections: options.parallel_connections,
        data_address: options.data_address.clone(),
        packing: Packing {
            compress: options.compress == Compress::Zstd,
            level: options.zstd_level,
            threads,
        },
        patience: options.patience(),
        walker: options.walker,
        restorer: options.restorer,
        quiesce: options.mpi_quiesce,
        limits: options.limits(),
    })
}

/// `--report FILE`: opened before anything happens, so that a wrong path costs nothing; put in
/// place whole at the end.
struct ReportFile {
    path: PathBuf,
    unfinished: PathBuf,
    file: File,
}

impl ReportFile {
    fn create(path: &Path) -> Result<Self, Failure> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".part");
        let unfinished = PathBuf::from(unfinished);
        let file = File::create(&unfinished);
        let file = file.map_err(|e| {
            Failure::internal(format!("report {}", path.display()), &e).next("nothing was begun")
        })?;
        Ok(Self { path: path.into(), unfinished, file })
    }

    fn write(mut self, json: &str) -> Result<(), Failure> {
        let written = self.file.write_all(json.as_bytes()).and_then(|()| self.file.sync_all());
        written.and_then(|()| std::fs::rename(&self.unfinished, &self.path)).map_err(|error| {
            let what =
                format!("the report could not be written to {}: {error}", self.path.display());
            Failure::new(Exit::MovedWithWarnings, what).next("what was measured is printed above")
        })
    }
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        // Gone already when it was put in place.
        let _ = std::fs::remove_file(&self.unfinished);
    }
}
