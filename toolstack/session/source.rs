//! The source's end of a migration.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::{Accept, Incoming, Message, Offer, StreamEnd, Transport};
use crate::data::feed::feed;
use crate::data::send::{Sender, Sent};
use crate::data::{At, Broken, Packing};
use crate::error::{Exit, Failure, one_line};
use crate::host::{
    Decision, DomId, Domain, Host, HostError, NoteKind, Operation, PrecopyStats, RunState, Save, SaveFlags, Walker,
};
use crate::io::{Cancel, Guarded, pipe};
use crate::policy::{Limits, Measured, Otherwise, Policy, Verdict, Why};
use crate::progress::{Phase, Progress};
use crate::quiesce::coordinator::Level;
use crate::remote::Route;
use crate::report::{Report, TargetSpans, Timeline};
use crate::session::check::{at_source, type_name};
use crate::session::job::{Job, reach_agents};
use crate::session::link::{Link, negotiate};
use crate::session::monitor::Monitor;
use crate::session::record::Record;
use crate::session::steering::{Desk, Question, Signals, pages_per_second};
use crate::session::{Event, Events, MIGRATED_AWAY, STALL_PATIENCE, unexpected};
use crate::state_dir::{DomainLock, StateDir};
use crate::transport::{Connections, Destination, Ticket};

/// How often progress is shown.
const TICK: Duration = Duration::from_millis(250);

/// From the end of the stream to READY: libxl's restore ends, devices are attached.
const READY_PATIENCE: Duration = Duration::from_secs(300);

/// From GO to the target's word that the domain runs.
const DONE_PATIENCE: Duration = Duration::from_secs(120);

/// How long the reason behind a broken data path may take to come.
const REASON_PATIENCE: Duration = Duration::from_secs(3);

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Name or number.
    pub domain: String,
    /// How the target is reached.
    pub route: Route,
    /// Another configuration, as libxl's JSON.
    pub config_json: Option<String>,
    /// Copy memory while the guest runs, verify it.
    pub flags: SaveFlags,
    /// Leave it paused at the target.
    pub leave_paused: bool,
    /// Keep the number.
    pub preserve_domid: bool,
    /// Only check.
    pub dry_run: bool,
    /// How data travels.
    pub transport: Transport,
    /// On how many connections.
    pub connections: u16,
    /// For TCP.
    pub data_address: Option<String>,
    /// How pages are packed.
    pub packing: Packing,
    /// Silence after which the target is dead.
    pub patience: Duration,
    /// Who walks over the memory.
    pub walker: Walker,
    /// Who of the domain's MPI job is held still meanwhile.
    pub quiesce: Level,
    /// When pre-copy ends. With [`Otherwise::Cancel`] its timeout holds until Commit.
    pub limits: Limits,
}

impl Request {
    /// When everything is cancelled.
    fn cancelled_at(&self, began: Instant) -> Option<Instant> {
        let timeout = self.limits.timeout.filter(|_| self.limits.on_timeout == Otherwise::Cancel);
        timeout.map(|timeout| began + timeout)
    }

    /// When pre-copy is cut short.
    fn forced_at(&self, began: Instant) -> Option<Instant> {
        let timeout = self.limits.timeout.filter(|_| self.limits.on_timeout == Otherwise::Force);
        timeout.map(|timeout| began + timeout)
    }
}

/// Runs a whole migration. The report tells how far it came, whatever the end.
pub fn migrate(
    host: Arc<dyn Host>,
    state: &StateDir,
    request: &Request,
    events: &Events<Sent>,
    progress: &mut dyn Progress,
) -> (Result<(), Failure>, Option<Report>) {
    let mut record = None;
    let result = Prepared::new(host, state, request, events).and_then(|prepared| {
        let id = prepared.ticket.id.to_string();
        let monitor = Monitor::start(state, Record::status(&prepared.domain, request), events.sender())?;
        let record = record.insert(Record::new(id, &prepared.domain, prepared.timeline, request, monitor));
        prepared.run(record, progress)
    });
    let report = record.map(|record| record.report(&result));
    progress.end();
    (result, report)
}

/// Connected and checked; nothing begun on either side.
struct Prepared<'a> {
    host: Arc<dyn Host>,
    request: &'a Request,
    domain: Domain,
    ticket: Ticket,
    timeline: Timeline,
    events: &'a Events<Sent>,
    link: Link,
    accept: Accept,
    job: Job,
    _lock: DomainLock,
}

impl<'a> Prepared<'a> {
    fn new(
        host: Arc<dyn Host>,
        state: &StateDir,
        request: &'a Request,
        events: &'a Events<Sent>,
    ) -> Result<Self, Failure> {
        let timeline = Timeline::start();
        let domain = host.find(&request.domain).map_err(Failure::from)?;
        let facts = host.facts().map_err(Failure::from)?;
        at_source(&domain, &facts, request.flags.live)?;
        let lock = state.lock(&format!("domain-{}", domain.domid), &domain.name)?;
        let config_json = match &request.config_json {
            Some(config) => config.clone(),
            None => host.config_json(domain.domid).map_err(|e| Failure::from(e).with_exit(Exit::Internal))?,
        };
        let agents = reach_agents(request.quiesce, &request.route)?;
        let ticket = Ticket::random().map_err(|e| Failure::internal("random numbers", &e))?;
        let mut link = Link::open(&request.route, &ticket, request.patience, events)?;
        let offer = offer(request, &domain, config_json, facts.xen_version);
        let accept = negotiate(&mut link, offer, events)?;
        let job = Job::find(request.quiesce, agents, domain.domid.0, state);
        let job = match job {
            Ok(job) => job,
            Err(failure) => {
                link.give_up(&failure.to_string(), events);
                return Err(failure);
            }
        };
        Ok(Self { host, request, domain, ticket, timeline, events, link, accept, job, _lock: lock })
    }

    fn run(self, record: &mut Record, progress: &mut dyn Progress) -> Result<(), Failure> {
        progress.show(&record.snapshot(Phase::Setup));
        if self.request.dry_run {
            progress.say(&format!(
                "{} would be migrated to {}: every check passed ({} MiB free there)",
                self.domain.name,
                self.link.host,
                self.accept.free_memory_kib / 1024
            ));
            self.link.give_up("dry run", self.events);
            return Ok(());
        }
        let mut uncommitted = self.begin(record)?;
        let ready = uncommitted.transfer(record, progress);
        let committed = match ready {
            Ok(()) => uncommitted.commit(record)?,
            Err(failure) => return Err(uncommitted.give_up(failure, record)),
        };
        progress.show(&record.snapshot(Phase::Resume));
        committed.settle(record)
    }

    /// Opens the data connections and asks libxl to save. ssh is started before libxl: libxl forks, and a descriptor that a
    /// child inherits would never see its end.
    fn begin(self, record: &mut Record) -> Result<Uncommitted<'a>, Failure> {
        let Self { host, request, domain, ticket, events, link, accept, job, _lock, .. } = self;
        let begun = start_data(&*host, request, &domain, &ticket, &accept, events, record);
        match begun {
            Ok((connections, sender, save, signals)) => Ok(Uncommitted {
                host,
                request,
                domain,
                events,
                link,
                sender,
                save: Some(save),
                signals,
                policy: Policy::new(request.limits),
                job,
                connections,
                _lock,
            }),
            Err(failure) => {
                link.give_up(&failure.to_string(), events);
                Err(failure)
            }
        }
    }
}

fn offer(request: &Request, domain: &Domain, config_json: String, xen_version: String) -> Offer {
    Offer {
        name: domain.name.clone(),
        config_json,
        guest_type: type_name(domain.guest_type).into(),
        max_memory_kib: domain.max_memory_kib,
        xen_version,
        transport: request.transport,
        connections: request.connections,
        data_address: request.data_address.clone(),
        leave_paused: request.leave_paused,
        domid: request.preserve_domid.then_some(domain.domid.0),
        dry_run: request.dry_run,
    }
}

fn start_data(
    host: &dyn Host,
    request: &Request,
    domain: &Domain,
    ticket: &Ticket,
    accept: &Accept,
    events: &Events<Sent>,
    record: &mut Record,
) -> Result<(Connections, Sender, Operation<()>, Signals), Failure> {
    let broken = |e| Failure::internal("data path", &e);
    let cancel = Cancel::new().map_err(broken)?;
    let to = Destination {
        route: &request.route,
        transport: request.transport,
        count: request.connections,
        data_address: request.data_address.as_deref(),
    };
    let mut connections = Connections::open(&to, accept, ticket, &cancel)?;
    let (reading, writing) = pipe().map_err(broken)?;
    let from_libxl = Guarded::new(reading, Cancel::new().map_err(broken)?, Some(STALL_PATIENCE)).map_err(broken)?;
    let queue = events.sender();
    let on_end = move |result| {
        let _ = queue.send(Event::Data(result));
    };
    let streams = std::mem::take(&mut connections.streams);
    let (feed, fed) = feed(record.meter.clone());
    let sender = Sender::start(from_libxl, fed, streams, cancel, request.packing, record.meter.clone(), on_end);
    let sender = sender.map_err(broken)?;
    record.timeline.saving = Some(Instant::now());
    let notes = events.notes().map_err(broken)?;
    let signals = Signals::default();
    let steering = Box::new(Desk::new(events.sender(), signals.clone()));
    let save = Save { stream: writing, flags: request.flags, walker: request.walker, notes, steering, feed };
    let save = host.save(domain.domid, save).map_err(|e| Failure::from(e).with_exit(Exit::Internal))?;
    Ok((connections, sender, save, signals))
}

/// Above the line: libxl is saving or has saved; whatever fails, the domain runs on here.
pub struct Uncommitted<'a> {
    host: Arc<dyn Host>,
    request: &'a Request,
    domain: Domain,
    events: &'a Events<Sent>,
    link: Link,
    sender: Sender,
    save: Option<Operation<()>>,
    signals: Signals,
    policy: Policy,
    job: Job,
    connections: Connections,
    _lock: DomainLock,
}

impl<'a> Uncommitted<'a> {
    /// Moves everything, until the target says READY.
    fn transfer(&mut self, record: &mut Record, progress: &mut dyn Progress) -> Result<(), Failure> {
        self.send_stream(record, progress)?;
        let Some(sent) = &record.sent else {
            return Err(Failure::new(Exit::FailedSourceRuns, "the data path ended without a result"));
        };
        let end = StreamEnd { frames: sent.frames, bytes: sent.stream_bytes, digest: sent.digest.clone() };
        self.link.control.send(Message::StreamEnd(end));
        progress.show(&record.snapshot(Phase::Ready));
        record.target = Some(self.await_ready(record.timeline.began)?);
        record.timeline.ready = Some(Instant::now());
        Ok(())
    }

    /// Until libxl has saved and the last byte is on its way.
    fn send_stream(&mut self, record: &mut Record, progress: &mut dyn Progress) -> Result<(), Failure> {
        let limit = self.request.cancelled_at(record.timeline.began);
        let mut forced = self.request.forced_at(record.timeline.began);
        let mut phase = Phase::Precopy;
        while self.save.is_some() || record.sent.is_none() {
            if limit.is_some_and(|limit| Instant::now() >= limit) {
                return Err(Failure::new(Exit::Cancelled, "cancelled, as --timeout has passed"));
            }
            if forced.take_if(|at| Instant::now() >= *at).is_some() {
                self.signals.hurry();
            }
            progress.show(&record.snapshot(phase));
            match self.events.next(Instant::now() + TICK) {
                Some(Event::Note(note)) => {
                    record.note(&note);
                    if note.what == NoteKind::Suspended {
                        phase = Phase::LastPages;
                        self.job.suspended()?;
                    }
                }
                Some(Event::Data(Ok(sent))) => record.sent(sent),
                Some(Event::Data(Err(broken))) => return Err(self.data_failure(&broken)),
                Some(Event::Asked(question)) => self.answer(question, record)?,
                Some(Event::OperationEnded) => self.saved()?,
                Some(Event::Control(Incoming::Message(Message::Restored { frames }))) => {
                    record.meter.backlog.restored(frames);
                }
                Some(Event::Control(incoming)) => self.check_control(incoming)?,
                Some(Event::Interrupt) => return Err(Failure::new(Exit::Cancelled, "cancelled")),
                None => {}
            }
        }
        Ok(())
    }

    /// The save waits for it.
    fn answer(&mut self, question: Question, record: &mut Record) -> Result<(), Failure> {
        // One that has stopped waiting fails by itself.
        match question {
            Question::Precopy(stats, reply) => {
                let (decision, result) = self.decide(&stats, record);
                let _ = reply.send(decision);
                result
            }
            Question::Suspend(reply) => {
                let ready = self.job.freeze().and_then(|_| self.job.flush());
                record.mpi = self.job.figures();
                let _ = reply.send(ready.as_ref().map(drop).map_err(ToString::to_string));
                ready
            }
        }
    }

    /// With the job frozen, one more live pass fetches what it has dirtied until now; what is left then is small.
    fn stop(&mut self) -> (Decision, Result<(), Failure>) {
        match self.job.freeze() {
            Ok(true) => (Decision::Continue, Ok(())),
            Ok(false) => (Decision::StopAndCopy, Ok(())),
            Err(failure) => (Decision::Abort, Err(failure)),
        }
    }

    fn decide(&mut self, stats: &PrecopyStats, record: &mut Record) -> (Decision, Result<(), Failure>) {
        let measured = Measured {
            rounds: stats.iteration,
            dirty: stats.dirty,
            pages_per_second: pages_per_second(&record.meter.rounds().list()),
            elapsed: record.timeline.began.elapsed(),
        };
        // A job that stands still is not kept waiting for anything better.
        let verdict = if self.job.is_frozen() {
            Verdict::Stop(record.stopped().unwrap_or(Why::BelowLimit))
        } else {
            self.policy.decide(&measured)
        };
        tracing::debug!(?measured, ?verdict, "pre-copy");
        record.judged(&measured, verdict);
        match verdict {
            Verdict::Continue => (Decision::Continue, Ok(())),
            Verdict::Stop(_) => self.stop(),
            Verdict::Cancel(why) => {
                let what = format!("cancelled: {}", why.describe());
                let failure = Failure::new(Exit::Cancelled, what)
                    .next("a longer --downtime-limit, or --on-timeout force, moves it all the same");
                (Decision::Abort, Err(failure))
            }
        }
    }

    fn saved(&mut self) -> Result<(), Failure> {
        let Some(save) = self.save.take() else { return Ok(()) };
        save.wait().map_err(|e| Failure::from(e).with_exit(Exit::FailedSourceRuns))?;
        // libxl's word is not enough: what was sent is whole only if the guest really stands still.
        match self.host.domain(self.domain.domid).map_err(Failure::from)?.state {
            RunState::Suspended => Ok(()),
            state => {
                let what = format!("libxl saved {}, yet it is {state:?}", self.domain.name);
                Err(Failure::new(Exit::FailedSourceRuns, what))
            }
        }
    }

    /// The reason behind a broken data path comes a moment later: from libxl, or over the control channel.
    fn data_failure(&mut self, broken: &Broken) -> Failure {
        let deadline = Instant::now() + REASON_PATIENCE;
        while let Some(event) = self.events.next(deadline) {
            let told = match event {
                Event::OperationEnded => self.saved(),
                Event::Control(incoming) if broken.at == At::Peer => self.check_control(incoming),
                _ => Ok(()),
            };
            if let Err(failure) = told {
                return failure;
            }
        }
        Failure::new(Exit::FailedSourceRuns, format!("data to {}: {}", self.link.host, broken.what))
    }

    fn check_control(&self, incoming: Incoming) -> Result<(), Failure> {
        let host = &self.link.host;
        let what = match incoming {
            // Sent before it had read what makes it pointless.
            Incoming::Message(Message::Restored { .. }) => return Ok(()),
            Incoming::Message(Message::Failed { reason }) => format!("{host}: {}", one_line(&reason)),
            Incoming::Message(other) => format!("{host}: {}", unexpected(&other)),
            Incoming::Lost(reason) => format!("the connection to {host} was lost ({reason})"),
        };
        Err(Failure::new(Exit::FailedSourceRuns, what))
    }

    fn await_ready(&self, began: Instant) -> Result<TargetSpans, Failure> {
        let limit = self.request.cancelled_at(began);
        let ready_by = Instant::now() + READY_PATIENCE;
        let deadline = limit.map_or(ready_by, |limit| limit.min(ready_by));
        loop {
            match self.events.next(deadline) {
                Some(Event::Control(Incoming::Message(Message::Ready(spans)))) => return Ok(spans),
                Some(Event::Control(incoming)) => self.check_control(incoming)?,
                Some(Event::Interrupt) => return Err(Failure::new(Exit::Cancelled, "cancelled")),
                Some(_) => {}
                None if limit == Some(deadline) => {
                    return Err(Failure::new(Exit::Cancelled, "cancelled, as --timeout has passed"));
                }
                None => {
                    let what = format!("{} was not ready in {} s", self.link.host, READY_PATIENCE.as_secs());
                    return Err(Failure::new(Exit::FailedSourceRuns, what));
                }
            }
        }
    }

    /// Back to where it was: the guest runs here, log-dirty is off, nothing is left at the target.
    fn give_up(mut self, failure: Failure, record: &mut Record) -> Failure {
        tracing::info!("giving up: {failure}");
        self.link.control.send(Message::Abort { reason: failure.to_string() });
        self.signals.give_up();
        // The sender goes on reading libxl's stream until its end, so that the save helper can clean up.
        self.sender.abandon();
        if let Some(save) = self.save.take()
            && let Err(error) = save.abort_and_wait()
        {
            tracing::debug!("save: {error}");
        }
        drop(self.sender);
        if let Err(error) = self.host.logdirty_off(self.domain.domid) {
            tracing::warn!("{}: log-dirty mode: {error}", self.domain.name);
        }
        let resumed = run_on(&*self.host, self.domain.domid);
        self.job.abort();
        record.mpi = self.job.figures();
        self.link.give_up(&failure.to_string(), self.events);
        drop(self.connections);
        match resumed {
            Ok(()) => Failure { what: format!("{}; {} runs on here", failure.what, self.domain.name), ..failure },
            Err(error) => Failure {
                what: format!("{}; and {} could not be resumed: {error}", failure.what, self.domain.name),
                ..failure
            }
            .next(format!("`xl list` shows its state; `xl resume {}` tries again", self.domain.name)),
        }
    }

    /// Crosses the line: the name goes, then the word.
    fn commit(mut self, record: &mut Record) -> Result<Committed<'a>, Failure> {
        let away = format!("{}{MIGRATED_AWAY}", self.domain.name);
        if let Err(error) = self.host.rename(self.domain.domid, &self.domain.name, &away) {
            return Err(self.give_up(Failure::from(error).with_exit(Exit::FailedSourceRuns), record));
        }
        // A domain that stays paused cannot be waited for.
        let agent_command = if self.request.leave_paused { None } else { self.job.hold() };
        let Self { host, request, domain, events, link, sender, job, connections, _lock, .. } = self;
        link.control.send(Message::Go { agent_command });
        record.timeline.go = Some(Instant::now());
        let leave_paused = request.leave_paused;
        Ok(Committed { host, domain, away, leave_paused, events, link, sender, job, _connections: connections, _lock })
    }
}

/// Runs a domain on that may be running or suspended.
fn run_on(host: &dyn Host, domid: DomId) -> Result<(), HostError> {
    match host.domain(domid)?.state {
        RunState::Suspended => host.resume(domid),
        _ => Ok(()),
    }
}

/// Below the line: the target has the word. The domain is not run here again unless the target itself gives it back.
pub struct Committed<'a> {
    host: Arc<dyn Host>,
    domain: Domain,
    away: String,
    leave_paused: bool,
    events: &'a Events<Sent>,
    link: Link,
    sender: Sender,
    job: Job,
    _connections: Connections,
    _lock: DomainLock,
}

impl Committed<'_> {
    fn settle(mut self, record: &mut Record) -> Result<(), Failure> {
        match self.await_answer() {
            Ok(Message::Done(spans)) => {
                record.timeline.done = Some(Instant::now());
                record.target = Some(spans);
                if self.leave_paused {
                    self.job.abort();
                } else {
                    self.job.arrived(spans.domid);
                }
                record.mpi = self.job.figures();
                self.release()
            }
            Ok(Message::GivenBack { reason }) => Err(self.take_back(&reason, record)),
            Ok(other) => Err(self.lost(&unexpected(&other), record)),
            Err(reason) => Err(self.lost(&reason, record)),
        }
    }

    /// Wherever the domain is, the rest of its job is not kept waiting for it.
    fn lost(&mut self, reason: &str, record: &mut Record) -> Failure {
        self.job.abort();
        record.mpi = self.job.figures();
        self.undecided(reason)
    }

    /// A Ctrl-C is too late here: the answer is waited for.
    fn await_answer(&self) -> Result<Message, String> {
        let deadline = Instant::now() + DONE_PATIENCE;
        loop {
            match self.events.next(deadline) {
                Some(Event::Control(Incoming::Message(Message::Restored { .. }))) => {}
                Some(Event::Control(Incoming::Message(message))) => return Ok(message),
                Some(Event::Control(Incoming::Lost(reason))) => return Err(reason),
                Some(_) => {}
                None => return Err(format!("no answer in {} s", DONE_PATIENCE.as_secs())),
            }
        }
    }

    /// The target runs it: this copy's resources are given back.
    fn release(self) -> Result<(), Failure> {
        let Self { host, domain, away, link, sender, .. } = self;
        drop(sender);
        let destroyed = host.destroy(domain.domid);
        destroyed.map_err(|error| {
            let what = format!("{} runs on {}, but its old copy here is still there: {error}", domain.name, link.host);
            Failure::new(Exit::MovedWithWarnings, what).next(format!("`xl destroy {away}`"))
        })
    }

    /// The target said that it could not run the domain and has destroyed its copy: the only one is ours.
    fn take_back(mut self, reason: &str, record: &mut Record) -> Failure {
        let failure = Failure::new(Exit::FailedSourceRuns, format!("{}: {}", self.link.host, one_line(reason)));
        let name = &self.domain.name;
        let back = self
            .host
            .rename(self.domain.domid, &self.away, name)
            .and_then(|()| self.host.logdirty_off(self.domain.domid))
            .and_then(|()| self.host.resume(self.domain.domid));
        self.job.abort();
        record.mpi = self.job.figures();
        match back {
            Ok(()) => Failure { what: format!("{}; {name} runs on here", failure.what), ..failure },
            Err(error) => {
                Failure { what: format!("{}; and taking {name} back failed: {error}", failure.what), ..failure }
                    .next(format!("`xl list`, then `xl rename {} {name}` and `xl resume {name}`", self.away))
            }
        }
    }

    fn undecided(&self, reason: &str) -> Failure {
        let (name, away, host) = (&self.domain.name, &self.away, &self.link.host);
        let what =
            format!("{host} was told to run {name} and has not answered ({reason}); the copy here is kept as {away}");
        Failure::new(Exit::Undecided, what).next(format!(
            "if {name} runs on {host}, `xl destroy {away}` here; if it is not there, `xl rename {away} {name}` and `xl resume {name}` here"
        ))
    }
}
