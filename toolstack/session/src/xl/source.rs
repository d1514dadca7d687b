//! The sender's end, with stock xl at the other: `rxl migrate --peer xl`.

use std::sync::Arc;

use migrate_stream::writer;

use crate::events::{Event, Events};
use crate::job::HeldJob;
use crate::outgoing::{
    Described, DomainSave, Leaving, Measurements, Observer, SavePlan, Timeout, Uncommitted,
    save_pipe,
};
use crate::record::{Record, Shown};
use crate::request::MigrationRequest;
use crate::xl::line::{Line, Said};
use crate::xl::outward::XlDestination;
use rxl_core::domain::{Domain, RestoreAs};
use rxl_core::domain_config::DomainConfig;
use rxl_core::error::{Exit, Failure};
use rxl_core::io::Cancel;
use rxl_core::level::Level;
use rxl_core::peer::Transport;
use rxl_core::state_dir::StateDir;
use rxl_datapath::feed::feed;
use rxl_datapath::plain::Copier;
use rxl_handover::Other;
use rxl_host::host::Host;
use rxl_link::ssh::{Route, XL_RECEIVER};
use rxl_link::transport::Ticket;
use rxl_report::progress::{Phase, Progress};
use rxl_report::schema::Report;
use rxl_report::timeline::Timeline;

/// Runs a whole migration. The report tells how far it came, whatever the end.
pub fn migrate(
    host: Arc<dyn Host>,
    state: &StateDir,
    request: &MigrationRequest,
    events: &Events<Said>,
    progress: &mut dyn Progress,
) -> (Result<(), Failure>, Option<Report>) {
    let mut record = None;
    let result = Prepared::new(&*host, state, request, events).and_then(|prepared| {
        let id = prepared.id.clone();
        let domain = &prepared.leaving.domain;
        let record =
            record.insert(Record::open(id, domain, prepared.timeline, request, state, events)?);
        prepared.run(&mut Shown { record, progress })
    });
    let report = record.map(|record| record.report(&result));
    progress.end();
    (result, report)
}

/// What xl's protocol has no place for is refused, rather than left out.
fn check_request(request: &MigrationRequest) -> Result<(), Failure> {
    let refused = |what: &str, next: &str| Err(Failure::new(Exit::Usage, what).next(next));
    if request.quiesce != Level::Off {
        return refused(
            "--peer xl cannot quiesce an MPI job",
            "without --mpi-quiesce the job stalls, and goes on over TCP",
        );
    }
    if request.transport != Transport::Ssh || request.connections != 1 {
        return refused(
            "--peer xl has one connection, over ssh",
            "leave --transport and --parallel-connections out",
        );
    }
    if request.leave_paused && matches!(request.route, Route::Verbatim(_)) {
        return refused(
            "-s '' leaves no place for -p",
            "write it into the command: `xl migrate-receive -p`",
        );
    }
    Ok(())
}

/// As xl itself asks for a receiver (xl_migrate.c: main_migrate).
fn receiver(request: &MigrationRequest) -> String {
    if let Route::Verbatim(_) = request.route {
        return XL_RECEIVER.into();
    }
    let option = |asked: bool, option: &'static str| if asked { option } else { "" };
    let (e, d, p) = (
        option(request.no_monitor, " -e"),
        option(request.flags.debug, " -d"),
        option(request.leave_paused, " -p"),
    );
    format!("{XL_RECEIVER}{e}{d}{p}")
}

/// Header and configuration. The receiver takes name and number from that.
fn announcement(leaving: &Leaving<'_>, preserve_domid: bool) -> Result<Vec<u8>, Failure> {
    let wrong = |what: String| {
        Failure::new(Exit::Internal, format!("the configuration of {} {what}", leaving.domain.name))
    };
    let mut config =
        DomainConfig::parse(&leaving.config_json).map_err(|error| wrong(error.to_string()))?;
    let Domain { name, domid, .. } = &leaving.domain;
    let restore_as = RestoreAs { name: name.clone(), domid: preserve_domid.then_some(*domid) };
    config.restore_as(&restore_as).map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    writer::xl_header(&mut bytes, &config.to_string()).map_err(|e| wrong(e.to_string()))?;
    Ok(bytes)
}

/// Connected and checked; nothing begun on either side.
struct Prepared<'a> {
    leaving: Leaving<'a>,
    request: &'a MigrationRequest,
    timeline: Timeline,
    events: &'a Events<Said>,
    announcement: Vec<u8>,
    line: Line,
    id: String,
}

impl<'a> Prepared<'a> {
    fn new(
        host: &'a dyn Host,
        state: &StateDir,
        request: &'a MigrationRequest,
        events: &'a Events<Said>,
    ) -> Result<Self, Failure> {
        let timeline = Timeline::start();
        check_request(request)?;
        let mut leaving = Leaving::to_host(host, state, &request.domain, request.flags.live)?;
        if let Some(config_json) = &request.config_json {
            leaving.config_json.clone_from(config_json);
        }
        let announcement = announcement(&leaving, request.preserve_domid)?;
        let ticket = Ticket::random().map_err(|e| Failure::internal("random numbers", &e))?;
        let line = Line::open(&request.route, &receiver(request), events)?;
        let id = ticket.id.to_string();
        Ok(Self { leaving, request, timeline, events, announcement, line, id })
    }

    fn run(self, shown: &mut Shown<'_>) -> Result<(), Failure> {
        shown.show(Phase::Setup);
        if self.request.dry_run {
            let (name, host) = (&self.leaving.domain.name, &self.line.host);
            shown.progress.say(&format!(
                "{name} would be migrated to {host}: every check here passed, and xl answers there"
            ));
            self.line.wind_up(self.events);
            return Ok(());
        }
        let leave_paused = self.request.leave_paused;
        self.begin(shown.measured())?.hand_over(leave_paused, shown)
    }

    fn begin(self, measured: &mut Measurements) -> Result<Uncommitted<'a, XlDestination>, Failure> {
        let Self { leaving, request, timeline, events, announcement, mut line, id } = self;
        line.say(&announcement)?;
        match start_data(leaving, request, &line, id, events, measured) {
            Ok((copier, save)) => {
                let destination = XlDestination::new(line, copier);
                let timeout = Timeout::new(&request.limits, timeline.began);
                Ok(Uncommitted::new(save, destination, events, timeout))
            }
            Err(failure) => {
                line.wind_up(events);
                Err(failure)
            }
        }
    }
}

fn start_data<'a>(
    leaving: Leaving<'a>,
    request: &MigrationRequest,
    line: &Line,
    id: String,
    events: &Events<Said>,
    measured: &mut Measurements,
) -> Result<(Copier, DomainSave<'a>), Failure> {
    let broken = |e| Failure::internal("data path", &e);
    let cancel = Cancel::new().map_err(broken)?;
    let to = line.sending(cancel.clone()).map_err(broken)?;
    let (from_libxl, writing) = save_pipe().map_err(broken)?;
    let queue = events.sender();
    let on_end = move |result: Result<_, _>| {
        let _ = queue.send(Event::Data(result.map(Said::Copied)));
    };
    let (feed, fed) = feed(measured.meter.clone());
    let meter = measured.meter.clone();
    let copier = Copier::start(from_libxl, fed, to, cancel, meter, on_end).map_err(broken)?;
    // Dropped before the thread that reads from it, which ends when it is closed.
    let writing = writing;
    let plan =
        SavePlan { flags: request.flags, walker: request.walker, limits: Some(request.limits) };
    let job = HeldJob::none();
    let ledger = leaving.record(Described {
        id,
        other: Other::Xl { host: Some(line.host.clone()) },
        leave_paused: request.leave_paused,
        no_monitor: request.no_monitor,
        asking: request.asking.clone(),
    })?;
    let save = DomainSave::start(leaving, job, plan, ledger, (writing, feed), events, measured)?;
    Ok((copier, save))
}
