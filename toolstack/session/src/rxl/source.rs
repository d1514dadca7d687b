//! The source's end of a migration to a host that runs rxl: connected, checked and begun here.

use std::sync::Arc;

use crate::check::type_name;
use crate::events::{Event, Events};
use crate::gang_member::GangMember;
use crate::job::{HeldJob, TARGET, reach_agents};
use crate::outgoing::{
    Described, DomainSave, Leaving, Measurements, Observer, SavePlan, Timeout, Uncommitted,
    save_pipe,
};
use crate::record::{Record, Shown};
use crate::request::MigrationRequest;
use crate::rxl::link::{Meanwhile, TargetLink, negotiate};
use crate::rxl::outward::RxlDestination;
use rxl_core::deadlines;
use rxl_core::domain::SpecialPages;
use rxl_core::error::Failure;
use rxl_core::io::Cancel;
use rxl_core::state_dir::StateDir;
use rxl_core::steering::Restorer;
use rxl_datapath::feed::feed;
use rxl_datapath::send::{Sender, Sent};
use rxl_handover::Other;
use rxl_host::host::Host;
use rxl_link::control::{Accept, Offer};
use rxl_link::ssh::Route;
use rxl_link::transport::{Connections, Destination, Ticket};
use rxl_report::progress::{Phase, Progress};
use rxl_report::schema::Report;
use rxl_report::timeline::Timeline;

/// Runs a whole migration. The report tells how far it came, whatever the end.
pub fn migrate(
    host: Arc<dyn Host>,
    state: &StateDir,
    request: &MigrationRequest,
    events: &Events<Sent>,
    progress: &mut dyn Progress,
) -> (Result<(), Failure>, Option<Report>) {
    migrate_in_gang(host, state, request, None, events, progress)
}

/// Runs a whole migration, as a member of a gang where there is one.
pub fn migrate_in_gang(
    host: Arc<dyn Host>,
    state: &StateDir,
    request: &MigrationRequest,
    member: Option<GangMember>,
    events: &Events<Sent>,
    progress: &mut dyn Progress,
) -> (Result<(), Failure>, Option<Report>) {
    let mut record = None;
    let result = Prepared::new(&*host, state, request, member, events).and_then(|prepared| {
        let id = prepared.ticket.id.to_string();
        let domain = &prepared.leaving.domain;
        let record =
            record.insert(Record::open(id, domain, prepared.timeline, request, state, events)?);
        prepared.run(&mut Shown { record, progress })
    });
    let result = result.map_err(|failure| request.peer.advise(failure));
    let report = record.map(|record| record.report(&result));
    progress.end();
    (result, report)
}

/// Connected and checked; nothing begun on either side.
struct Prepared<'a> {
    leaving: Leaving<'a>,
    request: &'a MigrationRequest,
    ticket: Ticket,
    timeline: Timeline,
    events: &'a Events<Sent>,
    link: TargetLink,
    accept: Accept,
    job: HeldJob,
}

impl<'a> Prepared<'a> {
    fn new(
        host: &'a dyn Host,
        state: &StateDir,
        request: &'a MigrationRequest,
        member: Option<GangMember>,
        events: &'a Events<Sent>,
    ) -> Result<Self, Failure> {
        let timeline = Timeline::start();
        let mut leaving = Leaving::to_host(host, state, &request.domain, request.flags.live)?;
        if let Some(config_json) = &request.config_json {
            leaving.config_json.clone_from(config_json);
        }
        let agents = match &member {
            Some(_) => None,
            None => reach_agents(request.quiesce, std::slice::from_ref(&request.route))?,
        };
        let ticket = Ticket::random().map_err(|e| Failure::internal("random numbers", &e))?;
        let mut link = TargetLink::open(&request.route, &ticket, request.patience, events)?;
        let offer = offer(request, &leaving);
        let accept = negotiate(&mut link, offer, events)?;
        let job = match member {
            Some(member) => HeldJob::join(member, request.quiesce, &leaving.domain, events),
            None => HeldJob::find(request.quiesce, agents, &leaving.domain, TARGET),
        };
        match job {
            Ok(job) => Ok(Self { leaving, request, ticket, timeline, events, link, accept, job }),
            Err(failure) => {
                link.give_up(&failure.to_string(), events);
                Err(failure)
            }
        }
    }

    fn run(self, shown: &mut Shown<'_>) -> Result<(), Failure> {
        shown.show(Phase::Setup);
        if self.request.dry_run {
            shown.progress.say(&format!(
                "{} would be migrated to {}: every check passed ({} MiB free there)",
                self.leaving.domain.name,
                self.link.host,
                self.accept.free_memory_kib / 1024
            ));
            self.link.give_up("dry run", self.events);
            return Ok(());
        }
        let leave_paused = self.request.leave_paused;
        self.begin(shown.measured())?.hand_over(leave_paused, shown)
    }

    fn begin(
        self,
        measured: &mut Measurements,
    ) -> Result<Uncommitted<'a, RxlDestination>, Failure> {
        let Self { leaving, request, ticket, timeline, events, link, accept, job } = self;
        match start_data(leaving, job, request, (&ticket, &accept), events, measured) {
            Ok((connections, sender, save)) => {
                let destination = RxlDestination::new(link, sender, connections);
                let timeout = Timeout::new(&request.limits, timeline.began);
                Ok(Uncommitted::new(save, destination, events, timeout))
            }
            Err(failure) => {
                link.give_up(&failure.to_string(), events);
                Err(failure)
            }
        }
    }
}

fn offer(request: &MigrationRequest, leaving: &Leaving<'_>) -> Offer {
    let Leaving { domain, config_json, xen_version, .. } = leaving;
    Offer {
        name: domain.name.clone(),
        config_json: config_json.clone(),
        guest_type: type_name(domain.guest_type).into(),
        xen_version: xen_version.clone(),
        transport: request.transport,
        connections: request.connections,
        data_address: request.data_address.map(|address| address.to_string()),
        leave_paused: request.leave_paused,
        no_monitor: request.no_monitor,
        domid: request.preserve_domid.then_some(domain.domid.0),
        silence_seconds: request.patience.as_secs(),
        dry_run: request.dry_run,
        special_pages: special_pages(request, leaving),
    }
}

/// Libxc alone can verify a stream that was sent twice (`--debug`).
fn special_pages(request: &MigrationRequest, leaving: &Leaving<'_>) -> Option<SpecialPages> {
    if request.restorer == Restorer::Libxc || request.flags.debug {
        return None;
    }
    let found = leaving.host.special_pages(leaving.domain.domid);
    found.unwrap_or_else(|error| {
        tracing::warn!("{}: {error}; libxc restores it", leaving.domain.name);
        None
    })
}

/// How the target is asked later, over a fresh connection.
fn other_host(route: &Route) -> Other {
    let (host, ssh_command) = match route {
        Route::Ssh { host } => (host, None),
        Route::Command { command, host } => (host, Some(command.clone())),
        Route::Verbatim(command) => (command, Some(String::new())),
    };
    Other::Rxl { hosts: vec![host.clone()], ssh_command }
}

/// Opens the data connections and asks libxl to save. ssh is started before libxl: libxl forks, and
/// a descriptor that a child inherits would never see its end.
fn start_data<'a>(
    leaving: Leaving<'a>,
    job: HeldJob,
    request: &MigrationRequest,
    (ticket, accept): (&Ticket, &Accept),
    events: &Events<Sent>,
    measured: &mut Measurements,
) -> Result<(Connections, Sender, DomainSave<'a>), Failure> {
    let broken = |e| Failure::internal("data path", &e);
    let cancel = Cancel::new().map_err(broken)?;
    let to = Destination {
        route: &request.route,
        transport: request.transport,
        count: request.connections,
        stall: deadlines::stall(request.patience),
    };
    let mut meanwhile = Meanwhile::new(events, request.route.host());
    let mut connections = Connections::open(&to, accept, ticket, &cancel, || meanwhile.stop())?;
    drop(meanwhile);
    let (from_libxl, writing) = save_pipe().map_err(broken)?;
    let queue = events.sender();
    let on_end = move |result| {
        let _ = queue.send(Event::Data(result));
    };
    let streams = std::mem::take(&mut connections.streams);
    measured.meter.backlog.bear(to.stall);
    let (feed, fed) = feed(measured.meter.clone());
    let meter = measured.meter.clone();
    let sender = Sender::start(from_libxl, fed, streams, cancel, request.packing, meter, on_end)
        .map_err(broken)?;
    // Dropped before the thread that reads from it, which ends when it is closed.
    let writing = writing;
    let ledger = leaving.record(Described {
        id: ticket.id.to_string(),
        other: other_host(&request.route),
        leave_paused: request.leave_paused,
        no_monitor: request.no_monitor,
        asking: request.asking.clone(),
    })?;
    let plan =
        SavePlan { flags: request.flags, walker: request.walker, limits: Some(request.limits) };
    let save = DomainSave::start(leaving, job, plan, ledger, (writing, feed), events, measured)?;
    Ok((connections, sender, save))
}
